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

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("SLACKWATER_CHECK_PLUGIN");
    void *plugin = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : NULL;
    char *(*plugin_strdup)(const char *) =
        plugin ? (char *(*)(const char *))dlsym(plugin, "plugin_strdup") : NULL;
    if (!plugin_strdup)
        return;
    early_failures = 0;
    char *text = plugin_strdup("before main");
    early_failures += malloc_usable_size(text) < 12;
    text = realloc(text, 100000);
    early_failures += !text || strcmp(text, "before main") != 0;
    free(text);
    early_kept = plugin_strdup("kept for main");
}
