/* What a program has the kernel do to the pages of a block ends with the block; what the kernel does to pages is seen,
 * not believed. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* What is said of a mapping in smaps and is not what the heap's own are. */
static const char *const strange_flags[] = {" dc", " dd", " wf", " lo", " lf", " mg", " sr", " rr", " hg", " sh", " ex"};

/* Calls `visit` with the lines of smaps that say how the mappings in a range are protected and flagged. Without malloc,
 * whose blocks this is about. */
static void for_each_mapping(const void *start, size_t bytes,
                             void (*visit)(const char *protection, const char *flags, void *), void *context) {
    static char text[4 * 1024 * 1024];
    size_t length = 0;
    int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    for (ssize_t got; (got = read(fd, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    close(fd);
    text[length] = 0;
    uintptr_t covered = 0, from = (uintptr_t)start, to = from + bytes;
    char protection[5] = "";
    int is_inside = 0;
    char *saved;
    for (char *line = strtok_r(text, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved)) {
        unsigned long low, high;
        char read_protection[5];
        if (sscanf(line, "%lx-%lx %4s", &low, &high, read_protection) == 3) {
            memcpy(protection, read_protection, sizeof protection);
            is_inside = low < to && high > from;
            if (is_inside)
                covered += (high < to ? high : to) - (low > from ? low : from);
        } else if (is_inside && strncmp(line, "VmFlags:", 8) == 0) {
            visit(protection, line, context);
        }
    }
    CHECK(covered == bytes, "%zu of %zu bytes are mapped", (size_t)covered, bytes);
}

static void check_ordinary(const char *protection, const char *flags, void *what) {
    CHECK(strcmp(protection, "rw-p") == 0, "%s: %s", (char *)what, protection);
    for (size_t i = 0; i < COUNT(strange_flags); i++)
        CHECK(!strstr(flags, strange_flags[i]), "%s: %s", (char *)what, flags);
}

/* A block is an ordinary one: as the heap's mappings are, and zeros or anything in it. */
static void is_ordinary(void *block, size_t bytes, const char *what) {
    uintptr_t first = (uintptr_t)block & ~(PAGE - 1);
    uintptr_t end = ((uintptr_t)block + bytes + PAGE - 1) & ~(PAGE - 1);
    for_each_mapping((void *)first, end - first, check_ordinary, (void *)what);
    fill(block, bytes, 5);
    CHECK(holds(block, bytes, 5), "%s", what);
}

static void find_flag(const char *protection, const char *flags, void *wanted) {
    (void)protection;
    if (strstr(flags, *(const char **)wanted))
        *(const char **)wanted = NULL;
}

static int has_flag(const void *block, size_t bytes, const char *flag) {
    const char *wanted = flag;
    for_each_mapping(block, bytes, find_flag, &wanted);
    return wanted == NULL;
}

static size_t locked_bytes(void) {
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    CHECK(length > 0);
    text[length] = 0;
    size_t kib;
    const char *line = strstr(text, "VmLck:");
    CHECK(line && sscanf(line, "VmLck: %zu", &kib) == 1);
    return kib * KIB;
}

/* What can be done to pages, and how smaps calls it. */
struct change {
    const char *name;
    int (*make)(void *start, size_t bytes);
    const char *flag;
};

static int dont_fork(void *start, size_t bytes) { return madvise(start, bytes, MADV_DONTFORK); }
static int dont_dump(void *start, size_t bytes) { return madvise(start, bytes, MADV_DONTDUMP); }
static int wipe_on_fork(void *start, size_t bytes) { return madvise(start, bytes, MADV_WIPEONFORK); }
static int mergeable(void *start, size_t bytes) { return madvise(start, bytes, MADV_MERGEABLE); }
static int huge_pages(void *start, size_t bytes) { return madvise(start, bytes, MADV_HUGEPAGE); }
static int at_random(void *start, size_t bytes) { return posix_madvise(start, bytes, POSIX_MADV_RANDOM); }
static int guard(void *start, size_t bytes) { return madvise(start, bytes, MADV_GUARD_INSTALL); }
static int lock(void *start, size_t bytes) { return mlock(start, bytes); }
static int lock_on_fault(void *start, size_t bytes) { return mlock2(start, bytes, MLOCK_ONFAULT); }
static int read_only(void *start, size_t bytes) { return mprotect(start, bytes, PROT_READ); }
static int no_access(void *start, size_t bytes) { return mprotect(start, bytes, PROT_NONE); }
static int executable(void *start, size_t bytes) { return pkey_mprotect(start, bytes, PROT_READ | PROT_EXEC, -1); }

static int shared_with_others(void *start, size_t bytes) {
    int flags = MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS;
    return mmap(start, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == start ? 0 : -1;
}

static int moved_away(void *start, size_t bytes) {
    void *elsewhere = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(elsewhere != MAP_FAILED);
    return mremap(start, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere) == elsewhere ? 0 : -1;
}

static int moved_here(void *start, size_t bytes) {
    void *other = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(other != MAP_FAILED);
    return mremap(other, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, start) == start ? 0 : -1;
}

static const struct change changes[] = {
    {"MADV_DONTFORK", dont_fork, " dc"},     {"MADV_DONTDUMP", dont_dump, " dd"},
    {"MADV_WIPEONFORK", wipe_on_fork, " wf"}, {"MADV_MERGEABLE", mergeable, " mg"},
    {"MADV_HUGEPAGE", huge_pages, " hg"},    {"POSIX_MADV_RANDOM", at_random, " rr"},
    {"MADV_GUARD_INSTALL", guard, NULL},     {"mlock", lock, " lo"},
    {"mlock2", lock_on_fault, " lo"},        {"PROT_READ", read_only, NULL},
    {"PROT_NONE", no_access, NULL},          {"PROT_EXEC", executable, " ex"},
    {"MAP_SHARED", shared_with_others, " sh"}, {"mremap to another place", moved_away, NULL},
    {"mremap from another place", moved_here, " sh"},
};

/* Not every kernel has all of them. */
static int is_made(const struct change *change, void *start, size_t bytes) {
    if (change->make(start, bytes) != 0)
        return 0;
    CHECK(!change->flag || has_flag(start, bytes, change->flag), "%s", change->name);
    return 1;
}

/* Takes blocks of a size until the freed one must have been among them, and looks at each. */
static void next_blocks_are_ordinary(size_t bytes, const char *what) {
    enum { NEXT = 8 };
    void *blocks[NEXT];
    for (int i = 0; i < NEXT; i++) {
        blocks[i] = i % 2 ? malloc(bytes) : calloc(1, bytes);
        CHECK(blocks[i]);
        CHECK(i % 2 || all_zero(blocks[i], bytes), "%s", what);
        is_ordinary(blocks[i], bytes, what);
    }
    for (int i = 0; i < NEXT; i++)
        free(blocks[i]);
}

/* Blocks of pages of their own: under a segment, a segment, and more. */
static const size_t large_sizes[] = {36 * KIB, 200 * KIB, MIB, 2 * MIB, 5 * MIB};

static void changes_end_with_a_large_block(void) {
    size_t made = 0;
    for (size_t i = 0; i < COUNT(changes); i++) {
        for (size_t k = 0; k < COUNT(large_sizes); k++) {
            char *block = aligned_alloc(PAGE, large_sizes[k]);
            CHECK(block);
            memset(block, 0x77, large_sizes[k]);
            if (is_made(&changes[i], block, large_sizes[k]))
                made++;
            free(block);
            next_blocks_are_ordinary(large_sizes[k], changes[i].name);
        }
    }
    CHECK(made >= 9 * COUNT(large_sizes), "%zu", made);
    CHECK(locked_bytes() == 0, "%zu", locked_bytes());
}

/* The rest of such a block keeps what it has, and only the changed pages are exchanged. */
static void changes_of_a_part_end_with_the_block(void) {
    enum { BYTES = 5 << 20, FROM = 1 << 20, LENGTH = 2 << 20 };
    for (size_t i = 0; i < COUNT(changes); i++) {
        char *block = aligned_alloc(PAGE, BYTES);
        CHECK(block);
        memset(block, 0x77, BYTES);
        is_made(&changes[i], block + FROM, LENGTH);
        is_made(&changes[i], block + BYTES - PAGE, PAGE);
        CHECK(block[0] == 0x77 && block[FROM - 1] == 0x77 && block[FROM + LENGTH] == 0x77);
        free(block);
        next_blocks_are_ordinary(BYTES, changes[i].name);
        next_blocks_are_ordinary(300 * KIB, changes[i].name);
    }
}

/* Small blocks share pages: what is changed there ends when the pages are nobody's. */
static void changes_of_small_blocks_end_with_their_span(void) {
    enum { BLOCKS = 2000 };
    static void *blocks[BLOCKS];
    static const size_t sizes[] = {PAGE, 2 * PAGE, 8 * PAGE};
    static const int lasting[] = {0, 1, 2, 3, 5, 7, 8};
    for (size_t s = 0; s < COUNT(sizes); s++) {
        for (size_t c = 0; c < COUNT(lasting); c++) {
            const struct change *change = &changes[lasting[c]];
            for (int i = 0; i < BLOCKS; i++) {
                blocks[i] = aligned_alloc(PAGE, sizes[s]);
                CHECK(blocks[i]);
                memset(blocks[i], 0x77, sizes[s]);
                change->make(blocks[i], sizes[s]);
            }
            for (int i = 0; i < BLOCKS; i++)
                free(blocks[i]);
            malloc_trim(0);
            CHECK(locked_bytes() == 0, "%s: %zu", change->name, locked_bytes());
            next_blocks_are_ordinary(sizes[s], change->name);
            next_blocks_are_ordinary(500 * KIB, change->name);
        }
    }
}

static void what_realloc_leaves_is_ordinary(void) {
    for (size_t i = 0; i < COUNT(changes); i++) {
        const struct change *change = &changes[i];
        /* Shorter: the end is given up, the beginning is as it was. */
        char *block = aligned_alloc(PAGE, 6 * MIB);
        CHECK(block);
        fill(block, 6 * MIB, 1);
        is_made(change, block + 3 * MIB, 3 * MIB);
        char *shorter = realloc(block, 2 * MIB);
        CHECK(shorter && holds_part(shorter, 2 * MIB, 6 * MIB, 1), "%s", change->name);
        next_blocks_are_ordinary(MIB, change->name);
        next_blocks_are_ordinary(4 * MIB, change->name);
        free(shorter);
        next_blocks_are_ordinary(6 * MIB, change->name);
    }
    /* Larger, and elsewhere: what readable pages hold goes along, and all else is ordinary again. */
    for (size_t i = 0; i < 9; i++) {
        const struct change *change = &changes[i];
        if (change->make == guard)
            continue;
        char *block = aligned_alloc(PAGE, 6 * MIB);
        CHECK(block);
        fill(block, 6 * MIB, 2);
        is_made(change, block, 6 * MIB);
        void *behind = malloc(MIB);
        char *larger = realloc(block, 200 * MIB);
        CHECK(behind && larger && holds_part(larger, 6 * MIB, 6 * MIB, 2), "%s", change->name);
        next_blocks_are_ordinary(6 * MIB, change->name);
        free(larger);
        free(behind);
        next_blocks_are_ordinary(200 * MIB / 8, change->name);
    }
    CHECK(locked_bytes() == 0, "%zu", locked_bytes());
}

/* An ordinary user may lock little: what is freed does not count. */
static void freed_blocks_do_not_count_as_locked(void) {
    for (int round = 0; round < 60; round++) {
        size_t bytes = (size_t)(round % 7 + 1) * 100 * KIB;
        void *key = aligned_alloc(PAGE, bytes);
        CHECK(key);
        CHECK((round % 2 ? mlock(key, bytes) : mlock2(key, bytes, MLOCK_ONFAULT)) == 0, "%d", errno);
        CHECK(locked_bytes() == bytes, "round %d: %zu", round, locked_bytes());
        memset(key, 0, bytes);
        free(key);
        CHECK(locked_bytes() == 0, "round %d: %zu", round, locked_bytes());
        void *other = malloc(bytes);
        CHECK(other);
        memset(other, 1, bytes);
        CHECK(locked_bytes() == 0);
        free(other);
    }
}

static void children_have_what_comes_next(void) {
    for (int i = 0; i < 3; i++) {
        char *buffer = aligned_alloc(PAGE, 4 * MIB);
        CHECK(buffer && changes[i].make(buffer, 4 * MIB) == 0);
        memset(buffer, 1, 4 * MIB);
        free(buffer);
        char *text = malloc(4 * MIB - 100);
        CHECK(text);
        fill(text, 4 * MIB - 100, 9);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            _exit(!holds(text, 4 * MIB - 100, 9));
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0, "%s: %d", changes[i].name, status);
        free(text);
    }
}

/* A child frees what it was not given. */
static void children_free_what_they_do_not_have(void) {
    char *buffer = aligned_alloc(PAGE, 4 * MIB);
    CHECK(buffer && dont_fork(buffer, 4 * MIB) == 0);
    memset(buffer, 1, 4 * MIB);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        free(buffer);
        next_blocks_are_ordinary(4 * MIB, "of a child");
        next_blocks_are_ordinary(100 * KIB, "of a child");
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "%d", status);
    free(buffer);
}

/* The functions do what libc's do, wherever the range lies, and nothing to errno but what libc does. */
static void results_and_errors_are_libcs(void) {
    char *block = aligned_alloc(PAGE, MIB);
    char *mapping = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(block && mapping != MAP_FAILED);
    char *places[] = {block, mapping};
    for (int i = 0; i < 2; i++) {
        char *start = places[i];
        errno = 7;
        CHECK(mprotect(start, PAGE, PROT_READ | PROT_WRITE) == 0 && errno == 7);
        CHECK(madvise(start, PAGE, MADV_DONTNEED) == 0 && errno == 7);
        CHECK(mlock(start, PAGE) == 0 && munlock(start, PAGE) == 0 && errno == 7);
        CHECK(posix_madvise(start, PAGE, POSIX_MADV_WILLNEED) == 0 && errno == 7);
        CHECK(posix_madvise(start, PAGE, 12345) == EINVAL && errno == 7);
        CHECK(madvise(start, PAGE, 12345) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(madvise(start + 1, PAGE, MADV_DONTFORK) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(mprotect(start + 1, PAGE, PROT_READ) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(mlock2(start, PAGE, 0x1000) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(mmap(start + 1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED &&
              errno == EINVAL);
        errno = 0;
        CHECK(mremap(start + 1, PAGE, PAGE, 0) == MAP_FAILED && errno == EINVAL);
        errno = 0;
        CHECK(munmap(start + 1, PAGE) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(madvise(start, SIZE_MAX / 2, MADV_COLD) == -1 && (errno == ENOMEM || errno == EINVAL), "%d", errno);
        errno = 0;
        CHECK(mlock(start, SIZE_MAX - PAGE) == -1 && errno != 0);
    }
    memset(block, 1, MIB);
    CHECK(munmap(mapping, 4 * PAGE) == 0);
    mapping = mmap64(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED);
    char *larger = mremap(mapping, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(larger != MAP_FAILED && munmap(larger, 64 * PAGE) == 0);
    free(block);
    next_blocks_are_ordinary(MIB, "after errors");
}

/* One range over blocks, free pages and what is not the heap's. */
static void ranges_may_cover_more_than_a_block(void) {
    enum { BLOCKS = 16 };
    char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = aligned_alloc(PAGE, 3 * MIB);
        CHECK(blocks[i]);
        fill(blocks[i], 3 * MIB, (unsigned)i);
    }
    char *low = blocks[0], *high = blocks[0];
    for (int i = 0; i < BLOCKS; i++) {
        low = blocks[i] < low ? blocks[i] : low;
        high = blocks[i] > high ? blocks[i] : high;
    }
    free(blocks[3]);
    /* Up to far behind: the kernel does what it can, and then says that not all of it was there. */
    madvise(low, (size_t)(high - low) + 1024 * 1024 * MIB, MADV_DONTDUMP);
    for (int i = 0; i < BLOCKS; i++) {
        if (i == 3)
            continue;
        CHECK(holds(blocks[i], 3 * MIB, (unsigned)i), "block %d", i);
        free(blocks[i]);
        void *next = malloc(3 * MIB);
        CHECK(next);
        fill(next, 3 * MIB, 1);
        CHECK(holds(next, 3 * MIB, 1));
        free(next);
    }
}

static _Atomic int is_over;
static char *shared_block;

static void change_in_handler(int signal) {
    (void)signal;
    int before = errno;
    madvise(shared_block, MIB, MADV_DONTFORK);
    madvise(shared_block, MIB, MADV_DOFORK);
    mprotect(shared_block, MIB, PROT_READ);
    mprotect(shared_block, MIB, PROT_READ | PROT_WRITE);
    errno = before;
}

static void *interrupt(void *thread) {
    while (!is_over) {
        pthread_kill(*(pthread_t *)thread, SIGUSR1);
        sched_yield();
    }
    return NULL;
}

static void signal_handlers_may_change_pages(void) {
    shared_block = aligned_alloc(PAGE, MIB);
    CHECK(shared_block);
    struct sigaction action = {.sa_handler = change_in_handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    pthread_t own = pthread_self();
    pthread_t other = start(interrupt, &own);
    for (int i = 0; i < 20000; i++) {
        size_t bytes = i % 10 ? 100 + (size_t)i % 30000 : (size_t)(i % 50 + 10) * 10 * KIB;
        char *block = malloc(bytes);
        CHECK(block);
        block[0] = 1;
        block[bytes - 1] = 1;
        free(block);
    }
    is_over = 1;
    join(other);
    free(shared_block);
    next_blocks_are_ordinary(MIB, "after handlers");
}

static void *change_and_hand_on(void *argument) {
    for (int i = 0; i < 300; i++) {
        size_t bytes = (size_t)(i % 20 + 10) * 10 * KIB / PAGE * PAGE;
        char *block = aligned_alloc(PAGE, bytes);
        CHECK(block);
        memset(block, 1, bytes);
        changes[i % 3].make(block, bytes);
        char *before = atomic_exchange((char *_Atomic *)argument, block);
        free(before);
    }
    return NULL;
}

/* Changed by one thread, freed by another. */
static void blocks_may_be_freed_by_others(void) {
    static char *_Atomic slot;
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++)
        threads[i] = start(change_and_hand_on, (void *)&slot);
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    free(slot);
    for (size_t bytes = 100 * KIB; bytes < 400 * KIB; bytes += 60 * KIB)
        next_blocks_are_ordinary(bytes, "of other threads");
}

/* Blocks that are changed and freed do not leave mappings behind. */
static void mappings_do_not_add_up(void) {
    enum { BLOCKS = 200 };
    static void *blocks[BLOCKS];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            blocks[i] = aligned_alloc(PAGE, 15 * PAGE);
            CHECK(blocks[i]);
            dont_fork(blocks[i], 15 * PAGE);
        }
        for (int i = 0; i < BLOCKS; i++)
            free(blocks[i]);
    }
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    static char text[1024 * 1024];
    size_t lines = 0;
    for (ssize_t got; (got = read(fd, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < got; i++)
            lines += text[i] == '\n';
    close(fd);
    CHECK(lines < 100, "%zu", lines);
}

/* A daemon that has locked all of its memory has bursts. */
static void burst_in_locked_memory(int flags) {
    enum { BLOCKS = 100, SMALL = 50000 };
    static void *blocks[BLOCKS], *small[SMALL];
    if (mlockall(flags) != 0)
        return;
    free(malloc(MIB));
    size_t before = resident_bytes();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            blocks[i] = calloc(1, MIB);
            CHECK(blocks[i] && all_zero(blocks[i], MIB));
            fill(blocks[i], MIB, 1);
        }
        for (int i = 0; i < SMALL; i++) {
            small[i] = malloc(1000);
            CHECK(small[i]);
            memset(small[i], 1, 1000);
        }
        /* One grows, and is moved by its pages. */
        char *grows = NULL;
        for (size_t bytes = 2 * MIB; bytes <= 128 * MIB; bytes *= 2) {
            grows = realloc(grows, bytes);
            CHECK(grows);
            memset(grows + bytes / 2, 1, bytes / 2);
        }
        size_t peak = resident_bytes();
        CHECK(peak > before + 150 * MIB, "%zu", peak);
        free(grows);
        for (int i = 0; i < BLOCKS; i++) {
            CHECK(holds(blocks[i], MIB, 1));
            free(blocks[i]);
        }
        for (int i = 0; i < SMALL; i++)
            free(small[i]);
        for (int i = 0; i < 4000 && resident_bytes() > before + 64 * MIB; i++)
            usleep(5000);
        CHECK(resident_bytes() <= before + 64 * MIB, "%zu, then %zu, now %zu MiB", before / MIB, peak / MIB,
              resident_bytes() / MIB);
    }
}

static void locked_programs_give_memory_back(void) { burst_in_locked_memory(MCL_CURRENT | MCL_FUTURE); }
static void programs_locked_for_now_give_memory_back(void) { burst_in_locked_memory(MCL_CURRENT); }
static void programs_locked_on_fault_give_memory_back(void) {
    burst_in_locked_memory(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

/* Of locked memory blocks are sampled, too, and no harm is done where they cannot be guarded. */
static void locked_programs_are_sampled(void) {
    if (!getenv("SLACKWATER_PROFILE_RATE_BYTES")) {
        CHECK(setenv("SLACKWATER_PROFILE_RATE_BYTES", "1K", 1) == 0);
        execl("/proc/self/exe", "pages", __func__, (char *)NULL);
        CHECK(0, "exec: %d", errno);
    }
    free(malloc(100));
    for (int i = 0; i < 20000; i++) {
        if (i == 5000 && mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
            return;
        size_t bytes = (size_t)i * 7 % 9000 + 1;
        char *block = malloc(bytes);
        CHECK(block);
        fill(block, bytes, 3);
        CHECK(holds(block, bytes, 3));
        free(block);
    }
}

static const struct check checks[] = {
    {"changes_end_with_a_large_block", changes_end_with_a_large_block},
    {"changes_of_a_part_end_with_the_block", changes_of_a_part_end_with_the_block},
    {"changes_of_small_blocks_end_with_their_span", changes_of_small_blocks_end_with_their_span},
    {"what_realloc_leaves_is_ordinary", what_realloc_leaves_is_ordinary},
    {"freed_blocks_do_not_count_as_locked", freed_blocks_do_not_count_as_locked},
    {"children_have_what_comes_next", children_have_what_comes_next},
    {"children_free_what_they_do_not_have", children_free_what_they_do_not_have},
    {"results_and_errors_are_libcs", results_and_errors_are_libcs},
    {"ranges_may_cover_more_than_a_block", ranges_may_cover_more_than_a_block},
    {"signal_handlers_may_change_pages", signal_handlers_may_change_pages},
    {"blocks_may_be_freed_by_others", blocks_may_be_freed_by_others},
    {"mappings_do_not_add_up", mappings_do_not_add_up},
    {"locked_programs_give_memory_back", locked_programs_give_memory_back},
    {"programs_locked_for_now_give_memory_back", programs_locked_for_now_give_memory_back},
    {"programs_locked_on_fault_give_memory_back", programs_locked_on_fault_give_memory_back},
    {"locked_programs_are_sampled", locked_programs_are_sampled},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
