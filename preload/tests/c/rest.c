/* What is left when a program rests: everything freed goes back, by itself, whoever freed it and
 * whatever its threads wait for; and the thread that sees to it harms nobody.
 *
 * No check asserts a time. It waits, generously, for a state that should come within a second. */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { DEADLINE_MS = 90000, NAP_MS = 5 };

static uint64_t now_ms(void) {
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void nap(unsigned ms) {
    struct timespec time = {0, (long)ms * 1000000};
    nanosleep(&time, NULL);
}

/* Waits until it is so; fails if that does not come. */
#define COMES_TRUE(condition, ...)                              \
    do {                                                        \
        uint64_t deadline = now_ms() + DEADLINE_MS;             \
        while (!(condition) && now_ms() < deadline)             \
            nap(NAP_MS);                                        \
        CHECK(condition, __VA_ARGS__);                          \
    } while (0)

/* Near `base`, after a burst up to `peak`. */
static int is_near(size_t base, size_t peak) { return resident_bytes() <= base + peak / 20; }

#define COMES_BACK(base, peak)                                                                \
    COMES_TRUE(is_near(base, peak), "%zu KiB at rest: %zu before, peak %zu",                  \
               resident_bytes() / KIB, (size_t)(base) / KIB, (size_t)(peak) / KIB)

/* Reads a small file of /proc into a static buffer; empty if it is gone. One thread only. */
static const char *proc_text(const char *path) {
    static char text[4096];
    ssize_t length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        length = read(fd, text, sizeof text - 1);
        close(fd);
    }
    text[length > 0 ? length : 0] = 0;
    return text;
}

/* Calls `visit` for each thread of the process until it says no. Allocates nothing. */
static void for_each_task(int (*visit)(int task, void *context), void *context) {
    static char entries[64 * KIB];
    int fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0, "errno %d", errno);
    long length;
    int goes_on = 1;
    while (goes_on && (length = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; goes_on && at < length;) {
            unsigned short bytes;
            memcpy(&bytes, entries + at + 16, sizeof bytes);
            int task = atoi(entries + at + 19);
            at += bytes;
            goes_on = task == 0 || visit(task, context);
        }
    }
    close(fd);
}

static const char *task_text(int task, const char *file) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", task, file);
    return proc_text(path);
}

static int find_ticker(int task, void *context) {
    if (strcmp(task_text(task, "comm"), "slackwater\n") != 0)
        return 1;
    *(int *)context = task;
    return 0;
}

/* The allocator's own thread, or 0. */
static int ticker(void) {
    int found = 0;
    for_each_task(find_ticker, &found);
    return found;
}

static int count_task(int task, void *context) {
    ++*(int *)context;
    return task;
}

/* Has the process so many threads? All of them are the program's own then. A ticker that has just
 * been started does not have its name yet. */
static int has_threads(int expected) {
    int count = 0;
    for_each_task(count_task, &count);
    return count == expected;
}

/* The program has so many threads, and the allocator none. */
#define COMES_TO_REST(threads) COMES_TRUE(has_threads(threads), "still a ticker")

