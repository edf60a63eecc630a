/* What a program must not do. Each check does one such thing, which must end the process with a
 * report; one that gets to its end has gone unseen. */
#include "check.h"

#include <sys/resource.h>

/* The compiler knows what free() means and warns of, or drops, what these checks are about. */
static void (*volatile release)(void *) = free;
static void *(*volatile resize)(void *, size_t) = realloc;

static void *block_of(size_t size) {
    char *block = malloc(size);
    CHECK(block);
    memset(block, 1, size);
    return block;
}

/* The thread's cache holds the pointer twice; it shows when the cache is emptied. */
static void twice(size_t size) {
    void *neighbour = block_of(size);
    void *block = block_of(size);
    release(block);
    release(block);
    malloc_trim(0);
    release(neighbour);
}

static void double_free_of_small(void) { twice(64); }
static void double_free_of_sub4k(void) { twice(3000); }
static void double_free_of_medium(void) { twice(20000); }
static void double_free_of_large(void) { twice(300000); }
static void double_free_of_several_segments(void) { twice(9 * MIB); }

/* The block is long back in its span, or the span is gone, when the second free comes. */
static void double_free_much_later(void) {
    enum { BLOCKS = 20000 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = block_of(200);
    void *twice_freed = blocks[BLOCKS / 2];
    for (int i = 0; i < BLOCKS; i++)
        release(blocks[i]);
    malloc_trim(0);
    release(twice_freed);
    malloc_trim(0);
}

/* Its neighbours keep the span alive. */
static void double_free_in_a_live_span(void) {
    enum { BLOCKS = 20000 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = block_of(200);
    for (int i = 0; i < BLOCKS; i += 2)
        release(blocks[i]);
    malloc_trim(0);
    release(blocks[BLOCKS / 2]);
    malloc_trim(0);
}

static void misaligned_small(void) {
    release((char *)block_of(64) + 8);
    malloc_trim(0);
}

static void middle_of_small(void) {
    release((char *)block_of(1000) + 496);
    malloc_trim(0);
}

static void middle_of_medium(void) {
    release((char *)block_of(20000) + 4096);
    malloc_trim(0);
}

static void middle_of_large(void) {
    release((char *)block_of(300000) + 8 * PAGE);
    malloc_trim(0);
}

static void start_of_large_plus_sixteen(void) {
    release((char *)block_of(300000) + 16);
    malloc_trim(0);
}

static void middle_of_several_segments(void) {
    release((char *)block_of(9 * MIB) + 4 * MIB);
    malloc_trim(0);
}

/* Far behind everything handed out so far, but where the arena still is. */
static void wild_pointer_in_the_arena(void) {
    uintptr_t segment = (uintptr_t)block_of(64) & ~(uintptr_t)(2 * MIB - 1);
    release((void *)(segment + 2 * MIB - 65536 + 64));
    malloc_trim(0);
}

static void realloc_of_freed_large(void) {
    void *block = block_of(300000);
    release(block);
    malloc_trim(0);
    resize(block, 600000);
}

static void realloc_of_misaligned(void) { resize((char *)block_of(20000) + 100, 60000); }

static const struct check checks[] = {
    {"double_free_of_small", double_free_of_small},
    {"double_free_of_sub4k", double_free_of_sub4k},
    {"double_free_of_medium", double_free_of_medium},
    {"double_free_of_large", double_free_of_large},
    {"double_free_of_several_segments", double_free_of_several_segments},
    {"double_free_much_later", double_free_much_later},
    {"double_free_in_a_live_span", double_free_in_a_live_span},
    {"misaligned_small", misaligned_small},
    {"middle_of_small", middle_of_small},
    {"middle_of_medium", middle_of_medium},
    {"middle_of_large", middle_of_large},
    {"start_of_large_plus_sixteen", start_of_large_plus_sixteen},
    {"middle_of_several_segments", middle_of_several_segments},
    {"wild_pointer_in_the_arena", wild_pointer_in_the_arena},
    {"realloc_of_freed_large", realloc_of_freed_large},
    {"realloc_of_misaligned", realloc_of_misaligned},
};

int main(int argc, char **argv) {
    /* An abort is what is hoped for: no core file of it. */
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    return check_main(checks, COUNT(checks), argc, argv);
}
