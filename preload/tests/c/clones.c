/* Who counts threads, and children by other ways than libc's fork. A program of one thread, whose heap gives memory
 * back by a thread of its own. */
#include "check.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The word of a line of /proc that is read without memory of the heap's. */
static long number_in(const char *path, const char *before, int words) {
    static char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    CHECK(length > 0, "%s", path);
    text[length] = 0;
    char *at = strstr(text, before);
    CHECK(at, "%s", text);
    at += strlen(before);
    for (int i = 0; i < words; i++)
        at = strchr(at + 1, ' ');
    return atol(at);
}

static long threads(void) { return number_in("/proc/self/status", "Threads:", 0); }

static long resident_pages(void) { return number_in("/proc/self/statm", "", 1); }

enum { BLOCKS = 16000, BLOCK = 40000 };
static char *blocks[BLOCKS];

static void fill_all(void) {
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i])
            (blocks[i] = malloc(BLOCK))[0] = 1;
}

static void empty_every_second(void) {
    for (int i = 0; i < BLOCKS; i += 2) {
        free(blocks[i]);
        blocks[i] = NULL;
    }
}

/* Some slow paths, which start a ticker where one is to be had. */
static void do_a_little(void) {
    for (int i = 0; i < 40; i++) {
        char *block = malloc(100000);
        CHECK(block);
        block[0] = 1;
        free(block);
    }
}

static void a_ticker_comes(void) {
    uint64_t deadline = now_ms() + 120000;
    while (threads() < 2) {
        do_a_little();
        usleep(2000);
        CHECK(now_ms() < deadline, "no ticker");
    }
}

static void expect(pid_t child, int code) {
    CHECK(child > 0, "%d", errno);
    int status = 0;
    uint64_t deadline = now_ms() + 120000;
    pid_t ended;
    while ((ended = waitpid(child, &status, WNOHANG | __WALL)) == 0) {
        if (now_ms() > deadline) {
            kill(child, SIGKILL);
            CHECK(0, "the child hangs");
        }
        usleep(500);
    }
    CHECK(ended == child && WIFEXITED(status) && WEXITSTATUS(status) == code, "%x", status);
}

static void a_program_of_one_thread_has_one_around_a_fork(void) {
    fill_all();
    for (int i = 0; i < 5; i++) {
        a_ticker_comes();
        empty_every_second();
        pid_t child = fork();
        if (child == 0) {
            a_ticker_comes();
            _exit(7);
        }
        /* What the program does first after a fork does not bring it back at once. */
        do_a_little();
        CHECK(threads() == 1, "%ld", threads());
        expect(child, 7);
        fill_all();
    }
    a_ticker_comes();
}

static void *wait_for_ever(void *argument) {
    pause();
    return argument;
}

static void *work_and_wait(void *argument) {
    free(malloc(100));
    __atomic_store_n((int *)argument, 1, __ATOMIC_RELEASE);
    return wait_for_ever(NULL);
}

static void a_program_of_many_keeps_its_ticker(void) {
    int is_there = 0;
    start(work_and_wait, &is_there);
    while (!__atomic_load_n(&is_there, __ATOMIC_ACQUIRE))
        usleep(100);
    fill_all();
    uint64_t deadline = now_ms() + 120000;
    while (threads() < 3) {
        do_a_little();
        usleep(2000);
        CHECK(now_ms() < deadline, "no ticker");
    }
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(7);
        expect(child, 7);
    }
    CHECK(threads() == 3);
}

/* A namespace of users is for processes of one thread. */
static void a_namespace_of_users_can_be_had(void) {
    pid_t trial = fork();
    if (trial == 0)
        _exit(syscall(SYS_unshare, CLONE_NEWUSER) == 0 ? 0 : 7);
    int status;
    CHECK(waitpid(trial, &status, 0) == trial);
    if (status != 0) {
        puts("SKIPPED: no namespaces of users");
        return;
    }
    fill_all();
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            a_ticker_comes();
            empty_every_second();
            CHECK(unshare(CLONE_NEWUSER) == 0, "%d", errno);
            fill_all();
            _exit(7);
        }
        expect(child, 7);
    }
    /* The kinds that others may have do without. */
    a_ticker_comes();
    unshare(CLONE_FILES);
    CHECK(setns(-1, 0) == -1 && errno == EBADF, "%d", errno);
}

/* The first thread ends by the system call alone, and the allocator's own is there: the process ends with it, and with
 * its code. */
static void a_process_has_the_code_of_its_last_thread(void) {
    for (int turn = 0; turn < 5; turn++) {
        pid_t child = fork();
        if (child == 0) {
            fill_all();
            a_ticker_comes();
            syscall(SYS_exit, 7);
        }
        expect(child, 7);
    }
}

static const struct check checks[] = {
    {"a_program_of_one_thread_has_one_around_a_fork", a_program_of_one_thread_has_one_around_a_fork},
    {"a_program_of_many_keeps_its_ticker", a_program_of_many_keeps_its_ticker},
    {"a_namespace_of_users_can_be_had", a_namespace_of_users_can_be_had},
    {"a_process_has_the_code_of_its_last_thread", a_process_has_the_code_of_its_last_thread},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
