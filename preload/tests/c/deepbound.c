/* A plugin that is opened with RTLD_DEEPBIND: it finds libc's functions before anybody else's. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Before anybody could do something for it. */
__attribute__((constructor)) static void load(void) { free(strdup("in a constructor")); }

/* What libc allocates for it is its own to free and to resize. */
int plugin_work(void) {
    char *text = strdup("of libc"), *line = NULL, *buffer = malloc(4);
    size_t capacity = 4, length = 0;
    int failures = asprintf(&line, "%0*d", 5000, 7) != 5000;
    text = realloc(text, 100000);
    failures += !text || strcmp(text, "of libc") != 0 || malloc_usable_size(text) < 100000;
    free(text);
    free(line);
    FILE *stream = open_memstream(&text, &length);
    fprintf(stream, "a line that is longer than four bytes\n");
    fclose(stream);
    stream = fmemopen(text, length, "r");
    failures += getline(&buffer, &capacity, stream) != (ssize_t)length;
    fclose(stream);
    free(text);
    free(buffer);
    void *aligned = NULL;
    failures += posix_memalign(&aligned, 64, 1000) != 0;
    free(aligned);
    free(aligned_alloc(64, 640));
    free(memalign(4096, 100));
    free(valloc(1));
    free(pvalloc(1));
    free(calloc(10, 10));
    return failures;
}

char *plugin_gives(size_t size) { return malloc(size); }

char *plugin_resizes(char *block, size_t size) { return realloc(block, size); }

void plugin_takes(char *block) { free(block); }

size_t plugin_counts(void) { return mallinfo2().uordblks; }