/* Memory that no malloc knows of, and that is resident from the beginning. */
static void *aside(size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Where threads block for ever, as servers do. */
static int gate[2];

static void gate_make(void) { CHECK(pipe(gate) == 0); }

static void gate_open(void) { CHECK(close(gate[1]) == 0); }

static void gate_wait(void) {
    char byte;
    CHECK(read(gate[0], &byte, 1) == 0);
}

/* Blocks of one thread, in an array of their own. */
struct hand {
    void **blocks;
    size_t room, count;
    uint32_t random;
};

static void hand_make(struct hand *hand, size_t room, unsigned seed) {
    *hand = (struct hand){aside(room * sizeof(void *)), room, 0, seed * 2654435761u | 1};
}

/* Allocates and writes `bytes` in blocks of `low` to `high`. */
static void hand_fill(struct hand *hand, size_t bytes, size_t low, size_t high) {
    for (size_t sum = 0; sum < bytes && hand->count < hand->room;) {
        size_t size = low + draw(&hand->random) % (high - low + 1);
        void *block = malloc(size);
        CHECK(block, "size %zu", size);
        memset(block, 0x5a, size);
        hand->blocks[hand->count++] = block;
        sum += size;
    }
}

static void hand_empty(struct hand *hand) {
    while (hand->count)
        free(hand->blocks[--hand->count]);
}

/* Allocates `bytes` of every kind and frees them again. */
static void burst(struct hand *hand, size_t bytes) {
    hand_fill(hand, bytes / 2, 16, 4096);
    hand_fill(hand, bytes / 4, 4096, 32768);
    hand_fill(hand, bytes / 4, 32768, MIB);
    hand_empty(hand);
}

/* Slow paths, but little memory. */
static void do_a_little(void) {
    for (int i = 0; i < 16; i++) {
        void *block = malloc(100000);
        CHECK(block);
        memset(block, 1, 100);
        free(block);
    }
}

/* Runs the check again in a program with this in its environment, unless this is it. */
static void again_with(const char *variable, const char *value, const char *check) {
    const char *set = getenv(variable);
    if (set && strcmp(set, value) == 0)
        return;
    CHECK(setenv(variable, value, 1) == 0);
    execl("/proc/self/exe", "rest", check, (char *)NULL);
    CHECK(0, "exec: errno %d", errno);
}

/* The child's status, within the deadline. */
static void expect_success(pid_t child) {
    int status = 0;
    pid_t ended = 0;
    uint64_t deadline = now_ms() + 3 * DEADLINE_MS;
    while ((ended = waitpid(child, &status, WNOHANG)) == 0 && now_ms() < deadline)
        nap(NAP_MS);
    if (ended == 0) {
        kill(child, SIGKILL);
        CHECK(0, "the child does not end");
    }
    CHECK(ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", status);
}

/* A burst over threads. */
enum { CREW = 4 };

static struct hand hands[CREW];
static pthread_barrier_t step;
static size_t crew_bytes, crew_low, crew_high;

static void *burst_and_block(void *argument) {
    struct hand *mine = argument, *theirs = &hands[(mine - hands + 1) % CREW];
    pthread_barrier_wait(&step); /* everybody is there */
    pthread_barrier_wait(&step); /* the memory before was measured */
    hand_fill(mine, crew_bytes, crew_low, crew_high);
    pthread_barrier_wait(&step); /* all is allocated */
    pthread_barrier_wait(&step); /* the peak was measured */
    for (size_t i = 0; i < mine->count; i += 2)
        free(mine->blocks[i]);
    for (size_t i = 1; i < theirs->count; i += 2)
        free(theirs->blocks[i]);
    gate_wait();
    return NULL;
}

static void everything_goes_back(size_t low, size_t high) {
    crew_bytes = 60 * MIB, crew_low = low, crew_high = high;
    gate_make();
    CHECK(pthread_barrier_init(&step, NULL, CREW + 1) == 0);
    pthread_t threads[CREW];
    for (unsigned i = 0; i < CREW; i++)
        hand_make(&hands[i], 2 * crew_bytes / (low + high) * 3 / 2 + 100, i + 1);
    for (unsigned i = 0; i < CREW; i++)
        threads[i] = start(burst_and_block, &hands[i]);
    pthread_barrier_wait(&step);
    size_t base = resident_bytes();
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    size_t peak = resident_bytes();
    CHECK(peak > base + CREW * crew_bytes * 9 / 10, "%zu to %zu", base, peak);
    pthread_barrier_wait(&step);
    COMES_BACK(base, peak);
    gate_open();
    for (unsigned i = 0; i < CREW; i++)
        join(threads[i]);
}

static void everything_freed_by_blocked_threads_goes_back(void) { everything_goes_back(16, 4096); }

static void medium_blocks_freed_by_blocked_threads_go_back(void) {
    everything_goes_back(4096, 32768);
}

static void large_blocks_freed_by_blocked_threads_go_back(void) {
    everything_goes_back(32768, MIB);
}

/* Fills and empties every bin in turn until it is as large as it gets. */
static void fill_the_cache(void **blocks) {
    for (int round = 0; round < 8; round++) {
        for (size_t size = 512; size <= 32 * KIB; size += size / 8) {
            size_t count = 64 * KIB / size;
            for (size_t i = 0; i < count; i++) {
                blocks[i] = malloc(size);
                CHECK(blocks[i]);
                memset(blocks[i], 1, size);
            }
            for (size_t i = 0; i < count; i++)
                free(blocks[i]);
        }
    }
}

/* One block of each size: what is cached is used, and stays. */
static void touch_the_cache(void) {
    for (size_t size = 512; size <= 32 * KIB; size += size / 8) {
        void *block = malloc(size);
        CHECK(block);
        free(block);
    }
}

static atomic_int turn;

/* The main thread has the even turns, the other one the odd ones. */
static void pass_the_turn(int to) {
    atomic_store(&turn, to);
    COMES_TRUE(atomic_load(&turn) > to, "turn %d does not end", to);
}

/* What is resident when the cache has been in use for some epochs. On a busy machine nobody may have run for an epoch,
 * and that was no use. */
static size_t resident_while_used(void **blocks) {
    enum { EPOCH_MS = 100, USED_MS = 900 };
    uint64_t deadline = now_ms() + DEADLINE_MS;
    for (;;) {
        fill_the_cache(blocks);
        uint64_t start = now_ms(), last = start, longest = 0;
        size_t resident = 0;
        while (last < start + USED_MS) {
            touch_the_cache();
            nap(1);
            resident = resident_bytes();
            uint64_t now = now_ms();
            longest = now - last > longest ? now - last : longest;
            last = now;
        }
        if (longest < EPOCH_MS)
            return resident;
        CHECK(last < deadline, "nobody runs: %d ms without", (int)longest);
    }
}

static size_t cached;

static void *fill_the_cache_and_block(void *argument) {
    /* Its records are there from here on. */
    fill_the_cache(argument);
    pass_the_turn(2);
    cached = resident_while_used(argument);
    atomic_store(&turn, 4);
    gate_wait();
    return NULL;
}

static void a_thread_blocked_for_ever_keeps_no_cached_blocks(void) {
    gate_make();
    /* So much is live that there is a ticker. */
    struct hand hand;
    hand_make(&hand, 10000, 1);
    void *blocks = aside(1024 * sizeof(void *));
    hand_fill(&hand, 16 * MIB, 64 * KIB, 128 * KIB);
    pthread_t thread = start(fill_the_cache_and_block, blocks);
    COMES_TRUE(atomic_load(&turn) == 2, "the thread does not start");
    COMES_TO_REST(2);
    size_t before = resident_bytes();
    pass_the_turn(3);
    CHECK(cached >= before + MIB * 3 / 2, "%zu to %zu: what is used stays", before, cached);
    /* Code that ran for the first time is resident, too. */
    COMES_TRUE(resident_bytes() <= before + MIB / 3, "%zu to %zu to %zu", before, cached,
               resident_bytes());
    gate_open();
    join(thread);
    hand_empty(&hand);
}

enum { SCATTERED = 100000, PAGE_TABLE = 1 << 17 };

struct scattered {
    unsigned char *block;
    uint32_t size;
    unsigned seed;
    int is_kept;
};

static uintptr_t kept_pages[PAGE_TABLE];

/* Enters a page into the table; returns whether it was new. */
static int enter_page(uintptr_t page) {
    size_t at = (page * 0x9e3779b97f4a7c15u) >> 47;
    while (kept_pages[at] != 0 && kept_pages[at] != page)
        at = (at + 1) % PAGE_TABLE;
    int is_new = kept_pages[at] == 0;
    kept_pages[at] = page;
    return is_new;
}

static void scattered_new(struct scattered *one, uint32_t *random) {
    one->size = 256 + draw(random) % (4096 - 256 + 1);
    one->seed = draw(random);
    one->block = malloc(one->size);
    CHECK(one->block);
    fill(one->block, one->size, one->seed);
}

static void scattered_survivors_keep_only_their_pages(void) {
    struct scattered *all = aside(SCATTERED * sizeof *all);
    memset(kept_pages, 0, sizeof kept_pages);
    uint32_t random = 7;
    resident_bytes();
    size_t base = resident_bytes();
    for (size_t i = 0; i < SCATTERED; i++)
        scattered_new(&all[i], &random);
    size_t peak = resident_bytes(), pages = 0;
    for (size_t i = 0; i < SCATTERED; i++) {
        all[i].is_kept = draw(&random) % 5 == 0;
        if (!all[i].is_kept) {
            free(all[i].block);
            continue;
        }
        uintptr_t first = (uintptr_t)all[i].block / PAGE;
        uintptr_t last = ((uintptr_t)all[i].block + all[i].size - 1) / PAGE;
        for (uintptr_t page = first; page <= last; page++)
            pages += (size_t)enter_page(page);
    }
    size_t least = base + pages * PAGE;
    CHECK(least < peak * 7 / 10, "%zu of %zu: too little to see", least, peak);
    COMES_TRUE(resident_bytes() <= least / 10 * 11, "%zu KiB at rest: least %zu, peak %zu",
               resident_bytes() / KIB, least / KIB, peak / KIB);
    for (size_t i = 0; i < SCATTERED; i++) {
        if (all[i].is_kept)
            CHECK(holds(all[i].block, all[i].size, all[i].seed));
        else
            scattered_new(&all[i], &random);
    }
    for (size_t i = 0; i < SCATTERED; i++) {
        CHECK(holds(all[i].block, all[i].size, all[i].seed));
        free(all[i].block);
    }
    COMES_BACK(base, peak);
}

static void the_ticker_is_there_while_needed_and_gone_at_rest(void) {
    struct hand hand;
    hand_make(&hand, 100000, 1);
    CHECK(!ticker());
    int last = 0;
    for (int round = 0; round < 5; round++) {
        hand_fill(&hand, 40 * MIB, 16, 4096);
        /* Nothing else is going on: a new thread has a new number. */
        COMES_TRUE((do_a_little(), ticker() != 0 && ticker() != last), "none in a burst");
        last = ticker();
        if (round % 2 == 0) {
            COMES_TO_REST(1);
            last = 0;
        }
        hand_empty(&hand);
        COMES_TO_REST(1);
    }
}

static void a_small_program_has_no_ticker(void) {
    struct hand hand;
    hand_make(&hand, 10000, 1);
    uint64_t end = now_ms() + 1000;
    do {
        hand_fill(&hand, 800 * KIB, 16, 4096);
        CHECK(!ticker());
        hand_empty(&hand);
        CHECK(!ticker());
    } while (now_ms() < end);
}

static atomic_int signals_seen, signals_elsewhere;
static atomic_int programs_threads[CREW + 1];

static void note_who_handles(int signal_number) {
    (void)signal_number;
    int self = (int)syscall(SYS_gettid);
    int is_known = 0;
    for (size_t i = 0; i < COUNT(programs_threads); i++)
        is_known |= atomic_load(&programs_threads[i]) == self;
    if (!is_known)
        atomic_fetch_add(&signals_elsewhere, 1);
    atomic_fetch_add(&signals_seen, 1);
}

static atomic_int stop;

static void *burst_until_told(void *argument) {
    struct hand *hand = argument;
    atomic_store(&programs_threads[hand - hands], (int)syscall(SYS_gettid));
    while (!atomic_load(&stop))
        burst(hand, 4 * MIB);
    return NULL;
}

/* While every other thread blocks the signal nobody handles it: it waits. */
static void expect_that_the_ticker_lets_it_wait(struct hand *hand) {
    sigset_t usr1, waiting;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0);
    hand_fill(hand, 40 * MIB, 16, 4096);
    COMES_TRUE((do_a_little(), ticker()), "none in a burst");
    CHECK(kill(getpid(), SIGUSR1) == 0);
    /* Who started it blocks what it blocked before. */
    sigset_t blocked;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
    for (int other = 1; other < SIGRTMIN; other++)
        CHECK(sigismember(&blocked, other) == (other == SIGUSR1), "signal %d", other);
    int ticks = 0;
    while (ticks < 20) {
        do_a_little();
        ticks += ticker() != 0;
        nap(10);
    }
    CHECK(sigpending(&waiting) == 0 && sigismember(&waiting, SIGUSR1) == 1);
    CHECK(atomic_load(&signals_seen) == 0);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL) == 0);
    CHECK(atomic_load(&signals_seen) == 1);
    hand_empty(hand);
}

