/* A program that does nothing, or allocates a block if its name ends in "allocating". If it ends in "telling" the program
 * writes how many page faults it has had, and what the kernel says of its memory. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char text[4096];

static int tell(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t bytes = read(file, text, sizeof text);
    /* Only now is there a block, of the stream's. */
    return bytes < 0 || printf("%.*sFaults: %ld\n", (int)bytes, text, usage.ru_minflt) < 0;
}

int main(int argc, char **argv) {
    if (argc == 1 && strstr(argv[0], "allocating")) {
        char *block = malloc(100);
        if (!block)
            return 1;
        block[0] = 1;
        free(block);
    }
    if (argc == 1 && strstr(argv[0], "telling"))
        return tell();
    return 0;
}
