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

/* A ticker comes, with which there are so many. */
static void threads_come(long count) {
    uint64_t deadline = now_ms() + 120000;
    while (threads() < count) {
        do_a_little();
        usleep(2000);
        CHECK(now_ms() < deadline, "no ticker");
    }
}

static void a_ticker_comes(void) { threads_come(2); }

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
    CHECK(ended == child && WIFEXITED(status) && WEXITSTATUS(status) == code, "%x %d", status, ended < 0 ? errno : 0);
}

static void a_program_of_one_thread_has_one_around_a_fork(void) {
    fill_all();
    for (int i = 0; i < 5; i++) {
        a_ticker_comes();
        empty_every_second();
        uint64_t before = now_ms();
        pid_t child = fork();
        if (child == 0) {
            a_ticker_comes();
            _exit(7);
        }
        /* What the program does first after a fork does not bring it back at once, that is within a second. */
        do_a_little();
        long count = threads();
        CHECK(count == 1 || now_ms() - before >= 1000, "%ld", count);
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
    /* When it has nothing to do it ends, and on a busy machine that may be between a fork and the look. */
    int kept = 0;
    for (int i = 0; i < 20; i++) {
        threads_come(3);
        pid_t child = fork();
        if (child == 0)
            _exit(7);
        kept += threads() == 3;
        expect(child, 7);
    }
    CHECK(kept > 0);
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

/* A child's life: it allocates every kind, frees much, and what it freed goes back. */
static int live(void *argument) {
    for (int i = 0; i < 20; i++) {
        char *block = malloc(50 << i % 12);
        CHECK(block);
        block[0] = 1;
        free(block);
    }
    if (argument) {
        fill_all();
        long peak = resident_pages();
        empty_every_second();
        uint64_t deadline = now_ms() + 120000;
        /* One page of each block was touched. */
        while (resident_pages() > peak - BLOCKS / 2 * 9 / 10) {
            usleep(2000);
            CHECK(now_ms() < deadline, "%ld of %ld pages: nothing goes back", resident_pages(), peak);
        }
    }
    return 7;
}

static pid_t by_system_call(void *argument) {
    pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(live(argument));
    return child;
}

/* Of which no library hears. */
static pid_t by_assembly(void *argument) {
    long result;
#if defined(__x86_64__)
    register long fifth __asm__("r8") = 0, fourth __asm__("r10") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((long)SYS_clone), "D"((long)SIGCHLD), "S"(0L), "d"(0L), "r"(fourth), "r"(fifth)
                     : "rcx", "r11", "memory");
#else
    register long number __asm__("x8") = SYS_clone, first __asm__("x0") = SIGCHLD;
    register long second __asm__("x1") = 0, third __asm__("x2") = 0, fourth __asm__("x3") = 0, fifth __asm__("x4") = 0;
    __asm__ volatile("svc 0"
                     : "+r"(first)
                     : "r"(number), "r"(second), "r"(third), "r"(fourth), "r"(fifth)
                     : "memory");
    result = first;
#endif
    if (result == 0)
        _exit(live(argument));
    return result;
}

static pid_t by_libcs_clone(void *argument) {
    static char stack[256 * 1024] __attribute__((aligned(16)));
    return clone(live, stack + sizeof stack, SIGCHLD, argument);
}

static pid_t by_clone3(void *argument) {
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(live(argument));
    return child < 0 && errno == ENOSYS ? by_system_call(argument) : child;
}

/* glibc has it from 2.34 on. */
extern pid_t _Fork(void) __attribute__((weak));

static pid_t by_fork_without_handlers(void *argument) {
    if (!_Fork)
        return by_system_call(argument);
    pid_t child = _Fork();
    if (child == 0)
        _exit(live(argument));
    return child;
}

/* Children made at the moment in which memory goes back, as the program sees it. */
static void children_by(pid_t (*make)(void *argument)) {
    enum { CHILDREN = 4 };
    for (int turn = 0; turn < 16; turn++) {
        fill_all();
        empty_every_second();
        long peak = resident_pages();
        uint64_t deadline = now_ms() + 250;
        while (now_ms() < deadline && resident_pages() > peak - 100)
            usleep(50);
        pid_t children[CHILDREN];
        for (int i = 0; i < CHILDREN; i++)
            children[i] = make(turn % 8 == 7 && i == 0 ? "much" : NULL);
        for (int i = 0; i < CHILDREN; i++)
            expect(children[i], 7);
    }
}

static void children_by_the_system_call(void) { children_by(by_system_call); }
static void children_by_assembly(void) { children_by(by_assembly); }
static void children_by_libcs_clone(void) { children_by(by_libcs_clone); }
static void children_by_clone3(void) { children_by(by_clone3); }
static void children_by_fork_without_handlers(void) { children_by(by_fork_without_handlers); }

/* A copy of a copy, and one that forks as libc does. */
static void copies_of_copies(void) {
    for (int turn = 0; turn < 20; turn++) {
        fill_all();
        empty_every_second();
        usleep(turn * 3000);
        pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (child == 0) {
            pid_t grandchild = turn % 2 ? fork() : syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
            if (grandchild == 0)
                _exit(live(NULL));
            expect(grandchild, 7);
            _exit(live(NULL));
        }
        expect(child, 7);
    }
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

static int exit_at_once(void *argument) { return argument ? 7 : 0; }

/* Those that share the memory are no copies. */
static void children_that_share_the_memory_are_left_alone(void) {
    static char stack[64 * 1024] __attribute__((aligned(16)));
    static char *arguments[] = {"true", NULL};
    for (int turn = 0; turn < 40; turn++) {
        fill_all();
        empty_every_second();
        usleep(turn * 1000);
        pid_t child = vfork();
        if (child == 0) {
            free(malloc(100000));
            _exit(7);
        }
        expect(child, 7);
        expect(clone(exit_at_once, stack + sizeof stack, CLONE_VM | SIGCHLD, stack), 7);
        CHECK(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) == 0);
        expect(child, 0);
    }
    live("much");
}

static const struct check checks[] = {
    {"a_program_of_one_thread_has_one_around_a_fork", a_program_of_one_thread_has_one_around_a_fork},
    {"a_program_of_many_keeps_its_ticker", a_program_of_many_keeps_its_ticker},
    {"a_namespace_of_users_can_be_had", a_namespace_of_users_can_be_had},
    {"children_by_the_system_call", children_by_the_system_call},
    {"children_by_assembly", children_by_assembly},
    {"children_by_libcs_clone", children_by_libcs_clone},
    {"children_by_clone3", children_by_clone3},
    {"children_by_fork_without_handlers", children_by_fork_without_handlers},
    {"copies_of_copies", copies_of_copies},
    {"a_process_has_the_code_of_its_last_thread", a_process_has_the_code_of_its_last_thread},
    {"children_that_share_the_memory_are_left_alone", children_that_share_the_memory_are_left_alone},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
