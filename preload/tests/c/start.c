/* A program that does nothing, or allocates a block if its name ends in "allocating". */
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 1 && strstr(argv[0], "allocating")) {
        char *block = malloc(100);
        if (!block)
            return 1;
        block[0] = 1;
        free(block);
    }
    return 0;
}
