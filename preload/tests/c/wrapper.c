/* A program that has a malloc and a free of its own, which count and call libc's by its other names, and leaves the
 * rest to libc. */
#include "check.h"

#include <sys/wait.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);
extern void __libc_free(void *);
extern int __libc_mallopt(int, int);

/* Volatile, or the compiler takes for granted that nobody out there calls in here. */
static volatile long mallocs, frees;

void *malloc(size_t size) {
    __atomic_fetch_add(&mallocs, 1, __ATOMIC_RELAXED);
    return __libc_malloc(size);
}

void free(void *block) {
    if (block)
        __atomic_fetch_add(&frees, 1, __ATOMIC_RELAXED);
    __libc_free(block);
}

static void all_functions_agree(void) {
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        void *blocks[9] = {
            malloc(size),  calloc(1, size),        realloc(malloc(1), size), aligned_alloc(64, size),
            valloc(size),  memalign(4096, size),   pvalloc(size),            reallocarray(NULL, 2, size),
        };
        CHECK(posix_memalign(&blocks[8], 64, size) == 0);
        for (size_t k = 0; k < COUNT(blocks); k++) {
            CHECK(blocks[k] && malloc_usable_size(blocks[k]) >= size, "%zu %zu", size, k);
            fill(blocks[k], size, (unsigned)k);
        }
        for (size_t k = 0; k < COUNT(blocks); k++) {
            CHECK(holds(blocks[k], size, (unsigned)k), "%zu %zu", size, k);
            blocks[k] = realloc(blocks[k], size * 2);
            CHECK(blocks[k] && holds(blocks[k], size, (unsigned)k), "%zu %zu", size, k);
            free(blocks[k]);
        }
    }
}

static void the_other_names_are_the_same_functions(void) {
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        void *blocks[] = {
            __libc_malloc(size),         __libc_calloc(1, size), __libc_realloc(NULL, size),
            __libc_memalign(4096, size), __libc_valloc(size),    __libc_pvalloc(size),
        };
        CHECK(all_zero(blocks[1], size));
        for (size_t k = 0; k < COUNT(blocks); k++) {
            CHECK(blocks[k] && malloc_usable_size(blocks[k]) >= size, "%zu %zu", size, k);
            CHECK(k < 3 || aligned(blocks[k], PAGE), "%zu %zu", size, k);
            fill(blocks[k], size, (unsigned)k);
            blocks[k] = k % 2 ? realloc(blocks[k], size + 1) : __libc_realloc(blocks[k], size + 1);
            CHECK(blocks[k] && holds(blocks[k], size, (unsigned)k), "%zu %zu", size, k);
            if (k % 3)
                free(blocks[k]);
            else
                __libc_free(blocks[k]);
        }
        CHECK(__libc_realloc(__libc_malloc(size), 0) == NULL);
    }
    __libc_free(NULL);
    volatile size_t all = SIZE_MAX;
    errno = 0;
    CHECK(__libc_malloc(all) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(__libc_calloc(all, 2) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(__libc_pvalloc(all) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(__libc_memalign(all / 2 + 2, 1) == NULL && errno == EINVAL);
    CHECK(__libc_mallopt(M_TRIM_THRESHOLD, 128 * 1024) == 1);
}

/* The program's malloc is called by the program, and not by libc's other functions in its stead. */
static void nothing_else_calls_the_programs(void) {
    free(malloc(1));
    long before = mallocs, freed = frees;
    for (int i = 0; i < 1000; i++) {
        void *blocks[] = {realloc(NULL, 100),  calloc(10, 10),    memalign(64, 100),
                          aligned_alloc(64, 64), valloc(100), pvalloc(100), realloc(NULL, 100000)};
        for (size_t k = 0; k < COUNT(blocks); k++)
            CHECK(realloc(realloc(blocks[k], 5000), 0) == NULL);
    }
    CHECK(malloc_trim(0) >= 0);
    CHECK(mallocs == before && frees == freed, "%ld, %ld", mallocs - before, frees - freed);
    char *text = strdup("libc calls the program's");
    CHECK(mallocs == before + 1);
    free(text);
    CHECK(frees == freed + 1);
}

static void *on_a_thread(void *argument) {
    all_functions_agree();
    return argument;
}

static void threads_and_children_do_it_too(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        threads[i] = start(on_a_thread, NULL);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            all_functions_agree();
            exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
    }
    for (int i = 0; i < 3; i++)
        join(threads[i]);
}

static const struct check checks[] = {
    {"all_functions_agree", all_functions_agree},
    {"the_other_names_are_the_same_functions", the_other_names_are_the_same_functions},
    {"nothing_else_calls_the_programs", nothing_else_calls_the_programs},
    {"threads_and_children_do_it_too", threads_and_children_do_it_too},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
