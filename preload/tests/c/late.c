/* What a program does before its first block is asked for, when there is no heap yet. No check asks for one before it
 * says so, nor does libc by then. */
#include "check.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { DEADLINE_MS = 120000, NAP_MS = 5 };

/* Asks for many blocks, gives them up, and waits until their memory is gone: somebody ticks. For a second after a fork
 * that is who asks for large blocks. */
static void burst_goes_back(void) {
    enum { BLOCKS = 4000 };
    static void *blocks[BLOCKS];
    size_t base = resident_bytes();
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((blocks[i] = malloc(16 * KIB)));
        memset(blocks[i], 1, 16 * KIB);
    }
    size_t peak = resident_bytes();
    CHECK(peak - base > BLOCKS * 12 * KIB, "%zu KiB", (peak - base) / KIB);
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    size_t now = resident_bytes();
    for (int waited = 0; now > base + (peak - base) / 4; now = resident_bytes()) {
        CHECK(waited < DEADLINE_MS, "%zu KiB are still there of %zu", now / KIB, peak / KIB);
        free(malloc(100 * KIB));
        nanosleep(&(struct timespec){.tv_nsec = NAP_MS * 1000000l}, NULL);
        waited += NAP_MS;
    }
}

static void expect_success(pid_t child) {
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "%x", status);
}

/* A bad value is told on stderr when it is read. */
static void variables_that_come_later_are_not_read(void) {
    static char late[] = "SLACKWATER_EPOCH_MS=nonsense";
    static char *others[] = {late, NULL};
    int ends[2];
    CHECK(pipe(ends) == 0);
    /* putenv would ask for memory. */
    environ = others;
    int before = dup(STDERR_FILENO);
    CHECK(before >= 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    void *block = malloc(100);
    CHECK(dup2(before, STDERR_FILENO) >= 0 && block);
    free(block);
    close(ends[1]);
    char text[80] = "";
    CHECK(read(ends[0], text, sizeof text - 1) == 0, "it was read: %s", text);
}

/* POSIX allows a child of vfork nothing but exec; some allocate all the same. */
static void a_vfork_child_may_be_the_first(void) {
    pid_t child = vfork();
    if (child == 0) {
        void *volatile block = malloc(100);
        free(block);
        _exit(block == NULL);
    }
    expect_success(child);
    burst_goes_back();
}

/* So may a child that has a copy of the memory, of which nobody is told; and its parent after it. */
static void a_copy_may_be_the_first(void) {
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        burst_goes_back();
        _exit(0);
    }
    expect_success(child);
    burst_goes_back();
}

static void forked_children_may_be_the_first(void) {
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            burst_goes_back();
            _exit(0);
        }
        expect_success(child);
    }
    burst_goes_back();
}

static const struct check checks[] = {
    {"variables_that_come_later_are_not_read", variables_that_come_later_are_not_read},
    {"a_vfork_child_may_be_the_first", a_vfork_child_may_be_the_first},
    {"a_copy_may_be_the_first", a_copy_may_be_the_first},
    {"forked_children_may_be_the_first", forked_children_may_be_the_first},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
