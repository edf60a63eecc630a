/* Threads, forks, signals and libraries that come and go around the allocator. */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/wait.h>

/* A block that says what must be in it, so that any thread can check it. */
struct parcel {
    size_t size;
    unsigned seed;
};

static struct parcel *parcel_new(uint32_t *random) {
    size_t size = sizeof(struct parcel) + draw_size(random);
    struct parcel *parcel = malloc(size);
    CHECK(parcel, "size %zu", size);
    parcel->size = size;
    parcel->seed = draw(random);
    fill(parcel + 1, size - sizeof *parcel, parcel->seed);
    return parcel;
}

static void parcel_free(struct parcel *parcel) {
    if (!parcel)
        return;
    CHECK(holds(parcel + 1, parcel->size - sizeof *parcel, parcel->seed), "%p", (void *)parcel);
    free(parcel);
}

static atomic_int stop;

/* Keeps every part of the allocator busy until told to stop. */
static void *churn(void *argument) {
    uint32_t random = (uint32_t)(uintptr_t)argument * 2654435761u | 1;
    struct parcel *held[64] = {NULL};
    while (!atomic_load(&stop)) {
        unsigned at = draw(&random) % COUNT(held);
        parcel_free(held[at]);
        held[at] = parcel_new(&random);
    }
    for (size_t at = 0; at < COUNT(held); at++)
        parcel_free(held[at]);
    return NULL;
}

enum { CHURNERS = 4 };
static pthread_t churners[CHURNERS];

static void churn_begin(void) {
    for (uintptr_t i = 0; i < CHURNERS; i++)
        churners[i] = start(churn, (void *)(i + 1));
}

static void churn_end(void) {
    atomic_store(&stop, 1);
    for (int i = 0; i < CHURNERS; i++)
        join(churners[i]);
}

static void expect_success(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", status);
}

static void *allocate_every_kind(void *argument) {
    for (size_t i = 0; i < COUNT(kind_sizes) && kind_sizes[i] <= 2 * MIB + 1; i++) {
        void *block = malloc(kind_sizes[i]);
        CHECK(block, "size %zu", kind_sizes[i]);
        fill(block, kind_sizes[i], 2);
        block = realloc(block, kind_sizes[i] * 2);
        CHECK(block && holds_part(block, kind_sizes[i], kind_sizes[i], 2));
        free(block);
        block = calloc(1, kind_sizes[i]);
        CHECK(block && all_zero(block, kind_sizes[i]), "size %zu", kind_sizes[i]);
        free(block);
    }
    return argument;
}

/* What a forked child may do and many do: read and free its parent's blocks, start threads. */
static void child_work(struct parcel **inherited, size_t count, int round) {
    for (size_t i = 0; i < count; i++) {
        if (i % 2)
            parcel_free(inherited[i]);
        else
            CHECK(holds(inherited[i] + 1, inherited[i]->size - sizeof **inherited,
                        inherited[i]->seed));
    }
    allocate_every_kind(NULL);
    uint32_t random = (uint32_t)round + 1;
    for (int i = 0; i < 500; i++)
        parcel_free(parcel_new(&random));
    if (round % 4 == 0)
        join(start(allocate_every_kind, NULL));
    if (round % 10 == 0) {
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            allocate_every_kind(NULL);
            exit(0);
        }
        expect_success(grandchild);
    }
    malloc_trim(0);
}

static void *fork_a_hundred_times(void *argument) {
    uint32_t random = 99;
    struct parcel *inherited[200];
    for (size_t i = 0; i < COUNT(inherited); i++)
        inherited[i] = parcel_new(&random);
    for (int round = 0; round < 100; round++) {
        pid_t child = fork();
        CHECK(child >= 0, "%d", errno);
        if (child == 0) {
            child_work(inherited, COUNT(inherited), round);
            exit(0);
        }
        expect_success(child);
        parcel_free(parcel_new(&random));
    }
    for (size_t i = 0; i < COUNT(inherited); i++)
        parcel_free(inherited[i]);
    return argument;
}

static void fork_under_threads(void) {
    churn_begin();
    fork_a_hundred_times(NULL);
    churn_end();
}

