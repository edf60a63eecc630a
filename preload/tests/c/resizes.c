/* realloc and malloc_usable_size, each check in three processes: where nothing is sampled, where every allocation
 * is, and where some are. */
#include "check.h"

#include <sys/resource.h>
#include <sys/wait.h>

static int is_sampled_always(void) { return strcmp(getenv("SLACKWATER_PROFILE_RATE_BYTES"), "1") == 0; }

/* Runs `body`, the check of this name, as said above. */
static void at_every_rate(const char *name, void (*body)(void)) {
    static const char *rates[] = {"0", "1", "4K"};
    if (getenv("RESIZES_AT_RATE")) {
        body();
        return;
    }
    for (size_t i = 0; i < COUNT(rates); i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(setenv("RESIZES_AT_RATE", "1", 1) == 0);
            CHECK(setenv("SLACKWATER_PROFILE_RATE_BYTES", rates[i], 1) == 0);
            CHECK(setenv("SLACKWATER_PROFILE_EPOCH_SAMPLES", "4000000000", 1) == 0);
            execl("/proc/self/exe", "resizes", name, (char *)NULL);
            CHECK(0, "exec: %d", errno);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "rate %s: %#x", rates[i], status);
    }
}

/* realloc to `to` bytes of a block that was filled with `from`; all of it is filled then. */
static void *resized(void *block, size_t from, size_t to, unsigned seed) {
    size_t kept = from < to ? from : to;
    errno = 77;
    void *moved = realloc(block, to);
    CHECK(moved && aligned(moved, 16), "%zu to %zu: %p", from, to, moved);
    CHECK(errno == 77, "%zu to %zu: %d", from, to, errno);
    CHECK(malloc_usable_size(moved) >= to, "%zu of %zu", malloc_usable_size(moved), to);
    CHECK(holds_part(moved, kept, from, seed), "%zu to %zu", from, to);
    fill(moved, to, seed);
    return moved;
}

static void grow_and_shrink(void) {
    for (unsigned step = 1; step < 2000; step = step * 3 + 1) {
        size_t size = 1, end = 30 * (size_t)step + 300;
        void *block = malloc(size);
        fill(block, size, step);
        for (; size < end; size += step)
            block = resized(block, size, size + step, step);
        for (; size > step; size -= step)
            block = resized(block, size, size - step, step);
        free(block);
    }
}

static void blocks_grow_and_shrink_in_steps(void) { at_every_rate(__func__, grow_and_shrink); }

static void to_and_fro(void) {
    for (size_t i = 0; i < COUNT(kind_sizes) && kind_sizes[i] <= MIB; i++)
        for (size_t k = 0; k < COUNT(kind_sizes) && kind_sizes[k] <= MIB; k++) {
            void *block = malloc(kind_sizes[i]);
            fill(block, kind_sizes[i], 5);
            for (int round = 0; round < 3; round++) {
                block = resized(block, kind_sizes[i], kind_sizes[k], 5);
                block = resized(block, kind_sizes[k], kind_sizes[i], 5);
            }
            free(block);
        }
}

static void blocks_go_to_and_fro_between_all_sizes(void) { at_every_rate(__func__, to_and_fro); }

static void grow_aligned(void) {
    for (size_t align = 8; align <= 128 * KIB; align *= 2)
        for (size_t size = 1; size < 40 * KIB; size = size * 3 / 2 + 7) {
            void *block = NULL;
            CHECK(posix_memalign(&block, align, size) == 0 && aligned(block, align));
            fill(block, size, 9);
            for (size_t more = 1; more < size; more *= 3)
                block = resized(block, size + more / 3, size + more, 9);
            free(block);
        }
}

static void aligned_blocks_grow(void) { at_every_rate(__func__, grow_aligned); }

static void clear_and_grow(void) {
    for (size_t size = 1; size < 100 * KIB; size = size * 5 / 4 + 3) {
        char *block = calloc(size, 1);
        CHECK(all_zero(block, size));
        block = reallocarray(block, size + 5, 2);
        CHECK(all_zero(block, size), "%zu", size);
        memset(block, 1, (size + 5) * 2);
        free(block);
    }
}

