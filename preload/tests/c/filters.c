/* Filters of system calls: none kills a program for what its malloc calls. Those that a program sets for itself allow
 * what glibc's malloc calls, and what the check does besides; those that it is born under are those of service
 * managers and containers.
 *
 * No check asserts a time. It waits, generously, for a state that should come within a second. */
#include "check.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { DEADLINE_MS = 60000, NAP_MS = 5, MOST_CALLS = 400 };

/* What glibc's malloc calls. */
#define MALLOC_CALLS                                                                       \
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_futex,       \
        SYS_clock_gettime, SYS_getpid, SYS_gettid
/* What a check calls besides: it looks at its memory through a file that is open, sleeps, complains and ends. */
#define CHECK_CALLS SYS_pread64, SYS_clock_nanosleep, SYS_nanosleep, SYS_write, SYS_exit, SYS_exit_group

static const int own_list[] = {MALLOC_CALLS, CHECK_CALLS};
/* glibc blocks signals where a thread ends. */
static const int own_list_of_threads[] = {MALLOC_CALLS, CHECK_CALLS, SYS_rt_sigprocmask};

/* systemd's SystemCallFilter=~@resources ~@privileged. */
static const int forbidden_to_services[] = {
    SYS_ioprio_set, SYS_mbind, SYS_migrate_pages, SYS_move_pages, SYS_sched_setaffinity, SYS_sched_setattr,
    SYS_sched_setparam, SYS_sched_setscheduler, SYS_set_mempolicy, SYS_setpriority, SYS_setrlimit, SYS_chroot,
    SYS_capset, SYS_setuid, SYS_setreuid, SYS_setresuid, SYS_setfsuid, SYS_setgroups, SYS_pivot_root, SYS_quotactl,
    SYS_acct, SYS_fchown, SYS_fchownat, SYS_bpf, SYS_adjtimex, SYS_reboot, SYS_swapon, SYS_init_module,
};

/* Of systemd's SystemCallFilter=@system-service what programs in C call: neither process_madvise, which is younger than
 * most such filters, nor what is left out from @resources and @privileged above. */
static const int allowed_to_services[] = {
    MALLOC_CALLS, CHECK_CALLS, SYS_read, SYS_readv, SYS_writev, SYS_close, SYS_close_range, SYS_dup, SYS_lseek,
    SYS_openat,
    SYS_newfstatat, SYS_fstat, SYS_statx, SYS_faccessat, SYS_getdents64, SYS_readlinkat, SYS_chdir, SYS_fcntl,
    SYS_getcwd, SYS_clone, SYS_clone3, SYS_execve, SYS_wait4, SYS_kill, SYS_tgkill, SYS_prctl, SYS_unshare,
    SYS_pidfd_open,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_prlimit64, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_membarrier, SYS_rseq, SYS_set_robust_list, SYS_set_tid_address, SYS_getrandom,
    SYS_sysinfo,
    SYS_uname, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_ppoll, SYS_pipe2, SYS_restart_syscall,
#if defined(__x86_64__)
    SYS_open, SYS_stat, SYS_access, SYS_arch_prctl, SYS_readlink, SYS_getrlimit, SYS_poll,
#endif
};

/* What Docker's profile refuses, with an error. */
static const int refused_to_containers[] = {SYS_unshare, SYS_process_madvise, SYS_mbind};

/* A filter that does `listed` for the calls of a list, and `others` for all others. */
struct filter {
    struct sock_filter code[MOST_CALLS * 2 + 2];
    struct sock_fprog program;
};

static const struct sock_fprog *made(struct filter *filter, const int *calls, size_t count, unsigned listed,
                                     unsigned others) {
    size_t at = 0;
    CHECK(count <= MOST_CALLS);
    filter->code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++) {
        filter->code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
        filter->code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, listed);
    }
    filter->code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, others);
    filter->program = (struct sock_fprog){(unsigned short)at, filter->code};
    return &filter->program;
}

#define ALLOWS(filter, calls) made(filter, calls, COUNT(calls), SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS)
#define KILLS_FOR(filter, calls) made(filter, calls, COUNT(calls), SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW)
#define REFUSES(filter, calls) made(filter, calls, COUNT(calls), SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW)

static void give_up_rights(void) { CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0); }

/* Past libc, so that nobody hears of it. */
static void give_up_rights_unheard(void) {
#if defined(__x86_64__)
    long result = SYS_prctl;
    __asm__ volatile("xor %%r10d, %%r10d; xor %%r8d, %%r8d; syscall"
                     : "+a"(result)
                     : "D"(PR_SET_NO_NEW_PRIVS), "S"(1L), "d"(0L)
                     : "rcx", "r10", "r8", "r11", "memory");
    CHECK(result == 0);
#else
    give_up_rights();
#endif
}

