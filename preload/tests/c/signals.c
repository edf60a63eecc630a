/* Who has SIGSEGV: the program, whatever the library does about accesses to guarded blocks. Every allocation is
 * sampled here, so the library has reason to want the signal. */
#include "check.h"

#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;
sighandler_t bsd_signal(int, sighandler_t);
/* sigset is obsolete, which makes it no less to be tested. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

/* What the kernel has, past libc. */
struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

static struct kernel_action kernels(void) {
    struct kernel_action now;
    CHECK(syscall(SYS_rt_sigaction, SIGSEGV, NULL, &now, 8) == 0);
    return now;
}

static struct sigaction seen(void) {
    struct sigaction now;
    CHECK(sigaction(SIGSEGV, NULL, &now) == 0);
    return now;
}

/* Blocks of all kinds, freed and in quarantine. */
static void use_the_heap(void) {
    for (int i = 0; i < 2000; i++) {
        char *block = malloc(1 + (size_t)i * 7 % 3000);
        CHECK(block != NULL);
        block[0] = 1;
        free(block);
    }
}

/* How a child ends that does this. */
static int ended(void (*deed)(void)) {
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        deed();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

#define ENDS_BY_THE_SIGNAL(deed)                                                       \
    do {                                                                               \
        int status = ended(deed);                                                      \
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %x", status); \
    } while (0)

#define EXITS_WITH(code, deed)                                                         \
    do {                                                                               \
        int status = ended(deed);                                                      \
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (code), "status %x", status); \
    } while (0)

/* Faults at an address that is no block's. */
static volatile char *volatile nowhere = (volatile char *)16;
static void fault(void) { *nowhere = 1; }

static void end_with_42(int number) { _exit(number == SIGSEGV ? 42 : 1); }

static void end_with_43(int number, siginfo_t *info, void *context) {
    _exit(number == SIGSEGV && info->si_addr == nowhere && context != NULL ? 43 : 1);
}

/* ---- what the program is told ---- */

static struct sigaction in_constructor;

__attribute__((constructor)) static void look(void) { sigaction(SIGSEGV, NULL, &in_constructor); }

static void who_asked_for_nothing_has_the_default(void) {
    use_the_heap();
    struct sigaction now = seen(), none;
    memset(&none, 0, sizeof none);
    CHECK(in_constructor.sa_handler == SIG_DFL);
    CHECK(now.sa_handler == SIG_DFL && now.sa_flags == 0 && now.sa_restorer == NULL);
    CHECK(memcmp(&now.sa_mask, &none.sa_mask, 8) == 0);
    CHECK(signal(SIGSEGV, end_with_42) == SIG_DFL);
    CHECK(signal(SIGSEGV, SIG_DFL) == end_with_42);
    CHECK(bsd_signal(SIGSEGV, end_with_42) == SIG_DFL);
    CHECK(ssignal(SIGSEGV, SIG_DFL) == end_with_42);
    CHECK(sysv_signal(SIGSEGV, end_with_42) == SIG_DFL);
    CHECK(sysv_signal(SIGSEGV, SIG_DFL) == end_with_42);
    CHECK(sigset(SIGSEGV, end_with_42) == SIG_DFL);
    CHECK(sigset(SIGSEGV, SIG_DFL) == end_with_42);
    CHECK(signal(SIGSEGV, SIG_IGN) == SIG_DFL);
    CHECK(sigset(SIGSEGV, SIG_HOLD) == SIG_IGN);
}

static void a_default_has_the_flags_it_was_given(void) {
    struct sigaction given = {.sa_handler = SIG_DFL, .sa_flags = SA_RESTART | SA_ONSTACK}, was;
    sigemptyset(&given.sa_mask);
    sigaddset(&given.sa_mask, SIGUSR1);
    CHECK(sigaction(SIGSEGV, &given, &was) == 0 && was.sa_flags == 0);
    use_the_heap();
    const int added = 0x04000000; /* SA_RESTORER, by libc */
    was = seen();
    CHECK(was.sa_handler == SIG_DFL && (was.sa_flags & ~added) == given.sa_flags, "%x", was.sa_flags);
    CHECK(sigismember(&was.sa_mask, SIGUSR1) == 1 && sigismember(&was.sa_mask, SIGUSR2) == 0);
    /* Into the same place. */
    struct sigaction both = {.sa_handler = SIG_DFL, .sa_flags = SA_NODEFER};
    CHECK(sigaction(SIGSEGV, &both, &both) == 0);
    CHECK(both.sa_handler == SIG_DFL && (both.sa_flags & ~added) == given.sa_flags);
    CHECK((seen().sa_flags & ~added) == SA_NODEFER);
    CHECK(signal(SIGSEGV, SIG_DFL) == SIG_DFL);
    CHECK((seen().sa_flags & ~added) == SA_RESTART);
    CHECK(sysv_signal(SIGSEGV, SIG_DFL) == SIG_DFL);
    CHECK((seen().sa_flags & (SA_RESETHAND | SA_NODEFER | SA_RESTART)) == (int)(SA_RESETHAND | SA_NODEFER));
}

static void errors_are_libcs(void) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    errno = 0;
    CHECK(sigaction(1000, &action, NULL) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(sigaction(SIGKILL, &action, NULL) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(signal(1000, SIG_DFL) == SIG_ERR && errno == EINVAL);
    errno = 0;
    CHECK(signal(SIGSEGV, SIG_ERR) == SIG_ERR && errno == EINVAL);
    CHECK(seen().sa_handler == SIG_DFL);
}

static void a_handler_is_the_kernels_as_it_was_given(void) {
    static const int flags[] = {
        0, SA_SIGINFO, SA_ONSTACK | SA_SIGINFO, SA_NODEFER, SA_RESETHAND, SA_RESTART | SA_NODEFER | SA_RESETHAND,
    };
    stack_t before, after;
    CHECK(sigaltstack(NULL, &before) == 0);
    for (size_t i = 0; i < COUNT(flags); i++) {
        struct sigaction action = {.sa_handler = end_with_42, .sa_flags = flags[i]};
        sigfillset(&action.sa_mask);
        sigdelset(&action.sa_mask, SIGTERM);
        CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
        use_the_heap();
        struct kernel_action now = kernels();
        CHECK(now.handler == end_with_42);
        CHECK((int)(now.flags & ~0x04000000ul) == flags[i], "%lx", now.flags);
        CHECK((now.mask & 1ul << (SIGTERM - 1)) == 0 && (now.mask & 1ul << (SIGUSR1 - 1)) != 0);
        CHECK(seen().sa_handler == end_with_42);
        CHECK(signal(SIGSEGV, SIG_DFL) == end_with_42);
    }
    CHECK(sigaltstack(NULL, &after) == 0);
    CHECK(before.ss_flags == after.ss_flags && before.ss_sp == after.ss_sp);
    CHECK(signal(SIGSEGV, SIG_IGN) == SIG_DFL && kernels().handler == SIG_IGN);
    use_the_heap();
    CHECK(kernels().handler == SIG_IGN);
}

/* ---- what happens at a fault ---- */

static void at_a_fault_with_handler(void) {
    use_the_heap();
    signal(SIGSEGV, end_with_42);
    fault();
}

static void at_a_fault_with_details(void) {
    struct sigaction action = {.sa_sigaction = end_with_43, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    use_the_heap();
    fault();
}

static void a_fault_is_the_programs(void) {
    ENDS_BY_THE_SIGNAL(fault);
    EXITS_WITH(42, at_a_fault_with_handler);
    EXITS_WITH(43, at_a_fault_with_details);
}

static struct sigaction previous;
static char *lazy;

/* A crash reporter that hands on what is not its own, if there is another. */
static void report_a_crash(int number, siginfo_t *info, void *context) {
    char *at = info->si_addr;
    if (at >= lazy && at < lazy + PAGE) {
        mprotect(lazy, PAGE, PROT_READ | PROT_WRITE);
        return;
    }
    if ((previous.sa_flags & SA_SIGINFO) && previous.sa_sigaction != report_a_crash)
        previous.sa_sigaction(number, info, context);
    else if (previous.sa_handler == SIG_DFL)
        _exit(46);
    _exit(44);
}

static void arm(void) {
    struct sigaction action = {.sa_sigaction = report_a_crash, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, &previous);
    use_the_heap();
}

static void arms_once(void) {
    arm();
    lazy[1] = 1;
    fault();
}

static void arms_twice(void) {
    arm();
    arm();
    lazy[1] = 1;
    fault();
}

/* It has put the default back in between, as somebody else's library might. */
static void arms_after_the_default(void) {
    arm();
    signal(SIGSEGV, SIG_DFL);
    arm();
    fault();
}

/* Past libc it finds what the kernel has, and hands on to it. */
static void arms_past_libc(void) {
    use_the_heap();
    struct kernel_action found = kernels();
    struct sigaction action = {.sa_sigaction = report_a_crash, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    previous.sa_handler = found.handler;
    previous.sa_flags = (int)found.flags;
    fault();
}

static void crash_reporters_reach_their_end(void) {
    lazy = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(lazy != MAP_FAILED);
    EXITS_WITH(46, arms_once);
    EXITS_WITH(44, arms_twice);
    EXITS_WITH(46, arms_after_the_default);
    int status = ended(arms_past_libc);
    CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 44 || WEXITSTATUS(status) == 46), "%x", status);
}

static volatile int calls;

static void count(int number) {
    (void)number;
    if (++calls == 3)
        _exit(45);
}

static void once(void) {
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESETHAND};
    sigaction(SIGSEGV, &action, NULL);
    use_the_heap();
    fault();
}

static void again_and_again(void) {
    signal(SIGSEGV, count);
    use_the_heap();
    fault();
}

static void nest(int number) {
    (void)number;
    if (++calls == 3)
        _exit(45);
    fault();
}

static void nested(void) {
    struct sigaction action = {.sa_handler = nest, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    use_the_heap();
    fault();
}

static void blocked_in_its_handler(void) {
    signal(SIGSEGV, nest);
    fault();
}

static void handlers_are_called_as_often_as_their_flags_say(void) {
    ENDS_BY_THE_SIGNAL(once);
    EXITS_WITH(45, again_and_again);
    EXITS_WITH(45, nested);
    ENDS_BY_THE_SIGNAL(blocked_in_its_handler);
}

static sigjmp_buf back;

static void jump(int number) {
    (void)number;
    siglongjmp(back, 1);
}

static void a_handler_may_be_left_by_a_jump(void) {
    signal(SIGSEGV, jump);
    for (int i = 0; i < 1000; i++) {
        if (sigsetjmp(back, 1) == 0) {
            fault();
            CHECK(0, "no fault");
        }
        free(malloc((size_t)i));
    }
    /* One that is probed for, and then the default again, as it was found. */
    CHECK(signal(SIGSEGV, SIG_DFL) == jump);
    ENDS_BY_THE_SIGNAL(fault);
}

__attribute__((noinline)) static int deeper(int depth) {
    volatile char room[1000];
    room[0] = (char)depth;
    return deeper(depth + 1) + room[0];
}

static void overflow(void) { deeper(0); }

static void overflow_on_another_stack(void) {
    use_the_heap();
    stack_t stack = {.ss_sp = malloc(64 * KIB), .ss_size = 64 * KIB};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_handler = end_with_42, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    deeper(0);
}

/* With the default, and an alternate stack that is the program's: nothing writes to it. */
static char *untouched;

static void overflow_beside_another_stack(void) {
    stack_t stack = {.ss_sp = untouched, .ss_size = 64 * KIB};
    sigaltstack(&stack, NULL);
    deeper(0);
}

static void a_stack_that_overflows_ends_the_program(void) {
    use_the_heap();
    ENDS_BY_THE_SIGNAL(overflow);
    EXITS_WITH(42, overflow_on_another_stack);
    untouched = mmap(NULL, 64 * KIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(untouched != MAP_FAILED);
    ENDS_BY_THE_SIGNAL(overflow_beside_another_stack);
    CHECK(all_zero(untouched, 64 * KIB));
}

/* ---- signals that are sent ---- */

static void is_sent(void) { kill(getpid(), SIGSEGV); }
static void is_raised(void) { raise(SIGSEGV); }

static void is_sent_and_ignored(void) {
    signal(SIGSEGV, SIG_IGN);
    is_sent();
    is_raised();
    use_the_heap();
    _exit(42);
}

static void is_ignored_and_faults(void) {
    signal(SIGSEGV, SIG_IGN);
    fault();
}

static void is_blocked_and_waited_for(void) {
    use_the_heap();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_BLOCK, &set, NULL);
    is_sent();
    int number = 0;
    _exit(sigwait(&set, &number) == 0 && number == SIGSEGV ? 42 : 1);
}

static void is_blocked_and_faults(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fault();
}

static void *wait_in_a_thread(void *set) {
    int number = 0;
    _exit(sigwait(set, &number) == 0 && number == SIGSEGV ? 42 : 1);
}

static void is_waited_for_by_a_thread(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t waiter = start(wait_in_a_thread, &set);
    is_sent();
    join(waiter);
}

static void *fault_in_a_thread(void *nothing) {
    fault();
    return nothing;
}

static void faults_in_a_thread(void) {
    use_the_heap();
    join(start(fault_in_a_thread, NULL));
}

static void a_signal_that_is_sent_is_the_programs(void) {
    ENDS_BY_THE_SIGNAL(is_sent);
    ENDS_BY_THE_SIGNAL(is_raised);
    EXITS_WITH(42, is_sent_and_ignored);
    ENDS_BY_THE_SIGNAL(is_ignored_and_faults);
    EXITS_WITH(42, is_blocked_and_waited_for);
    ENDS_BY_THE_SIGNAL(is_blocked_and_faults);
    EXITS_WITH(42, is_waited_for_by_a_thread);
    ENDS_BY_THE_SIGNAL(faults_in_a_thread);
}

/* ---- other programs ---- */

/* The signals of this kind, by the kernel's account of a program that was executed. */
static unsigned long executed(const char *kind, char *const environment[]) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    char *arguments[] = {"cat", "/proc/self/status", NULL};
    pid_t child;
    CHECK(posix_spawnp(&child, "cat", &actions, NULL, arguments, environment) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    char text[8000] = "";
    size_t length = 0;
    for (ssize_t more; (more = read(ends[0], text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)more;
    close(ends[0]);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unsigned long set;
    const char *line = strstr(text, kind);
    CHECK(line != NULL && sscanf(line, "%*s %lx", &set) == 1, "%s", text);
    return set & 1ul << (SIGSEGV - 1);
}

static void a_program_that_is_executed_begins_with_the_default(void) {
    char *const alone[] = {NULL};
    use_the_heap();
    CHECK(executed("SigCgt", alone) == 0);
    CHECK(executed("SigIgn", alone) == 0);
    signal(SIGSEGV, SIG_IGN);
    CHECK(executed("SigIgn", alone) != 0);
    /* One that the library is in, too, goes on ignoring it. */
    CHECK(executed("SigIgn", environ) != 0);
    CHECK(executed("SigCgt", environ) == 0);
}

static void reset_all(void) {
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
}

static void children_of_vfork_change_their_own_alone(void) {
    signal(SIGSEGV, end_with_42);
    pid_t child = vfork();
    CHECK(child >= 0);
    if (child == 0) {
        reset_all();
        signal(SIGSEGV, SIG_IGN);
        signal(SIGSEGV, SIG_DFL);
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(seen().sa_handler == end_with_42 && kernels().handler == end_with_42);
    EXITS_WITH(42, fault);
    signal(SIGSEGV, SIG_DFL);
    child = vfork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, end_with_42);
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(seen().sa_handler == SIG_DFL);
    ENDS_BY_THE_SIGNAL(fault);
}

static const struct check checks[] = {
    {"who_asked_for_nothing_has_the_default", who_asked_for_nothing_has_the_default},
    {"a_default_has_the_flags_it_was_given", a_default_has_the_flags_it_was_given},
    {"errors_are_libcs", errors_are_libcs},
    {"a_handler_is_the_kernels_as_it_was_given", a_handler_is_the_kernels_as_it_was_given},
    {"a_fault_is_the_programs", a_fault_is_the_programs},
    {"crash_reporters_reach_their_end", crash_reporters_reach_their_end},
    {"handlers_are_called_as_often_as_their_flags_say", handlers_are_called_as_often_as_their_flags_say},
    {"a_handler_may_be_left_by_a_jump", a_handler_may_be_left_by_a_jump},
    {"a_stack_that_overflows_ends_the_program", a_stack_that_overflows_ends_the_program},
    {"a_signal_that_is_sent_is_the_programs", a_signal_that_is_sent_is_the_programs},
    {"a_program_that_is_executed_begins_with_the_default", a_program_that_is_executed_begins_with_the_default},
    {"children_of_vfork_change_their_own_alone", children_of_vfork_change_their_own_alone},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