/* The child's only thread is then not the one that started the program. */
static void fork_from_a_thread(void) {
    churn_begin();
    join(start(fork_a_hundred_times, NULL));
    churn_end();
}

static void allocate_at_fork(void) {
    void *block = malloc(700);
    CHECK(block);
    fill(block, 700, 3);
    free(block);
    free(malloc(300000));
}

static void fork_handlers_may_allocate(void) {
    CHECK(pthread_atfork(allocate_at_fork, allocate_at_fork, allocate_at_fork) == 0);
    churn_begin();
    fork_a_hundred_times(NULL);
    churn_end();
}

static void vfork_and_spawn(void) {
    extern char **environ;
    churn_begin();
    for (int round = 0; round < 100; round++) {
        pid_t child = vfork();
        CHECK(child >= 0);
        if (child == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(127);
        }
        expect_success(child);
        parcel_free(parcel_new(&(uint32_t){(uint32_t)round + 1}));

        char *const arguments[] = {"true", NULL};
        CHECK(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) == 0);
        expect_success(child);
    }
    CHECK(system("exit 0") == 0);
    churn_end();
}

enum { EXCHANGE = 4096 };
static _Atomic(struct parcel *) exchange[EXCHANGE];

static void *put_and_exit(void *argument) {
    uint32_t random = (uint32_t)(uintptr_t)argument * 40503u | 1;
    for (int i = 0; i < 2000; i++) {
        unsigned at = draw(&random) % EXCHANGE;
        parcel_free(atomic_exchange(&exchange[at], parcel_new(&random)));
    }
    return NULL;
}

static void *sweep(void *argument) {
    while (!atomic_load(&stop)) {
        for (unsigned at = 0; at < EXCHANGE; at++)
            parcel_free(atomic_exchange(&exchange[at], NULL));
    }
    return argument;
}

static void empty_the_exchange(void) {
    for (unsigned at = 0; at < EXCHANGE; at++)
        parcel_free(atomic_exchange(&exchange[at], NULL));
}

static void threads_exit_while_others_free_their_blocks(void) {
    pthread_t sweepers[2] = {start(sweep, NULL), start(sweep, NULL)};
    for (int round = 0; round < 50; round++) {
        pthread_t threads[8];
        for (uintptr_t i = 0; i < COUNT(threads); i++)
            threads[i] = start(put_and_exit, (void *)(round * 8 + i + 1));
        for (size_t i = 0; i < COUNT(threads); i++)
            join(threads[i]);
    }
    atomic_store(&stop, 1);
    join(sweepers[0]);
    join(sweepers[1]);
    empty_the_exchange();
}

static void two_hundred_threads(void) {
    static pthread_t threads[200];
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        threads[i] = start(put_and_exit, (void *)(i + 1));
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    empty_the_exchange();
}

/* A dead thread's cache is given back: many short threads do not add up. */
static void *hold_and_exit(void *argument) {
    void *blocks[256];
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = malloc(1000);
        CHECK(blocks[i]);
        memset(blocks[i], 1, 1000);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
    return argument;
}

static void short_threads_do_not_add_up(void) {
    for (int i = 0; i < 100; i++)
        join(start(hold_and_exit, NULL));
    size_t before = resident_bytes();
    for (int i = 0; i < 3000; i++)
        join(start(hold_and_exit, NULL));
    /* Each had 256 KB: 750 MB if they were kept. */
    CHECK(resident_bytes() < before + 32 * MIB, "%zu to %zu", before, resident_bytes());
}

static pthread_key_t late_keys[48];
static atomic_int destructions;

/* Runs after the allocator's own destructor for this thread: it allocates, frees and puts a new
 * block in its place, for as many rounds as POSIX gives. */
static void destroy(void *value) {
    struct parcel *parcel = value;
    unsigned round = parcel->seed;
    atomic_fetch_add(&destructions, 1);
    uint32_t random = round * 7919 + 1;
    for (int i = 0; i < 20; i++)
        parcel_free(parcel_new(&random));
    free(parcel);
    if (round < 3) {
        struct parcel *next = calloc(1, sizeof *next + 100 * round);
        CHECK(next);
        next->seed = round + 1;
        CHECK(pthread_setspecific(late_keys[0], next) == 0);
    }
}