static void set_by_prctl(const struct sock_fprog *program) {
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program) == 0, "errno %d", errno);
}

static void set_by_syscall(unsigned flags, const struct sock_fprog *program) {
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program) == 0, "errno %d", errno);
}

/* The process's memory, through a file that is open. */
static int statm = -1;

static void open_statm(void) {
    statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    CHECK(statm >= 0);
}

static size_t resident(void) {
    char text[128] = "";
    size_t pages = 0;
    CHECK(pread(statm, text, sizeof text - 1, 0) > 0);
    CHECK(sscanf(text, "%*u %zu", &pages) == 1);
    return pages * PAGE;
}

static uint64_t now_ms(void) {
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void nap(unsigned ms) {
    struct timespec time = {0, (long)ms * 1000000};
    nanosleep(&time, NULL);
}

#define COMES_TRUE(meanwhile, condition, ...)            \
    do {                                                 \
        uint64_t deadline = now_ms() + DEADLINE_MS;      \
        while (!(condition) && now_ms() < deadline) {    \
            meanwhile;                                   \
            nap(NAP_MS);                                 \
        }                                                \
        CHECK(condition, __VA_ARGS__);                   \
    } while (0)

/* How many threads the process has. */
static int tasks(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    CHECK(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

/* 48 MiB of small, medium and large blocks, all held, then all freed. Returns the memory that was resident. */
static size_t burst(void) {
    enum { SMALL = 16384, MEDIUM = 1024, LARGE = 64 };
    static char *blocks[SMALL + MEDIUM + LARGE];
    for (int i = 0; i < SMALL + MEDIUM + LARGE; i++) {
        size_t size = i < SMALL ? 1024 : i < SMALL + MEDIUM ? 16 * KIB : 256 * KIB;
        CHECK((blocks[i] = malloc(size)));
        memset(blocks[i], 1, size);
    }
    size_t peak = resident();
    for (int i = 0; i < SMALL + MEDIUM + LARGE; i++)
        free(blocks[i]);
    return peak;
}

/* What requests do: blocks of some kilobytes that grow and shrink, and now and then a large one. */
static void serve(unsigned requests, unsigned seed) {
    enum { HELD = 1000 };
    char **held = calloc(HELD, sizeof *held);
    uint32_t random = seed;
    for (unsigned i = 0; i < requests; i++) {
        char **place = &held[draw(&random) % HELD];
        size_t size = draw_size(&random);
        CHECK((*place = realloc(*place, size)));
        memset(*place, 1, size);
        if (i % 500 == 0) {
            char *large = calloc(1, 3 * MIB);
            CHECK(large && large[3 * MIB - 1] == 0);
            memset(large, 1, 3 * MIB);
            CHECK((large = realloc(large, 5 * MIB)));
            CHECK((large = realloc(large, 40 * MIB)) && large[3 * MIB - 1] == 1);
            free(large);
        }
    }
    for (int i = 0; i < HELD; i++)
        free(held[i]);
    free(held);
}

static void work_a_little(void) {
    static void *kept[64];
    static unsigned at;
    for (int i = 0; i < 2000; i++) {
        at = (at + 1) % COUNT(kept);
        free(kept[at]);
        kept[at] = malloc(64 + (unsigned)i % 7 * 700);
    }
}

/* Behind a filter there is no thread to give memory back while all sleep; while some work it goes back. */
static void serves_and_releases(void) {
    serve(20000, 1);
    CHECK(malloc_trim(0) >= 0);
    size_t base = resident();
    for (int round = 0; round < 3; round++) {
        size_t peak = burst();
        COMES_TRUE(work_a_little(), resident() < base + (peak - base) / 4, "%zu KiB of %zu", resident() / KIB,
                   peak / KIB);
    }
    size_t peak = burst();
    CHECK(malloc_trim(0) == 1);
    CHECK(resident() < base + (peak - base) / 4, "%zu KiB of %zu after malloc_trim", resident() / KIB, peak / KIB);
}

/* While all sleep memory goes back by itself: there is a ticker. */
static void releases_asleep(void) {
    size_t base = resident();
    size_t peak = burst();
    COMES_TRUE(, resident() < base + (peak - base) / 4, "%zu KiB of %zu", resident() / KIB, peak / KIB);
}

static struct filter filter;

/* The ticker is at work when the filter comes. */
static void start_at_work(void) {
    open_statm();
    burst();
    serve(2000, 2);
}

static void a_list_of_its_own_by_prctl(void) {
    start_at_work();
    give_up_rights();
    set_by_prctl(ALLOWS(&filter, own_list));
    serves_and_releases();
}

static void a_list_of_its_own_by_syscall(void) {
    start_at_work();
    CHECK(syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    set_by_syscall(0, ALLOWS(&filter, own_list));
    serves_and_releases();
}

/* Nothing but the filter itself tells of it. */
static void a_list_without_a_word_before(void) {
    start_at_work();
    give_up_rights_unheard();
    set_by_prctl(ALLOWS(&filter, own_list));
    serves_and_releases();
}

static void a_list_before_the_first_allocation(void) {
    open_statm();
    give_up_rights();
    set_by_prctl(ALLOWS(&filter, own_list));
    serves_and_releases();
}

static void a_second_filter(void) {
    static struct filter second;
    start_at_work();
    give_up_rights();
    /* The first one still lets a second one be set. */
    static const int first[] = {MALLOC_CALLS, CHECK_CALLS, SYS_seccomp};
    set_by_syscall(0, ALLOWS(&filter, first));
    serve(2000, 3);
    set_by_syscall(0, ALLOWS(&second, own_list));
    serves_and_releases();
}

enum { THREADS = 4 };
static pthread_barrier_t stage;

static void *a_worker(void *argument) {
    unsigned seed = 10 + (unsigned)(uintptr_t)argument;
    serve(2000, seed);
    pthread_barrier_wait(&stage);
    /* The filter is set now, while some are at work. */
    serve(20000, seed);
    malloc_trim(0);
    return NULL;
}

static void confine_among_threads(unsigned flags) {
    pthread_t threads[THREADS];
    open_statm();
    CHECK(pthread_barrier_init(&stage, NULL, THREADS + 1) == 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        threads[i] = start(a_worker, (void *)i);
    burst();
    pthread_barrier_wait(&stage);
    give_up_rights();
    set_by_syscall(flags, ALLOWS(&filter, own_list_of_threads));
    serves_and_releases();
    for (int i = 0; i < THREADS; i++)
        join(threads[i]);
    serves_and_releases();
}

static void a_list_for_all_threads(void) { confine_among_threads(SECCOMP_FILTER_FLAG_TSYNC); }

static void a_list_for_one_thread_of_many(void) { confine_among_threads(0); }

static void the_ticker_is_gone_before_the_filter_is_set(void) {
    start_at_work();
    COMES_TRUE(burst(), tasks() == 2, "%d threads", tasks());
    give_up_rights();
    CHECK(tasks() == 1, "%d threads", tasks());
    for (int i = 0; i < 20; i++) {
        burst();
        nap(100);
        CHECK(tasks() == 1, "%d threads", tasks());
    }
}

/* Blocks at hand: no call at all is allowed but read, write and the end. With `blocks` blocks at a time. */
static void serve_strictly(unsigned blocks) {
    enum { MOST = 4000, ROUNDS = 300, KEPT = 200 };
    static char *held[MOST], *kept[KEPT];
    uint32_t random = 1;
    /* glibc then keeps what it has. */
    CHECK(mallopt(M_TRIM_THRESHOLD, 1 << 30) == 1 && mallopt(M_MMAP_THRESHOLD, 16 << 20) == 1);
    /* The same rounds, first to have what they need at hand. */
    for (int round = 0; round < ROUNDS; round++) {
        if (round == ROUNDS / 3) {
            for (int i = 0; i < KEPT; i++)
                kept[i] = malloc(2000);
            if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
                _exit(98);
            for (int i = 0; i < KEPT; i++)
                free(kept[i]);
        }
        for (unsigned i = 0; i < blocks; i++) {
            size_t size = 1 + draw(&random) % 1500;
            held[i] = i % 7 ? realloc(held[i], size) : (free(held[i]), calloc(1, size));
            if (held[i])
                memset(held[i], 1, size);
        }
        char *large = malloc(600 * KIB);
        if (large)
            memset(large, 1, 600 * KIB);
        free(large);
        large = calloc(1, 600 * KIB);
        if (!large || large[600 * KIB - 1])
            syscall(SYS_exit, 97);
        free(large);
        for (unsigned i = 0; i < blocks; i++)
            free(held[i]), held[i] = NULL;
    }
    syscall(SYS_exit, 0);
}

static void expect_success_of(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", status);
}

/* With a ticker before, and in a program that is too small for one. */
static void strict_mode(void) {
    for (unsigned blocks = 1000; blocks <= 4000; blocks += 3000) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            serve_strictly(blocks);
        expect_success_of(child);
    }
}

/* What is not a filter yet: a question whether there could be one. */
static void questions_change_nothing(void) {
    open_statm();
    burst();
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == -1);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL) == -1);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) == -1);
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    releases_asleep();
}

