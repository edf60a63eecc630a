/* Under interposer.c and, behind it, the allocator's library. */
#include "check.h"

#include <signal.h>
#include <sys/wait.h>

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

static void end_with_42(int number) { _exit(number == SIGSEGV ? 42 : 1); }

static int ended_at_a_fault(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        *(volatile char *volatile)16 = 1;
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void signals_that_others_see_first_are_the_programs(void) {
    struct sigaction now;
    CHECK(sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
    CHECK(signal(SIGSEGV, end_with_42) == SIG_DFL);
    int status = ended_at_a_fault();
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42, "%x", status);
    CHECK(signal(SIGSEGV, SIG_DFL) == end_with_42);
    CHECK(sigaction(SIGSEGV, &now, &now) == 0 && now.sa_handler == SIG_DFL);
    status = ended_at_a_fault();
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "%x", status);
}

static const struct check checks[] = {
    {"the_clock_of_others_is_theirs", the_clock_of_others_is_theirs},
    {"signals_that_others_see_first_are_the_programs", signals_that_others_see_first_are_the_programs},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
