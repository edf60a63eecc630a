/* A workload that must stay right while the kernel refuses one system call, or does nothing and says that it has done
 * it all (an error of 0). The checks are the faults,
 * each "early" (the filter stands before the allocator starts: the program sets it and starts itself
 * anew) and "late" (the allocator is at work when the call begins to fail). */
#include "check.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

/* Tells the test that there is no seccomp here, which is not a failure of the allocator. */
enum { NO_SECCOMP = 77 };

struct fault {
    const char *name;
    int number;
    int error;
    /* The fault takes memory away: NULL with ENOMEM is then a right answer. */
    int refuses_memory;
    /* Pages can still be given back: malloc_trim must do it some other way. */
    int release_works;
    /* Nothing starts without this call, so it can only fail late. */
    int loader_needs_it;
};

static const struct fault faults[] = {
    {"process_madvise_enosys", SYS_process_madvise, ENOSYS, 0, 1, 0},
    {"process_madvise_eperm", SYS_process_madvise, EPERM, 0, 1, 0},
    {"process_madvise_einval", SYS_process_madvise, EINVAL, 0, 1, 0},
    {"process_madvise_pretends", SYS_process_madvise, 0, 0, 1, 0},
    {"pidfd_open_enosys", SYS_pidfd_open, ENOSYS, 0, 1, 0},
    {"pidfd_open_emfile", SYS_pidfd_open, EMFILE, 0, 1, 0},
    {"membarrier_enosys", SYS_membarrier, ENOSYS, 0, 1, 0},
    {"membarrier_eperm", SYS_membarrier, EPERM, 0, 1, 0},
    {"madvise_einval", SYS_madvise, EINVAL, 0, 0, 0},
    {"madvise_enomem", SYS_madvise, ENOMEM, 0, 0, 0},
    {"madvise_pretends", SYS_madvise, 0, 0, 0, 0},
    {"mremap_enomem", SYS_mremap, ENOMEM, 0, 1, 0},
    {"mmap_enomem", SYS_mmap, ENOMEM, 1, 0, 1},
    {"mprotect_enomem", SYS_mprotect, ENOMEM, 1, 0, 1},
    {"munmap_enomem", SYS_munmap, ENOMEM, 1, 0, 1},
    {"prctl_einval", SYS_prctl, EINVAL, 0, 1, 0},
    {"getrandom_enosys", SYS_getrandom, ENOSYS, 0, 1, 0},
    {"clone_eagain", SYS_clone, EAGAIN, 0, 1, 0},
    {"unshare_eperm", SYS_unshare, EPERM, 0, 1, 0},
    {"sched_setscheduler_eperm", SYS_sched_setscheduler, EPERM, 0, 1, 0},
};

/* A call that would do the same in another way does not exist either; -1 if there is none. For clone, libc then falls
 * back to the call under test. */
static int other_way(int number) {
    return number == SYS_clone ? SYS_clone3 : number == SYS_madvise ? SYS_process_madvise : -1;
}

/* Every thread from now on, and those that are here already, meets the fault. */
static void install(const struct fault *fault) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)other_way(fault->number), 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)fault->number, 0, 2),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)fault->error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT(steps), steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) {
        dprintf(STDERR_FILENO, "seccomp: %s\n", strerror(errno));
        _exit(NO_SECCOMP);
    }
}

/* The filter really filters; all arguments are ones that the call would refuse otherwise too. */
static void check_in_force(const struct fault *fault) {
    errno = 0;
    long result = syscall(fault->number, -1L, -1L, -1L, -1L, -1L, -1L);
    long expected = fault->error ? -1 : 0;
    CHECK(result == expected && errno == fault->error, "%s: %ld, %d", fault->name, result, errno);
}

static const struct fault *fault_in_force;

/* What malloc may answer: a block, or NULL with ENOMEM where memory is really refused. */
static void *answered(void *block) {
    if (!block) {
        CHECK(errno == ENOMEM, "%d", errno);
        CHECK(fault_in_force->refuses_memory, "%s takes no memory away", fault_in_force->name);
    }
    return block;
}

enum { SLOTS = 300, ROUNDS = 30000 };
struct slot {
    unsigned char *block;
    size_t size;
    unsigned seed;
};

static void check_slot(const struct slot *slot) {
    CHECK(holds(slot->block, slot->size, slot->seed), "%zu bytes", slot->size);
}

static void put(struct slot *slot, void *block, size_t size, unsigned seed) {
    slot->block = block;
    slot->size = block ? size : 0;
    slot->seed = seed;
    if (block)
        fill(block, size, seed);
}

static void walk(uint32_t random) {
    struct slot *slots = answered(calloc(SLOTS, sizeof *slots));
    if (!slots)
        return;
    for (int round = 0; round < ROUNDS; round++) {
        struct slot *slot = &slots[draw(&random) % SLOTS];
        size_t size = draw_size(&random);
        unsigned seed = draw(&random);
        check_slot(slot);
        errno = 0;
        switch (draw(&random) % 4) {
        case 0: {
            free(slot->block);
            errno = 0;
            void *zeroed = answered(calloc(1, size));
            CHECK(!zeroed || all_zero(zeroed, size), "round %d, %zu bytes", round, size);
            put(slot, zeroed, size, seed);
            break;
        }
        case 1: {
            size_t kept = slot->size < size ? slot->size : size;
            void *moved = answered(realloc(slot->block, size));
            if (!moved) {
                check_slot(slot);
                break;
            }
            CHECK(holds_part(moved, kept, slot->size, slot->seed), "round %d", round);
            put(slot, moved, size, seed);
            break;
        }
        default:
            free(slot->block);
            errno = 0;
            put(slot, answered(malloc(size)), size, seed);
        }
        if (round % 2000 == 0)
            malloc_trim(0);
    }
    for (int i = 0; i < SLOTS; i++) {
        check_slot(&slots[i]);
        free(slots[i].block);
    }
    free(slots);
}