static void a_childs_filter_is_the_childs(void) {
    start_at_work();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* Its own, not its parent's. */
        open_statm();
        give_up_rights();
        set_by_prctl(ALLOWS(&filter, own_list));
        serves_and_releases();
        _exit(0);
    }
    expect_success_of(child);
    child = vfork();
    if (child == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        _exit(0);
    }
    expect_success_of(child);
    releases_asleep();
}

/* Goes on as a new program under the filter. Returns there. */
static void born_under(const char *check, const struct sock_fprog *program) {
    static const char *const mark = "SLACKWATER_CHECK_IS_FILTERED";
    if (getenv(mark))
        return;
    CHECK(setenv(mark, "1", 1) == 0);
    give_up_rights();
    set_by_prctl(program);
    execl("/proc/self/exe", "filters", check, NULL);
    CHECK(0, "errno %d", errno);
}

static void *sleeps_with_a_cache(void *argument) {
    serve(2000, 4);
    atomic_store((atomic_int *)argument, 1);
    for (;;)
        nap(900);
    return NULL;
}

static void serves_and_releases_asleep(void) {
    static atomic_int is_asleep;
    open_statm();
    start(sleeps_with_a_cache, &is_asleep);
    COMES_TRUE(, atomic_load(&is_asleep), "it works");
    serve(20000, 5);
    for (int round = 0; round < 3; round++)
        releases_asleep();
    CHECK(malloc_trim(0) >= 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        serve(2000, 6);
        _exit(0);
    }
    expect_success_of(child);
}