static void the_ticker_takes_no_signals(void) {
    struct sigaction action = {.sa_handler = note_who_handles, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    atomic_store(&programs_threads[CREW], (int)syscall(SYS_gettid));
    struct hand hand;
    hand_make(&hand, 100000, 9);
    expect_that_the_ticker_lets_it_wait(&hand);

    pthread_t threads[CREW];
    for (unsigned i = 0; i < CREW; i++)
        hand_make(&hands[i], 100000, i + 1);
    for (unsigned i = 0; i < CREW; i++)
        threads[i] = start(burst_until_told, &hands[i]);
    for (unsigned i = 0; i < CREW; i++)
        COMES_TRUE(atomic_load(&programs_threads[i]), "a thread does not start");
    COMES_TRUE(ticker(), "none in a burst");
    /* All but SIGKILL and SIGSTOP, which cannot be blocked. */
    const char *line = strstr(task_text(ticker(), "status"), "SigBlk:");
    CHECK(line);
    unsigned long long mask = strtoull(line + 7, NULL, 16);
    CHECK(mask == ~((1ull << (SIGKILL - 1)) | (1ull << (SIGSTOP - 1))), "%llx", mask);
    for (int i = 0; i < 5000; i++) {
        CHECK(kill(getpid(), SIGUSR1) == 0);
        if (i % 16 == 0)
            sched_yield();
    }
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < CREW; i++)
        join(threads[i]);
    CHECK(atomic_load(&signals_seen) > 1);
    CHECK(atomic_load(&signals_elsewhere) == 0, "%d", atomic_load(&signals_elsewhere));
    /* And the program's threads take signals as before. */
    int before = atomic_load(&signals_seen);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(atomic_load(&signals_seen) == before + 1);
}

