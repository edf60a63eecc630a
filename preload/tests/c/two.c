/* Under two preloaded allocators, the second of which is next_allocator.c. */
#include "check.h"

#include <dlfcn.h>

static void the_seconds_blocks_go_to_the_second(void) {
    void *(*next_allocate)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "next_allocate");
    int *next_frees = dlsym(RTLD_DEFAULT, "next_frees");
    int *next_resizes = dlsym(RTLD_DEFAULT, "next_resizes");
    CHECK(next_allocate && next_frees && next_resizes);
    free(malloc(100));
    CHECK(*next_frees == 0);
    char *block = next_allocate(100);
    strcpy(block, "of the second");
    CHECK(malloc_usable_size(block) == 4242);
    block = realloc(block, 1000);
    CHECK(block && strcmp(block, "of the second") == 0 && *next_resizes == 1);
    free(block);
    CHECK(*next_frees == 1);
}

/* The first hands it to the second, which hands it to libc by a name that the first has, too. */
static void libcs_blocks_go_to_libc_through_both(void) {
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    CHECK(libc, "%s", dlerror());
    void *(*libc_malloc)(size_t) = (void *(*)(size_t))dlsym(libc, "malloc");
    CHECK(libc_malloc);
    for (int i = 0; i < 1000; i++) {
        char *text = strcpy(libc_malloc(100), "of libc");
        text = realloc(text, 5000);
        CHECK(text && strcmp(text, "of libc") == 0);
        free(text);
        free(libc_malloc(100));
    }
}

static const struct check checks[] = {
    {"the_seconds_blocks_go_to_the_second", the_seconds_blocks_go_to_the_second},
    {"libcs_blocks_go_to_libc_through_both", libcs_blocks_go_to_libc_through_both},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
