/* A library that stands between programs and their clock, as those do that fake the time, and keeps something per
 * thread: on a thread that libc has not made there is nothing to keep it in. The time stands still. It stands between
 * programs and their signals, too, as a JVM's does, with a lock that nobody may take twice; and between them and their
 * bytes, as a checker's does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
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

/* Not at a place that is known when the program starts, and so found by a call. */
__attribute__((tls_model("global-dynamic"))) static __thread char marks[20000];

/* Byte by byte, or the compiler would call the functions themselves. */
void *memcpy(void *to, const void *from, size_t bytes) {
    marks[bytes % sizeof marks]++;
    for (size_t i = 0; i < bytes; i++) {
        ((char *)to)[i] = ((const char *)from)[i];
        __asm__ volatile("");
    }
    return to;
}

void *memset(void *to, int byte, size_t bytes) {
    marks[bytes % sizeof marks]++;
    for (size_t i = 0; i < bytes; i++) {
        ((char *)to)[i] = (char)byte;
        __asm__ volatile("");
    }
    return to;
}

static pthread_mutex_t lock = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;

int sigaction(int number, const struct sigaction *action, struct sigaction *before) {
    static int (*next)(int, const struct sigaction *, struct sigaction *);
    if (pthread_mutex_lock(&lock) != 0)
        abort();
    if (next == NULL)
        next = dlsym(RTLD_NEXT, "sigaction");
    int result = next(number, action, before);
    pthread_mutex_unlock(&lock);
    return result;
}

sighandler_t signal(int number, sighandler_t handler) {
    static sighandler_t (*next)(int, sighandler_t);
    if (pthread_mutex_lock(&lock) != 0)
        abort();
    if (next == NULL)
        next = dlsym(RTLD_NEXT, "signal");
    sighandler_t before = next(number, handler);
    pthread_mutex_unlock(&lock);
    return before;
}