/* Whether the ticker that is there now has what is its own: no real-time priority, the root. It has them a moment
 * after it has its name, and may end at any time. */
static int ticker_is_modest(const char *here) {
    int task = ticker();
    if (task == 0)
        return 0;
    if (sched_getscheduler(task) != SCHED_OTHER)
        return 0;
    char path[64], place[4096] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/cwd", task);
    if (readlink(path, place, sizeof place - 1) <= 0 || strcmp(place, "/") != 0)
        return 0;
    /* And the program stands where it stood. */
    CHECK(getcwd(place, sizeof place) && strcmp(place, here) == 0, "%s", place);
    return 1;
}

static void the_ticker_has_no_priority_and_no_place_of_the_programs(void) {
    char here[4096];
    CHECK(chdir("/proc") == 0 && getcwd(here, sizeof here));
    /* Where that is not allowed, there is less to give up. */
    struct sched_param urgent = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &urgent);
    struct hand hand;
    hand_make(&hand, 100000, 1);
    hand_fill(&hand, 40 * MIB, 16, 4096);
    COMES_TRUE((do_a_little(), ticker_is_modest(here)), "it keeps what it need not");
    hand_empty(&hand);
}

static void it_can_be_forbidden(void) {
    again_with("SLACKWATER_TICKER", "off", "it_can_be_forbidden");
    struct hand hand;
    hand_make(&hand, 100000, 1);
    do_a_little();
    size_t base = resident_bytes();
    hand_fill(&hand, 60 * MIB, 16, 4096);
    size_t peak = resident_bytes();
    CHECK(!ticker());
    hand_empty(&hand);
    COMES_TRUE((do_a_little(), ticker() || is_near(base, peak)), "%zu of %zu", resident_bytes(),
               peak);
    CHECK(!ticker());
}

