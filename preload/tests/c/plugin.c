/* A library that allocates when it is loaded, per thread, and frees when it is unloaded. */
#include "check.h"

static void *from_constructor[64];
static __thread void *last_of_thread;

__attribute__((constructor)) static void load(void) {
    for (size_t i = 0; i < COUNT(from_constructor); i++) {
        from_constructor[i] = malloc(1 + i * 300);
        CHECK(from_constructor[i]);
        fill(from_constructor[i], 1 + i * 300, (unsigned)i);
    }
}

__attribute__((destructor)) static void unload(void) {
    for (size_t i = 0; i < COUNT(from_constructor); i++) {
        CHECK(holds(from_constructor[i], 1 + i * 300, (unsigned)i));
        free(from_constructor[i]);
    }
}

__attribute__((visibility("default"))) void *plugin_take(size_t size);
__attribute__((visibility("default"))) void plugin_give(void *block);

void *plugin_take(size_t size) {
    last_of_thread = malloc(size);
    return last_of_thread;
}

void plugin_give(void *block) {
    CHECK(block != last_of_thread);
    free(block);
}
