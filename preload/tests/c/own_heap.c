/* A program with a heap of its own: malloc, calloc, realloc and free. Blocks of it reach libc's other functions. */
#include "check.h"

enum { POOL = 64 * 1024 * 1024 };
static char pool[POOL] __attribute__((aligned(16)));
static size_t used;
/* Volatile, or the compiler takes for granted that nobody out there calls in here. */
static volatile int resizes;

void *malloc(size_t size) {
    size_t whole = (size + 31) / 16 * 16;
    size_t at = __atomic_fetch_add(&used, whole, __ATOMIC_RELAXED);
    if (size > POOL || at + whole > POOL) {
        errno = ENOMEM;
        return NULL;
    }
    memcpy(pool + at, &size, sizeof size);
    return pool + at + 16;
}

void free(void *block) { CHECK(!block || ((char *)block > pool && (char *)block < pool + POOL)); }

void *calloc(size_t count, size_t size) { return malloc(count * size); }

void *realloc(void *block, size_t size) {
    size_t before = 0;
    resizes = resizes + 1;
    free(block);
    if (block)
        memcpy(&before, (char *)block - 16, sizeof before);
    void *new = malloc(size);
    return new && block ? memcpy(new, block, before < size ? before : size) : new;
}

static void reallocarray_is_the_programs_realloc(void) {
    char *text = strdup("of the program's heap");
    int before = resizes;
    text = reallocarray(text, 10, 10);
    CHECK(text && strcmp(text, "of the program's heap") == 0 && resizes == before + 1);
    volatile size_t all = SIZE_MAX;
    errno = 0;
    CHECK(reallocarray(text, all, 2) == NULL && errno == ENOMEM && resizes == before + 1);
    free(text);
    free(reallocarray(NULL, 10, 10));
    CHECK(resizes == before + 2);
}

static const struct check checks[] = {
    {"reallocarray_is_the_programs_realloc", reallocarray_is_the_programs_realloc},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
