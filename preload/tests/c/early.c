/* A library that, like many, registers fork handlers when it is loaded, before the allocator's own constructors. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What the handlers do: one of these letters. */
char early_work;
/* Before the fork, after it in the parent, in the child. */
int early_calls[3], early_refused[3];
pthread_mutex_t early_mutex = PTHREAD_MUTEX_INITIALIZER;

static void *allocate(void *argument) {
    static const size_t sizes[] = {24, 200, 3000, 20000, 40000, 300000, 3000000};
    int when = *(int *)argument;
    for (int i = 0; i < 7; i++) {
        early_calls[when]++;
        char *block = malloc(sizes[i]);
        if (block)
            memset(block, 1, sizes[i]);
        else
            early_refused[when]++;
        free(block);
    }
    return NULL;
}

static void work(int when) {
    pthread_t thread;
    switch (early_work) {
    case 'a':
        allocate(&when);
        break;
    case 'j':
        if (pthread_create(&thread, NULL, allocate, &when) != 0 || pthread_join(thread, NULL) != 0)
            early_refused[when]++;
        break;
    case 'm':
        if (when == 0)
            pthread_mutex_lock(&early_mutex);
        allocate(&when);
        if (when != 0)
            pthread_mutex_unlock(&early_mutex);
        break;
    }
}

static void before(void) { work(0); }
static void in_parent(void) { work(1); }
static void in_child(void) { work(2); }

__attribute__((constructor)) static void load(void) {
    pthread_atfork(before, in_parent, in_child);
}
