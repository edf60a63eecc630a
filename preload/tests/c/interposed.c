/* Under the allocator's library and interposer.c. */
#include "check.h"

static void the_clock_of_others_is_theirs(void) {
    enum { N = 512 };
    static char *blocks[N];
    struct timespec faked;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &faked) == 0 && faked.tv_sec == 1000000000);
    for (int i = 0; i < N; i++)
        memset(blocks[i] = malloc(40000), 1, 40000);
    size_t held = resident_bytes();
    for (int i = 0; i < N; i++)
        free(blocks[i]);
    /* It is given back although their time stands still. */
    while (resident_bytes() > held / 2)
        usleep(20000);
}

static const struct check checks[] = {
    {"the_clock_of_others_is_theirs", the_clock_of_others_is_theirs},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