static void zeros_are_kept(void) { at_every_rate(__func__, clear_and_grow); }

/* A block that is a sample moves once, to where there is room for its class, and costs nothing then. */
static void grow_within_a_class(void) {
    static const size_t classes[][2] = {{17, 32}, {257, 288}, {3585, 4096}, {7169, 8192}, {14337, 16384}, {28673, 32768}};
    for (size_t i = 0; i < COUNT(classes); i++) {
        size_t size = classes[i][0], moves = 0;
        char *block = malloc(size);
        CHECK(!is_sampled_always() || malloc_usable_size(block) == size, "%zu of %zu", malloc_usable_size(block), size);
        struct rusage before, after;
        for (; size < classes[i][1]; size++) {
            char *moved = realloc(block, size + 1);
            moves += moved != block;
            block = moved;
            memset(block, 7, size + 1);
            CHECK(malloc_usable_size(block) >= size + 1);
            if (size == classes[i][0])
                CHECK(getrusage(RUSAGE_SELF, &before) == 0);
        }
        CHECK(getrusage(RUSAGE_SELF, &after) == 0);
        CHECK(moves <= 1, "%zu moves up to %zu", moves, size);
        long faults = after.ru_minflt - before.ru_minflt;
        CHECK(faults < 20, "%ld faults up to %zu", faults, size);
        CHECK(malloc_usable_size(block) == size, "%zu of %zu", malloc_usable_size(block), size);
        for (; size > classes[i][0]; size--)
            CHECK(realloc(block, size - 1) == block, "down to %zu", size - 1);
        free(block);
    }
}

static void within_a_class_blocks_move_once_at_most(void) { at_every_rate(__func__, grow_within_a_class); }

enum { HANDED = 64, ROUNDS = 200 };

static void *grow_and_hand_on(void *argument) {
    void **blocks = argument;
    for (size_t i = 0; i < HANDED; i++)
        blocks[i] = resized(blocks[i], 100 * i + 1, 100 * i + 20, (unsigned)i);
    return NULL;
}

static void *shrink_and_free(void *argument) {
    void **blocks = argument;
    for (size_t i = 0; i < HANDED; i++)
        free(resized(blocks[i], 100 * i + 20, 50 * i + 1, (unsigned)i));
    return NULL;
}

static void hand_on(void) {
    void *blocks[HANDED];
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < HANDED; i++) {
            blocks[i] = malloc(100 * i + 1);
            fill(blocks[i], 100 * i + 1, (unsigned)i);
        }
        join(start(grow_and_hand_on, blocks));
        join(start(shrink_and_free, blocks));
    }
}

static void other_threads_resize_and_free(void) { at_every_rate(__func__, hand_on); }

/* What cannot be had leaves the block as it was, sample or not. */
static void ask_for_too_much(void) {
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 15, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX, (size_t)1 << 46};
    for (size_t i = 0; i < COUNT(kind_sizes) && kind_sizes[i] <= MIB; i++) {
        void *block = malloc(kind_sizes[i]);
        fill(block, kind_sizes[i], 4);
        for (size_t k = 0; k < COUNT(sizes); k++) {
            errno = 0;
            void *volatile none = realloc(block, sizes[k]);
            CHECK(none == NULL && errno == ENOMEM, "%zu to %zu: %d", kind_sizes[i], sizes[k], errno);
            CHECK(holds(block, kind_sizes[i], 4));
        }
        CHECK(realloc(block, 0) == NULL);
    }
}

static void refused_sizes_leave_the_block_alone(void) { at_every_rate(__func__, ask_for_too_much); }

static const struct check checks[] = {
    {"blocks_grow_and_shrink_in_steps", blocks_grow_and_shrink_in_steps},
    {"blocks_go_to_and_fro_between_all_sizes", blocks_go_to_and_fro_between_all_sizes},
    {"aligned_blocks_grow", aligned_blocks_grow},
    {"zeros_are_kept", zeros_are_kept},
    {"within_a_class_blocks_move_once_at_most", within_a_class_blocks_move_once_at_most},
    {"other_threads_resize_and_free", other_threads_resize_and_free},
    {"refused_sizes_leave_the_block_alone", refused_sizes_leave_the_block_alone},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