static void release_can_be_off(void) {
    again_with("SLACKWATER_RELEASE", "off", "release_can_be_off");
    struct hand hand;
    hand_make(&hand, 100000, 1);
    hand_fill(&hand, 60 * MIB, 16, 32768);
    size_t peak = resident_bytes();
    hand_empty(&hand);
    uint64_t end = now_ms() + 1500;
    while (now_ms() < end) {
        CHECK(!ticker());
        CHECK(resident_bytes() >= peak / 100 * 95, "%zu of %zu", resident_bytes(), peak);
        if (now_ms() + 700 < end)
            do_a_little();
        nap(10);
    }
}

/* Bursts, and ends while the ticker is there. */
static void *burst_and_end(void *argument) {
    struct hand hand;
    hand_make(&hand, 100000, 3);
    hand_fill(&hand, 40 * MIB, 16, 4096);
    hand_empty(&hand);
    COMES_TRUE((do_a_little(), ticker()), "none in a burst");
    nap(100);
    do_a_little();
    CHECK(ticker());
    return argument;
}

static void *fork_and_return(void *argument) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        return burst_and_end(NULL);
    *(pid_t *)argument = child;
    return NULL;
}

static void the_process_ends_with_its_last_thread(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        start(burst_and_end, NULL);
        burst_and_end(NULL);
        pthread_exit(NULL);
    }
    expect_success(child);
    /* The child's only thread is then not the one that started the program. */
    join(start(fork_and_return, &child));
    expect_success(child);
    /* The same, while the parent has a ticker of its own. */
    burst_and_end(NULL);
    join(start(fork_and_return, &child));
    expect_success(child);
}

