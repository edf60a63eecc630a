/* An allocator that comes after the preloaded one: blocks of its own, by a function that only it has, and for all
 * else a wrapper around libc's, by the names that libc has for that. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

enum { POOL = 1 << 20 };
static char pool[POOL] __attribute__((aligned(16)));
static size_t used;
int next_frees, next_resizes;

static int is_mine(void *block) { return (char *)block >= pool && (char *)block < pool + POOL; }

void *next_allocate(size_t size) {
    char *block = pool + used;
    used += (size + 15) / 16 * 16;
    return used <= POOL ? block : NULL;
}

void *malloc(size_t size) { return __libc_malloc(size); }

void free(void *block) {
    if (is_mine(block))
        next_frees++;
    else
        __libc_free(block);
}

void *realloc(void *block, size_t size) {
    if (!is_mine(block))
        return __libc_realloc(block, size);
    next_resizes++;
    void *new = next_allocate(size);
    return new ? memmove(new, block, size) : NULL;
}

size_t malloc_usable_size(void *block) { return is_mine(block) ? 4242 : 0; }
