/* A library that stands between programs and their clock, as those do that fake the time, and keeps something per
 * thread: on a thread that libc has not made there is nothing to keep it in. The time stands still. */
#define _GNU_SOURCE
#include <time.h>

static __thread int depth;
static __thread long calls[100];

int clock_gettime(clockid_t clock, struct timespec *time) {
    depth++;
    calls[clock & 15]++;
    time->tv_sec = 1000000000;
    time->tv_nsec = 0;
    depth--;
    return 0;
}