static void born_as_a_service_without_rights(void) {
    born_under(__func__, KILLS_FOR(&filter, forbidden_to_services));
    serves_and_releases_asleep();
}

static void born_as_a_service_with_a_list(void) {
    born_under(__func__, ALLOWS(&filter, allowed_to_services));
    serves_and_releases_asleep();
}

static void born_in_a_container(void) {
    born_under(__func__, REFUSES(&filter, refused_to_containers));
    serves_and_releases_asleep();
}

/* And confines itself further. */
static void born_in_a_container_with_a_list_of_its_own(void) {
    static struct filter own;
    born_under(__func__, REFUSES(&filter, refused_to_containers));
    start_at_work();
    set_by_syscall(SECCOMP_FILTER_FLAG_TSYNC, ALLOWS(&own, own_list));
    serves_and_releases();
}

/* syscall(2) is libc's, with all of its arguments and results. */
static void other_calls_are_as_they_were(void) {
    errno = 0;
    CHECK(syscall(SYS_close, -1) == -1 && errno == EBADF);
    errno = 7;
    CHECK(syscall(SYS_getpid) == getpid() && errno == 7);
    long flags = MAP_PRIVATE | MAP_ANONYMOUS;
    /* The offset, which is the last of six arguments, must be a multiple of a page. */
    CHECK(syscall(SYS_mmap, 0L, PAGE, (long)PROT_READ, flags, -1L, 1L) == -1 && errno == EINVAL);
    char *page = (char *)syscall(SYS_mmap, 0L, PAGE, (long)PROT_READ, flags, -1L, 0L);
    CHECK(page != MAP_FAILED && page[0] == 0);
    CHECK(munmap(page, PAGE) == 0);
    char name[16] = "";
    CHECK(prctl(PR_SET_NAME, "a name") == 0 && prctl(PR_GET_NAME, name) == 0 && strcmp(name, "a name") == 0);
    CHECK(prctl(-1, 0, 0, 0, 0) == -1 && errno == EINVAL);
}

#if defined(__x86_64__)
static void ends_well(void) {
    syscall(SYS_exit_group, 7);
}
#endif

/* A child that shares the memory comes back from the call on a stack of its own, where its maker has put the way. */
static void a_child_returns_on_a_stack_of_its_own(void) {
#if defined(__x86_64__)
    static uintptr_t stack[4096] __attribute__((aligned(16)));
    uintptr_t *end = stack + COUNT(stack) - 3;
    *end = (uintptr_t)ends_well;
    long child = syscall(SYS_clone, (long)(CLONE_VM | CLONE_VFORK | SIGCHLD), end, 0L, 0L, 0L);
    CHECK(child > 0, "errno %d", errno);
    int status;
    CHECK(waitpid((pid_t)child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "status %#x", status);
#endif
}

#define NAMED(check) {#check, check}
static const struct check checks[] = {
    NAMED(a_list_of_its_own_by_prctl),
    NAMED(a_list_of_its_own_by_syscall),
    NAMED(a_list_without_a_word_before),
    NAMED(a_list_before_the_first_allocation),
    NAMED(a_second_filter),
    NAMED(a_list_for_all_threads),
    NAMED(a_list_for_one_thread_of_many),
    NAMED(the_ticker_is_gone_before_the_filter_is_set),
    NAMED(strict_mode),
    NAMED(questions_change_nothing),
    NAMED(a_childs_filter_is_the_childs),
    NAMED(born_as_a_service_without_rights),
    NAMED(born_as_a_service_with_a_list),
    NAMED(born_in_a_container),
    NAMED(born_in_a_container_with_a_list_of_its_own),
    NAMED(other_calls_are_as_they_were),
    NAMED(a_child_returns_on_a_stack_of_its_own),
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
