/* A library whose constructor runs before those of a preloaded one, and has blocks of another allocator by then. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* What became of them, and of the one that is kept. */
int early_failures = -1;
char *early_kept;

static char *copy_by(void *(*others_malloc)(size_t), const char *text) {
    return strcpy(others_malloc(strlen(text) + 1), text);
}

__attribute__((constructor)) static void load(void) {
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    void *(*others_malloc)(size_t) = libc ? (void *(*)(size_t))dlsym(libc, "malloc") : NULL;
    if (!others_malloc)
        return;
    early_failures = 0;
    char *text = copy_by(others_malloc, "before main");
    early_failures += malloc_usable_size(text) < 12;
    text = realloc(text, 100000);
    early_failures += !text || strcmp(text, "before main") != 0;
    free(text);
    early_kept = copy_by(others_malloc, "kept for main");
}