static unsigned new_identity;

static int has_identity(int task, void *context) {
    const char *text = task_text(task, "status");
    static const char *const lines[] = {"\nUid:", "\nGid:"};
    for (size_t i = 0; i < COUNT(lines); i++) {
        const char *line = strstr(text, lines[i]);
        unsigned ids[4] = {0};
        /* A thread that has ended meanwhile has none. */
        if (!line)
            continue;
        CHECK(sscanf(line + 5, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4);
        for (size_t j = 0; j < COUNT(ids); j++)
            *(int *)context &= ids[j] == new_identity;
    }
    return 1;
}

static int all_have_the_new_identity(void) {
    int all = 1;
    for_each_task(has_identity, &all);
    return all;
}

static void the_ticker_becomes(unsigned identity) {
    if (geteuid() != 0)
        return;
    new_identity = identity;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct hand hand;
        hand_make(&hand, 100000, 1);
        hand_fill(&hand, 40 * MIB, 16, 4096);
        COMES_TRUE((do_a_little(), ticker()), "none in a burst");
        CHECK(setgid(identity) == 0 && setuid(identity) == 0);
        for (int round = 0; round < 20; round++)
            COMES_TRUE((do_a_little(), all_have_the_new_identity() && ticker()), "it stays root");
        hand_empty(&hand);
        exit(0);
    }
    expect_success(child);
}

static void the_ticker_has_the_programs_identity(void) { the_ticker_becomes(65534); }

/* 0x10001: both halves are the same. */
static void the_ticker_has_an_identity_of_equal_halves(void) { the_ticker_becomes(65537); }

static void ten_children_forked_while_releasing(void) {
    struct hand hand;
    hand_make(&hand, 200000, 1);
    burst(&hand, 100 * KIB);
    size_t base = resident_bytes();
    pid_t children[10];
    size_t peak = 0;
    for (unsigned i = 0; i < COUNT(children); i++) {
        hand_fill(&hand, 60 * MIB, 16, 32768);
        if (peak == 0)
            peak = resident_bytes();
        hand_empty(&hand);
        /* At a time of its own in the release. */
        nap(i * 12);
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            hand.random += i * 2;
            hand_fill(&hand, 60 * MIB, 16, 32768);
            hand_empty(&hand);
            COMES_BACK(base, peak);
            COMES_TO_REST(1);
            exit(0);
        }
    }
    /* After a fork it ticks by itself for a while. */
    COMES_TRUE((do_a_little(), is_near(base, peak)), "%zu of %zu", resident_bytes(), peak);
    COMES_TO_REST(1);
    for (unsigned i = 0; i < COUNT(children); i++)
        expect_success(children[i]);
}

enum { MANY = 1000 };
static atomic_int threads_there, threads_done;
static int second_gate[2];

/* The stack is not the heap's: touch it before anything is measured. */
static void touch_the_stack(void) {
    volatile char bytes[32 * KIB];
    for (size_t i = 0; i < sizeof bytes; i += PAGE / 2)
        bytes[i] = 1;
}

