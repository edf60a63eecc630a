/* Memory that runs out: NULL and ENOMEM while it is out, full service once some came back. Each check sets its limit
 * and starts the program anew under it. */
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* Returns in the new image, with the limit in force; the first image never returns. */
static void under_limit(const char *check, int resource, size_t bytes) {
    static const char marker[] = "SLACKWATER_CHECK_LIMITED";
    if (getenv(marker))
        return;
    struct rlimit limit = {bytes, bytes};
    CHECK(setrlimit(resource, &limit) == 0);
    CHECK(setenv(marker, "1", 1) == 0);
    execl("/proc/self/exe", "limits", check, (char *)NULL);
    CHECK(0, "exec: %d", errno);
}

struct link {
    struct link *next;
    size_t size;
};

/* Takes blocks until there are no more; returns how many. The chain is in the blocks themselves. */
static size_t take_all(struct link **chain, size_t size) {
    size_t count = 0;
    for (;;) {
        errno = 0;
        struct link *block = malloc(size);
        if (!block) {
            CHECK(errno == ENOMEM, "%d after %zu blocks", errno, count);
            return count;
        }
        fill(block + 1, size - sizeof *block, (unsigned)size);
        block->next = *chain;
        block->size = size;
        *chain = block;
        count++;
        CHECK(count * size < 4096 * MIB, "the limit is not in force");
    }
}

static void give_all(struct link **chain) {
    while (*chain) {
        struct link *block = *chain;
        *chain = block->next;
        CHECK(holds(block + 1, block->size - sizeof *block, (unsigned)block->size));
        free(block);
    }
}

static void exhaust_and_recover(size_t size, size_t limit) {
    struct link *chain = NULL;
    size_t first = take_all(&chain, size);
    CHECK(first * size >= limit / 4, "only %zu of %zu bytes", first * size, limit);
    /* Out of memory, every way of asking says so and takes nothing away. */
    void *aligned_block = &chain;
    CHECK(posix_memalign(&aligned_block, 64, limit) == ENOMEM && aligned_block == &chain);
    errno = 0;
    CHECK(calloc(limit, 1) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(realloc(chain, limit) == NULL && errno == ENOMEM);
    CHECK(holds(chain + 1, size - sizeof *chain, (unsigned)size));
    give_all(&chain);
    size_t second = take_all(&chain, size);
    CHECK(second >= first * 3 / 4, "%zu blocks, then %zu", first, second);
    give_all(&chain);
    /* What small blocks held serves large ones, and the other way round. */
    malloc_trim(0);
    size_t other = size > 64 * KIB ? 100 : 8 * MIB;
    size_t third = take_all(&chain, other);
    CHECK(third * other >= first * size / 2, "%zu of %zu, then %zu of %zu", first, size, third,
          other);
    give_all(&chain);
    void *block = malloc(size);
    CHECK(block);
    free(block);
}

static void address_space_runs_out_by_megabytes(void) {
    under_limit(__func__, RLIMIT_AS, 512 * MIB);
    exhaust_and_recover(MIB, 512 * MIB);
}

static void address_space_runs_out_by_small_blocks(void) {
    under_limit(__func__, RLIMIT_AS, 256 * MIB);
    exhaust_and_recover(256, 256 * MIB);
}

static void address_space_runs_out_by_pages(void) {
    under_limit(__func__, RLIMIT_AS, 256 * MIB);
    exhaust_and_recover(3000, 256 * MIB);
}

static void data_runs_out(void) {
    under_limit(__func__, RLIMIT_DATA, 256 * MIB);
    exhaust_and_recover(20000, 256 * MIB);
}

/* Of sampled blocks nothing can be used but what was asked for. */
static void what_ran_out_is_sampled_again(void) {
    CHECK(setenv("SLACKWATER_PROFILE_RATE_BYTES", "1", 1) == 0);
    under_limit(__func__, RLIMIT_AS, 256 * MIB);
    struct link *chain = NULL;
    take_all(&chain, 30000);
    CHECK(malloc(30000) == NULL);
    give_all(&chain);
    size_t sampled = 0;
    for (int i = 0; i < 1000; i++) {
        void *block = malloc(30000);
        CHECK(block);
        sampled += malloc_usable_size(block) == 30000;
        free(block);
    }
    CHECK(sampled > 0);
}

static void *exhaust_in_thread(void *argument) {
    struct link *chain = NULL;
    size_t size = (size_t)(uintptr_t)argument;
    for (int round = 0; round < 2; round++) {
        take_all(&chain, size);
        give_all(&chain);
    }
    return NULL;
}

static void threads_run_out_together(void) {
    under_limit(__func__, RLIMIT_AS, 256 * MIB);
    static const size_t sizes[] = {400, 4000, 40000, 400000};
    pthread_t threads[COUNT(sizes)];
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 256 * KIB) == 0);
    for (size_t i = 0; i < COUNT(sizes); i++)
        CHECK(pthread_create(&threads[i], &attributes, exhaust_in_thread,
                             (void *)(uintptr_t)sizes[i]) == 0);
    for (size_t i = 0; i < COUNT(sizes); i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    exhaust_and_recover(10000, 128 * MIB);
}

static void *allocate_in_thread(void *argument) {
    for (size_t i = 0; i < COUNT(kind_sizes) && kind_sizes[i] <= MIB; i++) {
        void *block = malloc(kind_sizes[i]);
        CHECK(block, "size %zu", kind_sizes[i]);
        fill(block, kind_sizes[i], 1);
        CHECK(holds(block, kind_sizes[i], 1));
        free(block);
    }
    return argument;
}

/* The arena must not take every address there is: threads and mappings need theirs. */
static void a_low_limit_leaves_room_for_others(void) {
    under_limit(__func__, RLIMIT_AS, 256 * MIB);
    void *block = malloc(MIB);
    CHECK(block);
    void *mapping = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED, "%d", errno);
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, allocate_in_thread, NULL) == 0, "thread %d", i);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    free(block);
}

static void a_very_low_limit_still_serves(void) {
    under_limit(__func__, RLIMIT_AS, 48 * MIB);
    for (int round = 0; round < 100; round++) {
        void *blocks[64];
        for (size_t i = 0; i < COUNT(blocks); i++) {
            blocks[i] = malloc(1 + i * 1000);
            CHECK(blocks[i], "round %d, block %zu", round, i);
            fill(blocks[i], 1 + i * 1000, 1);
        }
        for (size_t i = 0; i < COUNT(blocks); i++) {
            CHECK(holds(blocks[i], 1 + i * 1000, 1));
            free(blocks[i]);
        }
    }
    void *block = malloc(4 * MIB);
    CHECK(block);
    fill(block, 4 * MIB, 1);
    free(block);
}

static const struct check checks[] = {
    {"address_space_runs_out_by_megabytes", address_space_runs_out_by_megabytes},
    {"address_space_runs_out_by_small_blocks", address_space_runs_out_by_small_blocks},
    {"address_space_runs_out_by_pages", address_space_runs_out_by_pages},
    {"data_runs_out", data_runs_out},
    {"what_ran_out_is_sampled_again", what_ran_out_is_sampled_again},
    {"threads_run_out_together", threads_run_out_together},
    {"a_low_limit_leaves_room_for_others", a_low_limit_leaves_room_for_others},
    {"a_very_low_limit_still_serves", a_very_low_limit_still_serves},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