static void *leave_values_behind(void *argument) {
    for (size_t i = 0; i < COUNT(late_keys); i++) {
        struct parcel *parcel = calloc(1, sizeof *parcel + i * 50);
        CHECK(parcel);
        parcel->seed = 100;
        CHECK(pthread_setspecific(late_keys[i], parcel) == 0);
    }
    struct parcel *first = pthread_getspecific(late_keys[0]);
    first->seed = 1;
    return argument;
}

static void key_destructors_allocate_and_free(void) {
    for (size_t i = 0; i < COUNT(late_keys); i++)
        CHECK(pthread_key_create(&late_keys[i], destroy) == 0);
    pthread_t threads[64];
    for (size_t i = 0; i < COUNT(threads); i++)
        threads[i] = start(leave_values_behind, NULL);
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    int seen = atomic_load(&destructions);
    CHECK(seen >= (int)(COUNT(threads) * (COUNT(late_keys) + 2)), "%d", seen);
}

struct plugin {
    void *handle;
    void *(*take)(size_t);
    void (*give)(void *);
};

static struct plugin plugin_open(void) {
    struct plugin plugin;
    const char *path = getenv("SLACKWATER_CHECK_PLUGIN");
    CHECK(path);
    plugin.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(plugin.handle, "%s", dlerror());
    plugin.take = (void *(*)(size_t))dlsym(plugin.handle, "plugin_take");
    plugin.give = (void (*)(void *))dlsym(plugin.handle, "plugin_give");
    CHECK(plugin.take && plugin.give);
    return plugin;
}

static void *use_plugin(void *argument) {
    (void)argument;
    for (int round = 0; round < 50; round++) {
        struct plugin plugin = plugin_open();
        void *theirs = plugin.take(1000 + (size_t)round * 100);
        void *ours = malloc(500);
        CHECK(theirs && ours);
        plugin.give(ours);
        CHECK(dlclose(plugin.handle) == 0);
        /* The block outlives the library that asked for it. */
        free(theirs);
    }
    return NULL;
}

static void libraries_come_and_go(void) {
    use_plugin(NULL);
    churn_begin();
    pthread_t threads[3];
    for (size_t i = 0; i < COUNT(threads); i++)
        threads[i] = start(use_plugin, NULL);
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    churn_end();
}

enum { SIGNALS = 4000 };
static atomic_int signals_handled;
static atomic_int handler_blocks, handler_refusals;
static size_t handler_limit;
static _Atomic(struct parcel *) handler_kept[16];

/* Not a thing POSIX allows; programs do it (crash reporters, profilers), and it must not deadlock or
 * corrupt. Takes whatever it interrupts by surprise, itself included in other threads. */
static void allocate_in_handler(int signal_number) {
    (void)signal_number;
    /* On a slow machine the next signal is due before this one is handled: once there were enough,
     * the interrupted code must get to see it. */
    if (atomic_load(&signals_handled) >= SIGNALS)
        return;
    int saved = errno;
    static atomic_uint runs;
    uint32_t random = atomic_fetch_add(&runs, 1) * 2654435761u | 1;
    for (int i = 0; i < 4; i++) {
        size_t size = sizeof(struct parcel) + draw(&random) % handler_limit;
        struct parcel *parcel = i % 2 ? calloc(1, size) : malloc(size);
        atomic_fetch_add(&handler_blocks, 1);
        if (!parcel) {
            /* The interrupted call holds what this one needs: refused, as documented, not waited for. */
            CHECK(errno == ENOMEM, "errno %d", errno);
            atomic_fetch_add(&handler_refusals, 1);
            continue;
        }
        parcel->size = size;
        parcel->seed = draw(&random);
        fill(parcel + 1, size - sizeof *parcel, parcel->seed);
        parcel_free(atomic_exchange(&handler_kept[draw(&random) % COUNT(handler_kept)], parcel));
    }
    errno = saved;
    atomic_fetch_add(&signals_handled, 1);
}

/* Refusals are for the rare signal that hits the page heap; they must not become the rule. */
static void refusals_are_rare(void) {
    int blocks = atomic_load(&handler_blocks), refusals = atomic_load(&handler_refusals);
    CHECK(refusals * 10 <= blocks, "%d of %d refused", refusals, blocks);
}