static void grow_beyond_segments(void) {
    unsigned char *block = NULL;
    size_t size = 0;
    for (size_t next = 100 * KIB; next <= 64 * MIB; next *= 2) {
        errno = 0;
        unsigned char *moved = answered(realloc(block, next));
        if (!moved) {
            CHECK(holds(block, size, 8), "%zu bytes", size);
            break;
        }
        CHECK(holds_part(moved, size, size, 8), "%zu to %zu", size, next);
        block = moved;
        size = next;
        fill(block, size, 8);
    }
    free(block);
    errno = 0;
    block = answered(calloc(1, 8 * MIB));
    CHECK(!block || all_zero(block, 8 * MIB));
    free(block);
}

/* A page that could not be given back is dirty, and calloc must know. */
static void zero_after_a_trim(void) {
    static const size_t sizes[] = {64, 1000, 3000, 20000, 300000, 5 * MIB};
    static void *blocks[2000];
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t count = 10 * MIB / sizes[i] < COUNT(blocks) ? 10 * MIB / sizes[i] : COUNT(blocks);
        for (size_t k = 0; k < count; k++) {
            errno = 0;
            blocks[k] = answered(malloc(sizes[i]));
            if (blocks[k])
                memset(blocks[k], 0xee, malloc_usable_size(blocks[k]));
        }
        for (size_t k = 0; k < count; k++)
            free(blocks[k]);
        malloc_trim(0);
        for (size_t k = 0; k < count; k++) {
            errno = 0;
            blocks[k] = answered(calloc(1, sizes[i]));
            CHECK(!blocks[k] || all_zero(blocks[k], sizes[i]), "%zu bytes", sizes[i]);
        }
        for (size_t k = 0; k < count; k++)
            free(blocks[k]);
    }
}

/* What a program did to its block's pages is undone before they are anybody else's. */
static void changes_of_pages(void) {
    for (size_t size = 10 * PAGE; size < 4 * MIB; size *= 3) {
        errno = 0;
        void *block = answered(aligned_alloc(PAGE, size));
        if (!block)
            continue;
        memset(block, 0x77, size);
        madvise(block, size, MADV_DONTFORK);
        mprotect(block, size, PROT_NONE);
        free(block);
        for (int i = 0; i < 4; i++) {
            errno = 0;
            void *next = answered(calloc(1, size));
            CHECK(!next || all_zero(next, size), "%zu bytes", size);
            if (next)
                fill(next, size, 1);
            free(next);
        }
    }
}

static void release_some_way(void) {
    enum { BLOCKS = 32 * 1024 };
    static void *blocks[BLOCKS];
    size_t before = resident_bytes();
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(1000);
        CHECK(blocks[i]);
        memset(blocks[i], 1, 1000);
    }
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    malloc_trim(0);
    size_t after = resident_bytes();
    CHECK(after < before + 8 * MIB, "%zu to %zu", before, after);
}

static void work(void) {
    walk(12345);
    grow_beyond_segments();
    zero_after_a_trim();
    changes_of_pages();
    walk(54321);
}

/* Created before a late fault: their stacks are theirs already, they start work after it. */
static pthread_barrier_t begin;

static void *work_in_thread(void *argument) {
    pthread_barrier_wait(&begin);
    walk((uint32_t)(uintptr_t)argument);
    return NULL;
}

static void start_early(const char *program, const char *check) {
    static const char marker[] = "SLACKWATER_CHECK_STARTED";
    if (!getenv(marker)) {
        install(fault_in_force);
        CHECK(setenv(marker, "1", 1) == 0);
        execl("/proc/self/exe", program, check, (char *)NULL);
        CHECK(0, "exec: %d", errno);
    }
    check_in_force(fault_in_force);
    if (fault_in_force->release_works)
        release_some_way();
    work();
}

static void meet_late(void) {
    pthread_t threads[3];
    CHECK(pthread_barrier_init(&begin, NULL, COUNT(threads) + 1) == 0);
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        CHECK(pthread_create(&threads[i], NULL, work_in_thread, (void *)(i + 1)) == 0);
    uint32_t random = 3;
    for (int i = 0; i < 5000; i++) {
        size_t size = draw_size(&random);
        void *block = malloc(size);
        CHECK(block);
        fill(block, size, 1);
        free(block);
    }
    install(fault_in_force);
    check_in_force(fault_in_force);
    if (fault_in_force->release_works)
        release_some_way();
    pthread_barrier_wait(&begin);
    work();
    for (size_t i = 0; i < COUNT(threads); i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2, "which?");
    int listing = strcmp(argv[1], "--list") == 0;
    for (size_t i = 0; i < COUNT(faults); i++) {
        char early[64], late[64];
        snprintf(early, sizeof early, "early_%s", faults[i].name);
        snprintf(late, sizeof late, "late_%s", faults[i].name);
        if (listing) {
            printf("%s%s%s\n", faults[i].loader_needs_it ? "" : early,
                   faults[i].loader_needs_it ? "" : "\n", late);
            continue;
        }
        fault_in_force = &faults[i];
        if (strcmp(argv[1], early) == 0) {
            start_early(argv[0], argv[1]);
            return 0;
        }
        if (strcmp(argv[1], late) == 0) {
            meet_late();
            return 0;
        }
    }
    CHECK(listing, "%s: no such check", argv[1]);
    return 0;
}
