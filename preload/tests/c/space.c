/* Addresses: the heap takes them as it grows, limits count what it has, and what others have mapped is theirs. */
#include "check.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <time.h>

enum { DEADLINE_MS = 60000, NAP_MS = 20 };

static size_t address_bytes(void) {
    char text[256] = "";
    int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    return strtoul(text, NULL, 10) * PAGE;
}

static void a_small_process_has_few(void) {
    free(malloc(1000));
    CHECK(address_bytes() < 64 * MIB, "%zu MiB", address_bytes() / MIB);
}

static void limit(int resource, size_t bytes) {
    struct rlimit both = {bytes, bytes};
    CHECK(setrlimit(resource, &both) == 0);
}

static void *nothing(void *unused) { return unused; }

/* A program that limits itself goes on; and its heap ends where the limit is. */
static void a_limit_that_is_set_later_binds(void) {
    free(malloc(MIB));
    limit(RLIMIT_AS, 1024 * MIB);
    join(start(nothing, NULL));
    void *mapping = mmap(NULL, 10 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED);
    CHECK(dlopen("libresolv.so.2", RTLD_NOW), "%s", dlerror());
    size_t granted = 0;
    while (granted < 4096 && malloc(MIB))
        granted++;
    CHECK(granted <= 1024 && granted > 1024 - 64, "%zu MiB granted of 1024", granted);
}

static int has_room_for(size_t bytes) {
    void *mapping = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapping != MAP_FAILED && munmap(mapping, bytes) == 0;
}

static void what_was_freed_counts_no_more(void) {
    static void *blocks[80];
    limit(RLIMIT_AS, 1024 * MIB);
    for (size_t i = 0; i < COUNT(blocks); i++)
        CHECK((blocks[i] = memset(malloc(10 * MIB), 1, 10 * MIB)));
    CHECK(!has_room_for(600 * MIB));
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
    struct timespec nap = {0, NAP_MS * 1000000L};
    for (int tries = 0; !has_room_for(600 * MIB) && tries < DEADLINE_MS / NAP_MS; tries++)
        nanosleep(&nap, NULL);
    CHECK(has_room_for(600 * MIB));
    for (size_t i = 0; i < COUNT(blocks); i++)
        CHECK((blocks[i] = calloc(1, 10 * MIB)), "and they are to be had again");
    CHECK(!has_room_for(600 * MIB));
}

/* A block that grows a little at a time needs no second one beside it. */
static void a_block_may_grow_to_the_limit(void) {
    free(malloc(MIB));
    limit(RLIMIT_AS, address_bytes() + 512 * MIB);
    size_t size = 8 * MIB;
    char *block = malloc(size);
    CHECK(block);
    for (char *longer; (longer = realloc(block, size + 8 * MIB)); size += 8 * MIB) {
        block = longer;
        block[size] = 1;
    }
    CHECK(size >= 480 * MIB, "%zu MiB of 512", size / MIB);
    free(block);
}

/* Each block is smaller than the machine's memory, and little of it is touched. */
static void sparse_blocks_beyond_the_memory(void) {
    struct sysinfo info;
    CHECK(sysinfo(&info) == 0);
    size_t block = (size_t)info.totalram * info.mem_unit / 4;
    for (int i = 0; i < 64; i++) {
        char *table = malloc(block);
        CHECK(table, "block %d of %zu MiB", i, block / MIB);
        table[0] = table[block / 2] = table[block - 1] = 1;
    }
}

/* What an ordinary user may lock is 8 MiB: a small daemon has less. */
static void a_small_daemon_locks_itself(void) {
    free(malloc(MIB));
    limit(RLIMIT_MEMLOCK, 8 * MIB);
    CHECK(geteuid() != 0 || seteuid(65534) == 0);
    CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0, "%zu KiB: %d", address_bytes() / KIB, errno);
    void *block = malloc(MIB);
    CHECK(block);
    memset(block, 1, MIB);
    free(block);
}

/* Somebody maps pages where the heap would grow next: it grows around them. */
static void others_may_map_where_the_heap_would_grow(void) {
    enum { OTHERS = 64 };
    static char *theirs[OTHERS];
    char *first = malloc(100 * KIB);
    CHECK(first);
    char *from = (char *)((uintptr_t)first & ~(2 * MIB - 1));
    int count = 0;
    for (int i = 0; i < OTHERS; i++) {
        char *at = from + (size_t)(i + 2) * 3 * MIB;
        char *page = mmap(at, PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (page == MAP_FAILED)
            continue;
        CHECK(page == at);
        memset(page, i + 1, PAGE);
        theirs[count++] = page;
    }
    CHECK(count > OTHERS / 2);
    static char *blocks[4000];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT(blocks); i++)
            CHECK((blocks[i] = memset(malloc(50000 + i * 20), 0xee, 50000 + i * 20)));
        char *large = malloc(300 * MIB);
        CHECK(large && (large = realloc(large, 500 * MIB)));
        free(large);
        for (size_t i = 0; i < COUNT(blocks); i++)
            free(blocks[i]);
        malloc_trim(0);
    }
    for (int i = 0; i < count; i++)
        for (size_t at = 1; at < PAGE; at++)
            CHECK(theirs[i][at] == theirs[i][0] && theirs[i][0], "page %d at %zu", i, at);
}

static const struct check checks[] = {
    {"a_small_process_has_few", a_small_process_has_few},
    {"a_limit_that_is_set_later_binds", a_limit_that_is_set_later_binds},
    {"what_was_freed_counts_no_more", what_was_freed_counts_no_more},
    {"a_block_may_grow_to_the_limit", a_block_may_grow_to_the_limit},
    {"sparse_blocks_beyond_the_memory", sparse_blocks_beyond_the_memory},
    {"a_small_daemon_locks_itself", a_small_daemon_locks_itself},
    {"others_may_map_where_the_heap_would_grow", others_may_map_where_the_heap_would_grow},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
