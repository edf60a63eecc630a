/* A library that stands between programs and the next allocator, as heap profilers do: it counts, and hands on to
 * what dlsym finds behind it. Blocks from before it has found anything come from a small pool. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static char pool[65536] __attribute__((aligned(64)));
static size_t used;
static long calls;
static __thread int finding;

static void *(*next_malloc)(size_t);
static void (*next_free)(void *);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static int (*next_posix_memalign)(void **, size_t, size_t);
static void *(*next_aligned_alloc)(size_t, size_t);

static int found(void) {
    if (next_aligned_alloc)
        return 1;
    if (finding)
        return 0;
    finding = 1;
    next_malloc = dlsym(RTLD_NEXT, "malloc");
    next_free = dlsym(RTLD_NEXT, "free");
    next_calloc = dlsym(RTLD_NEXT, "calloc");
    next_realloc = dlsym(RTLD_NEXT, "realloc");
    next_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    next_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    finding = 0;
    return 1;
}

static int in_pool(const void *block) {
    return (uintptr_t)block - (uintptr_t)pool < sizeof pool;
}

static void *from_pool(size_t size) {
    size_t start = used;
    used += (size + 63) / 64 * 64;
    if (used > sizeof pool) {
        errno = ENOMEM;
        return NULL;
    }
    return pool + start;
}

void *malloc(size_t size) {
    if (!found())
        return from_pool(size);
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
    return next_malloc(size);
}

void free(void *block) {
    if (block && !in_pool(block) && found())
        next_free(block);
}

void *calloc(size_t count, size_t size) {
    if (!found())
        return from_pool(count * size);
    return next_calloc(count, size);
}

void *realloc(void *block, size_t size) {
    if (!found() || in_pool(block)) {
        void *moved = malloc(size);
        size_t left = (size_t)(pool + sizeof pool - (char *)block);
        if (moved && block)
            memcpy(moved, block, size < left ? size : left);
        return moved;
    }
    return next_realloc(block, size);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    return found() ? next_posix_memalign(block, alignment, size) : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size) {
    return found() ? next_aligned_alloc(alignment, size) : NULL;
}