/* Allocates a hundred blocks of sizes from 16 to below `end`, and frees them all. */
static void use_a_hundred_blocks(uintptr_t seed, size_t end) {
    uint32_t random = (uint32_t)seed * 40503u | 1;
    void *blocks[100];
    for (size_t i = 0; i < COUNT(blocks); i++) {
        size_t size = 16 + draw(&random) % (end - 16);
        blocks[i] = malloc(size);
        CHECK(blocks[i]);
        memset(blocks[i], 1, size);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
}

static void *fill_a_small_cache_and_block(void *argument) {
    touch_the_stack();
    /* It has a cache from here on: the record stays, what is in it does not. */
    free(malloc(1));
    atomic_fetch_add(&threads_there, 1);
    gate_wait();
    use_a_hundred_blocks((uintptr_t)argument, 16 + 1300);
    atomic_fetch_add(&threads_done, 1);
    char byte;
    CHECK(read(second_gate[0], &byte, 1) == 0);
    return NULL;
}

static void a_thousand_blocked_threads(void) {
    static pthread_t threads[MANY];
    gate_make();
    CHECK(pipe(second_gate) == 0);
    pthread_attr_t small;
    CHECK(pthread_attr_init(&small) == 0);
    CHECK(pthread_attr_setstacksize(&small, 128 * KIB) == 0);
    for (uintptr_t i = 0; i < MANY; i++) {
        int error = pthread_create(&threads[i], &small, fill_a_small_cache_and_block, (void *)(i + 1));
        CHECK(error == 0, "%d", error);
    }
    COMES_TRUE(atomic_load(&threads_there) == MANY, "%d there", atomic_load(&threads_there));
    COMES_TO_REST(MANY + 1);
    size_t before = resident_bytes();
    gate_open();
    COMES_TRUE(atomic_load(&threads_done) == MANY, "%d done", atomic_load(&threads_done));
    COMES_TRUE(resident_bytes() <= before + 5 * MIB, "%zu to %zu", before, resident_bytes());
    COMES_TO_REST(MANY + 1);
    CHECK(close(second_gate[1]) == 0);
    for (size_t i = 0; i < MANY; i++)
        join(threads[i]);
}

static void *hold_and_end(void *argument) {
    use_a_hundred_blocks((uintptr_t)argument, 16 + 2032);
    return NULL;
}

static void ten_thousand_short_threads(void) {
    enum { AT_A_TIME = 20, THREADS = 10000 };
    pthread_t threads[AT_A_TIME];
    struct hand hand;
    size_t base = 0;
    /* So much is live that there is a ticker. */
    hand_make(&hand, 1000, 1);
    hand_fill(&hand, 8 * MIB, 64 * KIB, 128 * KIB);
    for (uintptr_t i = 0; i < THREADS; i += AT_A_TIME) {
        for (uintptr_t j = 0; j < AT_A_TIME; j++)
            threads[j] = start(hold_and_end, (void *)(i + j + 1));
        for (uintptr_t j = 0; j < AT_A_TIME; j++)
            join(threads[j]);
        /* libc keeps stacks, the allocator records: both of so many threads at most. */
        if (i == AT_A_TIME) {
            COMES_TO_REST(1);
            base = resident_bytes();
        }
    }
    COMES_TRUE(resident_bytes() <= base + MIB, "%zu to %zu", base, resident_bytes());
    hand_empty(&hand);
}

static void *burst_each_cycle(void *argument) {
    for (int cycle = 0; cycle < 100; cycle++) {
        pthread_barrier_wait(&step);
        burst(argument, 2 * MIB);
        pthread_barrier_wait(&step);
    }
    gate_wait();
    return NULL;
}

static void a_hundred_bursts_and_rests_do_not_add_up(void) {
    /* Bursts so near to each other are what makes pages rest longer. */
    again_with("SLACKWATER_EPOCH_MS", "5", "a_hundred_bursts_and_rests_do_not_add_up");
    gate_make();
    CHECK(pthread_barrier_init(&step, NULL, CREW + 1) == 0);
    pthread_t threads[CREW];
    for (unsigned i = 0; i < CREW; i++)
        hand_make(&hands[i], 10000, i + 1);
    for (unsigned i = 0; i < CREW; i++)
        threads[i] = start(burst_each_cycle, &hands[i]);
    size_t twentieth = 0, last = 0;
    for (int cycle = 0; cycle < 100; cycle++) {
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        COMES_TO_REST(CREW + 1);
        last = resident_bytes();
        if (cycle == 19)
            twentieth = last;
    }
    CHECK(last <= twentieth + 256 * KIB, "%zu to %zu", twentieth, last);
    gate_open();
    for (unsigned i = 0; i < CREW; i++)
        join(threads[i]);
}

static void exec_of_a_vfork_child_leaves_the_parents_ticker(void) {
    pthread_t threads[2];
    for (unsigned i = 0; i < CREW; i++)
        hand_make(&hands[i], 100000, i + 1);
    burst(&hands[2], 100 * KIB);
    size_t base = resident_bytes();
    for (unsigned i = 0; i < COUNT(threads); i++)
        threads[i] = start(burst_until_told, &hands[i]);
    for (int round = 0; round < 50; round++) {
        pid_t child = vfork();
        CHECK(child >= 0);
        if (child == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(127);
        }
        expect_success(child);
        burst(&hands[2], MIB);
    }
    COMES_TRUE((do_a_little(), ticker()), "none in a burst");
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    hand_fill(&hands[2], 60 * MIB, 16, 32768);
    size_t peak = resident_bytes();
    hand_empty(&hands[2]);
    COMES_BACK(base, peak);
    COMES_TO_REST(1);
}

/* POSIX allows a child of vfork nothing but exec; some allocate all the same. A ticker that such a
 * child started is its own thread, in its parent's memory, and dies with its exec. */
static void a_ticker_that_a_vfork_child_started_is_not_counted_on(void) {
    struct hand hand;
    hand_make(&hand, 100000, 1);
    burst(&hand, 100 * KIB);
    size_t base = resident_bytes();
    for (int round = 0; round < 10; round++) {
        hand_fill(&hand, 60 * MIB, 16, 32768);
        size_t peak = resident_bytes();
        COMES_TO_REST(1);
        pid_t child = vfork();
        CHECK(child >= 0);
        if (child == 0) {
            do_a_little();
            execl("/bin/true", "true", (char *)NULL);
            _exit(127);
        }
        expect_success(child);
        hand_empty(&hand);
        COMES_BACK(base, peak);
        COMES_TO_REST(1);
    }
}

static const struct check checks[] = {
    {"everything_freed_by_blocked_threads_goes_back", everything_freed_by_blocked_threads_goes_back},
    {"medium_blocks_freed_by_blocked_threads_go_back",
     medium_blocks_freed_by_blocked_threads_go_back},
    {"large_blocks_freed_by_blocked_threads_go_back", large_blocks_freed_by_blocked_threads_go_back},
    {"a_thread_blocked_for_ever_keeps_no_cached_blocks",
     a_thread_blocked_for_ever_keeps_no_cached_blocks},
    {"scattered_survivors_keep_only_their_pages", scattered_survivors_keep_only_their_pages},
    {"the_ticker_is_there_while_needed_and_gone_at_rest",
     the_ticker_is_there_while_needed_and_gone_at_rest},
    {"a_small_program_has_no_ticker", a_small_program_has_no_ticker},
    {"the_ticker_takes_no_signals", the_ticker_takes_no_signals},
    {"the_ticker_has_no_priority_and_no_place_of_the_programs",
     the_ticker_has_no_priority_and_no_place_of_the_programs},
    {"it_can_be_forbidden", it_can_be_forbidden},
    {"release_can_be_off", release_can_be_off},
    {"the_process_ends_with_its_last_thread", the_process_ends_with_its_last_thread},
    {"the_ticker_has_the_programs_identity", the_ticker_has_the_programs_identity},
    {"the_ticker_has_an_identity_of_equal_halves", the_ticker_has_an_identity_of_equal_halves},
    {"ten_children_forked_while_releasing", ten_children_forked_while_releasing},
    {"a_thousand_blocked_threads", a_thousand_blocked_threads},
    {"ten_thousand_short_threads", ten_thousand_short_threads},
    {"a_hundred_bursts_and_rests_do_not_add_up", a_hundred_bursts_and_rests_do_not_add_up},
    {"exec_of_a_vfork_child_leaves_the_parents_ticker",
     exec_of_a_vfork_child_leaves_the_parents_ticker},
    {"a_ticker_that_a_vfork_child_started_is_not_counted_on",
     a_ticker_that_a_vfork_child_started_is_not_counted_on},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
