/* A plugin that is opened with RTLD_DEEPBIND: it finds libc's functions before anybody else's. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *plugin_malloc(size_t size) { return malloc(size); }

void *plugin_memalign(size_t alignment, size_t size) { return memalign(alignment, size); }

char *plugin_strdup(const char *text) { return strcpy(malloc(strlen(text) + 1), text); }