static void handle(int signal_number) {
    struct sigaction action = {.sa_handler = allocate_in_handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(signal_number, &action, NULL) == 0);
}

static void interrupt_the_main_thread(size_t limit) {
    handler_limit = limit;
    handle(SIGALRM);
    struct itimerval often = {{0, 150}, {0, 150}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    uint32_t random = 5;
    struct parcel *held[64] = {NULL};
    while (atomic_load(&signals_handled) < SIGNALS) {
        unsigned at = draw(&random) % COUNT(held);
        parcel_free(held[at]);
        held[at] = parcel_new(&random);
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    refusals_are_rare();
    for (size_t at = 0; at < COUNT(held); at++)
        parcel_free(held[at]);
    for (size_t at = 0; at < COUNT(handler_kept); at++)
        parcel_free(handler_kept[at]);
}

static void signal_handlers_allocate_small_blocks(void) { interrupt_the_main_thread(1024); }

static void signal_handlers_allocate_every_kind(void) { interrupt_the_main_thread(200000); }

static void signal_handlers_allocate_in_every_thread(void) {
    handler_limit = 1024;
    handle(SIGUSR1);
    churn_begin();
    for (int i = 0; atomic_load(&signals_handled) < SIGNALS; i++) {
        CHECK(pthread_kill(churners[i % CHURNERS], SIGUSR1) == 0);
        if (i % 16 == 0)
            sched_yield();
    }
    churn_end();
    refusals_are_rare();
    for (size_t at = 0; at < COUNT(handler_kept); at++)
        parcel_free(handler_kept[at]);
}

/* pthread_cancel unwinds a thread out of the middle of its life; its blocks stay valid. */
static void *allocate_until_cancelled(void *argument) {
    uint32_t random = (uint32_t)(uintptr_t)argument | 1;
    for (;;) {
        for (int i = 0; i < 50; i++) {
            unsigned at = draw(&random) % EXCHANGE;
            parcel_free(atomic_exchange(&exchange[at], parcel_new(&random)));
        }
        pthread_testcancel();
    }
    return NULL;
}

static void cancelled_threads_leave_valid_blocks(void) {
    for (int round = 0; round < 50; round++) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < COUNT(threads); i++)
            threads[i] = start(allocate_until_cancelled, (void *)(round * 4 + i + 1));
        for (int i = 0; i < 20; i++)
            sched_yield();
        for (size_t i = 0; i < COUNT(threads); i++) {
            CHECK(pthread_cancel(threads[i]) == 0);
            join(threads[i]);
        }
    }
    empty_the_exchange();
}

static void free_at_exit(void) {
    empty_the_exchange();
    allocate_every_kind(NULL);
}

static void exit_handlers_allocate_and_free(void) {
    CHECK(atexit(free_at_exit) == 0);
    churn_begin();
    put_and_exit((void *)1);
    /* The churners go on while the process ends around them. */
    exit(0);
}

static const struct check checks[] = {
    {"fork_under_threads", fork_under_threads},
    {"fork_from_a_thread", fork_from_a_thread},
    {"fork_handlers_may_allocate", fork_handlers_may_allocate},
    {"vfork_and_spawn", vfork_and_spawn},
    {"threads_exit_while_others_free_their_blocks", threads_exit_while_others_free_their_blocks},
    {"two_hundred_threads", two_hundred_threads},
    {"short_threads_do_not_add_up", short_threads_do_not_add_up},
    {"key_destructors_allocate_and_free", key_destructors_allocate_and_free},
    {"libraries_come_and_go", libraries_come_and_go},
    {"signal_handlers_allocate_small_blocks", signal_handlers_allocate_small_blocks},
    {"signal_handlers_allocate_every_kind", signal_handlers_allocate_every_kind},
    {"signal_handlers_allocate_in_every_thread", signal_handlers_allocate_in_every_thread},
    {"cancelled_threads_leave_valid_blocks", cancelled_threads_leave_valid_blocks},
    {"exit_handlers_allocate_and_free", exit_handlers_allocate_and_free},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
