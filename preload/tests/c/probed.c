/* What the static probes are watched in: waits for a line, works with sizes that the test knows, prints where
 * its large block was, and waits for the end of its input. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS = 4000, BLOCK_BYTES = 1000, LARGE_BYTES = 1 << 20, LAST_BYTES = 32 << 10 };

static void *blocks[BLOCKS];
static pthread_barrier_t has_cache;

/* Leaves blocks in its cache and does nothing more. */
static void *rest(void *unused) {
    (void)unused;
    /* Often enough that not all of them are sampled: those are in no cache. */
    for (int i = 0; i < 100; i++)
        free(malloc(BLOCK_BYTES * 2));
    pthread_barrier_wait(&has_cache);
    for (;;)
        pause();
}

int main(void) {
    char go;
    if (write(1, "ready\n", 6) != 6 || read(0, &go, 1) != 1)
        return 1;
    /* Tracers keep a buffer for each processor: from one, events come in their order. */
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        return 1;
    pthread_t resting;
    pthread_barrier_init(&has_cache, NULL, 2);
    if (pthread_create(&resting, NULL, rest, NULL) != 0)
        return 1;
    pthread_barrier_wait(&has_cache);
    for (int i = 0; i < BLOCKS; i++)
        memset(blocks[i] = malloc(BLOCK_BYTES), 1, BLOCK_BYTES);
    void *large = malloc(LARGE_BYTES);
    memset(large, 1, LARGE_BYTES);
    size_t place = (size_t)large;
    free(large);
    /* Of the second half one in eight stays: its spans do, and their other pages are given back as well. */
    for (int i = 0; i < BLOCKS; i++)
        if (i < BLOCKS / 2 || i % 8 != 0)
            free(blocks[i]);
    malloc_trim(0);
    /* The last there is to see; often enough that not all of them are sampled. */
    for (int i = 0; i < 100; i++)
        free(malloc(LAST_BYTES));
    printf("%zu\n", place);
    fflush(stdout);
    while (read(0, &go, 1) > 0) {}
    return 0;
}
