/* The C allocation interface, call by call: results, alignment, errors and content. */
#include "check.h"

#include <dlfcn.h>
#include <regex.h>
#include <sys/mman.h>

/* Every function must come from one and the same library: half a surface frees another's blocks. */
static void whole_surface_is_exported(void) {
    static const char *const names[] = {
        "malloc",         "calloc",   "realloc", "reallocarray", "free",
        "posix_memalign", "memalign", "valloc",  "pvalloc",      "aligned_alloc",
        "malloc_usable_size", "malloc_trim", "mallinfo", "mallinfo2", "malloc_info",
        "malloc_stats", "mallopt", "cfree",
        "__libc_malloc", "__libc_calloc", "__libc_realloc", "__libc_free", "__libc_memalign",
        "__libc_valloc", "__libc_pvalloc", "__libc_mallinfo", "__libc_mallopt",
        /* C++'s operators new and delete, by the names that compilers give them. */
        "_Znwm", "_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_t",
        "_ZnwmSt11align_val_tRKSt9nothrow_t",
        "_Znam", "_ZnamRKSt9nothrow_t", "_ZnamSt11align_val_t",
        "_ZnamSt11align_val_tRKSt9nothrow_t",
        "_ZdlPv", "_ZdlPvm", "_ZdlPvRKSt9nothrow_t", "_ZdlPvSt11align_val_t",
        "_ZdlPvmSt11align_val_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t",
        "_ZdaPv", "_ZdaPvm", "_ZdaPvRKSt9nothrow_t", "_ZdaPvSt11align_val_t",
        "_ZdaPvmSt11align_val_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    };
    const char *library = getenv("LD_PRELOAD");
    CHECK(library && *library, "nothing is preloaded");
    for (size_t i = 0; i < COUNT(names); i++) {
        Dl_info where;
        void *function = dlsym(RTLD_DEFAULT, names[i]);
        CHECK(function, "%s", names[i]);
        CHECK(dladdr(function, &where), "%s", names[i]);
        CHECK(strcmp(where.dli_fname, library) == 0, "%s is from %s", names[i], where.dli_fname);
    }
}

static void every_size_is_aligned_and_writable(void) {
    enum { STEP_LIMIT = 40000 };
    static void *blocks[STEP_LIMIT];
    size_t count = 0;
    for (size_t size = 0; size <= 70000; size += size < 5000 ? 1 : 61) {
        void *block = malloc(size);
        CHECK(block, "size %zu", size);
        CHECK(aligned(block, 16), "size %zu at %p", size, block);
        CHECK(malloc_usable_size(block) >= size, "size %zu", size);
        memset(block, (int)(size & 0xff), size);
        CHECK(count < STEP_LIMIT);
        blocks[count++] = block;
    }
    /* Nobody's bytes were somebody else's. */
    count = 0;
    for (size_t size = 0; size <= 70000; size += size < 5000 ? 1 : 61) {
        unsigned char *block = blocks[count++];
        CHECK(size == 0 || block[0] == (size & 0xff), "size %zu", size);
        CHECK(size == 0 || memcmp(block, block + 1, size - 1) == 0, "size %zu", size);
        free(block);
    }
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        void *zeroed = calloc(1, kind_sizes[i]);
        CHECK(aligned(zeroed, 16), "calloc of %zu", kind_sizes[i]);
        void *moved = realloc(zeroed, kind_sizes[i] + 40);
        CHECK(aligned(moved, 16), "realloc to %zu", kind_sizes[i] + 40);
        free(moved);
    }
}

static void zero_sizes(void) {
    void *first = malloc(0);
    void *second = malloc(0);
    CHECK(first && second && first != second);
    free(first);
    free(second);

    void *none_of_some = calloc(0, 100);
    void *some_of_none = calloc(100, 0);
    CHECK(none_of_some && some_of_none && none_of_some != some_of_none);
    free(none_of_some);
    free(some_of_none);

    void *from_null = realloc(NULL, 0);
    CHECK(from_null);
    free(from_null);

    /* As glibc: size 0 frees and returns NULL, for blocks of every kind; if it did not free, this
     * would keep 16 GiB. */
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        for (int round = 0; round < 500; round++) {
            void *block = malloc(kind_sizes[i]);
            CHECK(block, "size %zu", kind_sizes[i]);
            CHECK(realloc(block, 0) == NULL, "size %zu", kind_sizes[i]);
        }
    }
    void *array = malloc(100);
    CHECK(reallocarray(array, 0, 8) == NULL);

    void *zero_aligned = NULL;
    CHECK(posix_memalign(&zero_aligned, 64, 0) == 0);
    free(zero_aligned);
    free(aligned_alloc(64, 0));
    free(memalign(64, 0));
    free(valloc(0));
    free(pvalloc(0));
}

#define REFUSED(call)                            \
    do {                                         \
        errno = 0;                               \
        CHECK((call) == NULL);                   \
        CHECK(errno == ENOMEM, "%d", errno);     \
    } while (0)

static void impossible_sizes_are_refused(void) {
    /* Behind a volatile, or the compiler warns of what is asked here. */
    volatile size_t all = SIZE_MAX;
    volatile size_t past_half = (size_t)PTRDIFF_MAX + 1;
    volatile size_t half = PTRDIFF_MAX;
    size_t sizes[] = {all, all - 1, all - 15, all - 4095, all - 4096, all - 2 * MIB,
                      past_half + 4096, past_half, half, half - 4096, (size_t)1 << 62,
                      (size_t)1 << 48, (size_t)1 << 47};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t size = sizes[i];
        REFUSED(malloc(size));
        REFUSED(calloc(1, size));
        REFUSED(calloc(size, 1));
        REFUSED(realloc(NULL, size));
        REFUSED(reallocarray(NULL, 1, size));
        REFUSED(aligned_alloc(64, size));
        REFUSED(memalign(4096, size));
        REFUSED(memalign(4 * MIB, size));
        REFUSED(valloc(size));
        REFUSED(pvalloc(size));
        for (size_t k = 0; k < COUNT(kind_sizes); k += 5) {
            void *block = malloc(kind_sizes[k]);
            fill(block, kind_sizes[k], 3);
            REFUSED(realloc(block, size));
            REFUSED(reallocarray(block, size, 1));
            CHECK(holds(block, kind_sizes[k], 3), "size %zu", kind_sizes[k]);
            free(block);
        }
    }
    REFUSED(memalign((size_t)1 << 62, (size_t)1 << 62));
}

static void overflowing_products_are_refused(void) {
    volatile size_t big = (size_t)1 << 32;
    volatile size_t all = SIZE_MAX;
    size_t pairs[][2] = {{big, big}, {all / 2, 3}, {3, all / 2}, {all, all}, {all / 16 + 1, 16},
                         {big + 1, big}, {all / 24 + 1, 24}};
    for (size_t i = 0; i < COUNT(pairs); i++) {
        REFUSED(calloc(pairs[i][0], pairs[i][1]));
        REFUSED(reallocarray(NULL, pairs[i][0], pairs[i][1]));
        void *block = malloc(100);
        fill(block, 100, 5);
        REFUSED(reallocarray(block, pairs[i][0], pairs[i][1]));
        CHECK(holds(block, 100, 5));
        free(block);
    }
    int *array = reallocarray(NULL, 1000, sizeof *array);
    CHECK(array && malloc_usable_size(array) >= 1000 * sizeof *array);
    array = reallocarray(array, 100000, sizeof *array);
    CHECK(array && malloc_usable_size(array) >= 100000 * sizeof *array);
    free(array);
}

static void posix_memalign_errors(void) {
    static const size_t bad[] = {0, 1, 2, 3, 4, 7, 9, 12, 24, 48, 100, 4095, 3 * PAGE, SIZE_MAX};
    for (size_t i = 0; i < COUNT(bad); i++) {
        void *untouched = &untouched;
        errno = 1234;
        CHECK(posix_memalign(&untouched, bad[i], 100) == EINVAL, "alignment %zu", bad[i]);
        CHECK(untouched == &untouched, "alignment %zu", bad[i]);
        CHECK(errno == 1234, "alignment %zu: %d", bad[i], errno);
    }
    volatile size_t all = SIZE_MAX;
    for (size_t alignment = sizeof(void *); alignment <= 8 * MIB; alignment *= 2) {
        void *untouched = &untouched;
        CHECK(posix_memalign(&untouched, alignment, all) == ENOMEM);
        CHECK(posix_memalign(&untouched, alignment, all - alignment) == ENOMEM);
        CHECK(posix_memalign(&untouched, alignment, (size_t)PTRDIFF_MAX + 1) == ENOMEM);
        CHECK(untouched == &untouched);
    }
}

static void alignments_up_to_beyond_a_segment(void) {
    static const size_t sizes[] = {1, 17, 100, 2048, 4095, 4097, 32768, 100000, 3 * MIB};
    for (size_t alignment = sizeof(void *); alignment <= 8 * MIB; alignment *= 2) {
        void *blocks[COUNT(sizes)][3];
        for (size_t i = 0; i < COUNT(sizes); i++) {
            size_t size = sizes[i];
            CHECK(posix_memalign(&blocks[i][0], alignment, size) == 0);
            blocks[i][1] = aligned_alloc(alignment, size);
            blocks[i][2] = memalign(alignment, size);
            for (unsigned k = 0; k < 3; k++) {
                CHECK(blocks[i][k], "%zu bytes at %zu", size, alignment);
                CHECK(aligned(blocks[i][k], alignment), "%zu bytes at %zu", size, alignment);
                CHECK(malloc_usable_size(blocks[i][k]) >= size, "%zu at %zu", size, alignment);
                fill(blocks[i][k], size, k);
            }
        }
        for (size_t i = 0; i < COUNT(sizes); i++) {
            size_t size = sizes[i];
            for (unsigned k = 0; k < 3; k++)
                CHECK(holds(blocks[i][k], size, k), "%zu bytes at %zu", size, alignment);
            free(blocks[i][0]);
            /* An aligned block is a block like any other to realloc. */
            void *grown = realloc(blocks[i][1], size * 3);
            CHECK(grown && holds_part(grown, size, size, 1), "%zu at %zu", size, alignment);
            free(grown);
            void *shrunk = realloc(blocks[i][2], (size + 1) / 2);
            CHECK(shrunk && holds_part(shrunk, (size + 1) / 2, size, 2), "%zu", size);
            free(shrunk);
        }
    }
}

/* The whole of an aligned block is the caller's, up to its last usable byte, among neighbours. */
static void aligned_blocks_do_not_overlap(void) {
    enum { BLOCKS = 3000 };
    static struct { unsigned char *block; size_t usable; } all[BLOCKS];
    uint32_t random = 77;
    for (unsigned i = 0; i < BLOCKS; i++) {
        size_t alignment = (size_t)16 << draw(&random) % 10;
        all[i].block = memalign(alignment, draw(&random) % 6000);
        CHECK(all[i].block && aligned(all[i].block, alignment));
        all[i].usable = malloc_usable_size(all[i].block);
        memset(all[i].block, (int)(i % 251), all[i].usable);
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        unsigned char *block = all[i].block;
        if (all[i].usable > 0) {
            CHECK(block[0] == i % 251, "block %u", i);
            CHECK(memcmp(block, block + 1, all[i].usable - 1) == 0, "block %u", i);
        }
        free(block);
    }
}

/* C leaves these open; glibc rounds up (all of memalign, aligned_alloc before 2.38) or refuses with
 * EINVAL. */
static void alignments_that_are_no_power_of_two(void) {
    static const size_t odd[] = {0, 1, 3, 7, 12, 24, 48, 100, 5000};
    for (size_t i = 0; i < COUNT(odd); i++) {
        size_t atleast = 1;
        while (atleast < odd[i])
            atleast *= 2;
        errno = 0;
        void *block = aligned_alloc(odd[i], 1000);
        CHECK(block ? aligned(block, atleast) : errno == EINVAL, "alignment %zu", odd[i]);
        free(block);
        errno = 0;
        block = memalign(odd[i], 1000);
        CHECK(block ? aligned(block, atleast) : errno == EINVAL, "alignment %zu", odd[i]);
        free(block);
    }
    volatile size_t more_than_half = ((size_t)1 << 63) + 1;
    errno = 0;
    CHECK(memalign(more_than_half, 1) == NULL);
    CHECK(errno == EINVAL || errno == ENOMEM, "%d", errno);
}

static void page_aligned_blocks(void) {
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        void *by_page = valloc(size);
        void *whole_pages = pvalloc(size);
        CHECK(by_page && aligned(by_page, PAGE), "size %zu", size);
        CHECK(whole_pages && aligned(whole_pages, PAGE), "size %zu", size);
        CHECK(malloc_usable_size(whole_pages) >= (size + PAGE - 1) / PAGE * PAGE, "%zu", size);
        fill(by_page, size, 1);
        fill(whole_pages, (size + PAGE - 1) / PAGE * PAGE, 2);
        CHECK(holds(by_page, size, 1), "size %zu", size);
        free(by_page);
        free(whole_pages);
    }
}

static void usable_size_is_usable(void) {
    CHECK(malloc_usable_size(NULL) == 0);
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        unsigned char *blocks[3];
        size_t usable[3];
        for (int k = 0; k < 3; k++) {
            blocks[k] = malloc(size);
            usable[k] = malloc_usable_size(blocks[k]);
            CHECK(usable[k] >= size, "size %zu", size);
            memset(blocks[k], 0x10 + k, usable[k]);
        }
        for (int k = 0; k < 3; k++) {
            CHECK(malloc_usable_size(blocks[k]) == usable[k], "size %zu", size);
            CHECK(blocks[k][0] == 0x10 + k, "size %zu", size);
            CHECK(memcmp(blocks[k], blocks[k] + 1, usable[k] - 1) == 0, "size %zu", size);
            free(blocks[k]);
        }
        /* What is usable is kept by realloc, not only what was asked for. */
        unsigned char *block = malloc(size);
        size_t all = malloc_usable_size(block);
        fill(block, all, 9);
        block = realloc(block, all * 2);
        CHECK(block && holds(block, all, 9), "size %zu", size);
        free(block);
    }
}

static void resize(size_t from, size_t to) {
    void *block = malloc(from);
    CHECK(block, "%zu", from);
    fill(block, from, 4);
    void *moved = realloc(block, to);
    CHECK(moved, "%zu to %zu", from, to);
    CHECK(aligned(moved, 16), "%zu to %zu", from, to);
    CHECK(malloc_usable_size(moved) >= to, "%zu to %zu", from, to);
    CHECK(holds_part(moved, from < to ? from : to, from, 4), "%zu to %zu", from, to);
    fill(moved, to, 5);
    CHECK(holds(moved, to, 5), "%zu to %zu", from, to);
    free(moved);
}

static void realloc_between_all_kinds(void) {
    for (size_t i = 0; i < COUNT(kind_sizes); i++)
        for (size_t k = 0; k < COUNT(kind_sizes); k++)
            resize(kind_sizes[i], kind_sizes[k]);
}

static void realloc_of_null_is_malloc(void) {
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        void *block = realloc(NULL, kind_sizes[i]);
        CHECK(block && malloc_usable_size(block) >= kind_sizes[i], "size %zu", kind_sizes[i]);
        fill(block, kind_sizes[i], 1);
        free(block);
    }
}

/* As a growing buffer does it: by a little, very often, between neighbours that stay. */
static void realloc_in_small_steps(void) {
    enum { BUFFERS = 8 };
    static struct { unsigned char *bytes; size_t usable; } buffers[BUFFERS];
    size_t size = 1;
    for (int growing = 1; growing || size > 1;) {
        for (unsigned i = 0; i < BUFFERS; i++) {
            size_t kept = size < buffers[i].usable ? size : buffers[i].usable;
            unsigned char *bytes = realloc(buffers[i].bytes, size);
            CHECK(bytes, "size %zu", size);
            size_t usable = malloc_usable_size(bytes);
            if (kept > 0) {
                CHECK(bytes[0] == i + 1, "size %zu", size);
                CHECK(memcmp(bytes, bytes + 1, kept - 1) == 0, "size %zu", size);
            }
            memset(bytes + kept, (int)i + 1, usable - kept);
            buffers[i].bytes = bytes;
            buffers[i].usable = usable;
        }
        growing = growing && size < 300000;
        size = growing ? size + 1 + size / 40 : size - 1 - size / 10;
    }
    for (unsigned i = 0; i < BUFFERS; i++)
        free(buffers[i].bytes);
}

static void realloc_of_very_large_blocks(void) {
    size_t size = 3 * MIB;
    void *block = malloc(size);
    CHECK(block);
    fill(block, size, 6);
    static const size_t sizes[] = {5 * MIB,  64 * MIB,  96 * MIB + 5, 256 * MIB, 255 * MIB,
                                   64 * MIB, 128 * MIB, 2 * MIB + 1,  100,       70 * MIB};
    /* A neighbour behind the block, so that it cannot always grow where it is. */
    for (size_t i = 0; i < COUNT(sizes); i++) {
        void *neighbour = malloc(2 * MIB);
        CHECK(neighbour);
        block = realloc(block, sizes[i]);
        CHECK(block, "to %zu", sizes[i]);
        CHECK(holds_part(block, size < sizes[i] ? size : sizes[i], size, 6), "to %zu", sizes[i]);
        size = sizes[i];
        fill(block, size, 6);
        CHECK(holds(block, size, 6), "to %zu", size);
        free(neighbour);
    }
    free(block);
}

/* What a shrunk or freed tail was must not come back as somebody's zeroes. */
static void calloc_is_zero_after_dirty_use(void) {
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < COUNT(kind_sizes); i++) {
            size_t size = kind_sizes[i];
            int blocks = size < 64 * KIB ? 200 : 3;
            static void *held[200];
            for (int k = 0; k < blocks; k++) {
                held[k] = malloc(size);
                CHECK(held[k], "size %zu", size);
                memset(held[k], 0xa5, malloc_usable_size(held[k]));
            }
            for (int k = 0; k < blocks; k++)
                free(held[k]);
            if (round % 2)
                malloc_trim(0);
            for (int k = 0; k < blocks; k++) {
                held[k] = k % 2 ? calloc(1, size) : calloc(size, 1);
                CHECK(held[k] && all_zero(held[k], size), "size %zu, round %d", size, round);
                memset(held[k], 0x5a, size);
            }
            for (int k = 0; k < blocks; k++)
                free(held[k]);
        }
    }
    /* Pages that go from kind to kind. */
    uint32_t random = 4242;
    enum { SLOTS = 64 };
    static void *slots[SLOTS];
    for (int step = 0; step < 20000; step++) {
        unsigned at = draw(&random) % SLOTS;
        size_t size = draw_size(&random);
        free(slots[at]);
        slots[at] = calloc(1, size);
        CHECK(slots[at] && all_zero(slots[at], size), "size %zu, step %d", size, step);
        memset(slots[at], 0xff, malloc_usable_size(slots[at]));
        if (step % 16 == 0) {
            slots[at] = realloc(slots[at], size / 2 + 1);
            CHECK(slots[at]);
        }
    }
    for (unsigned at = 0; at < SLOTS; at++)
        free(slots[at]);
}

static void free_preserves_errno(void) {
    for (int round = 0; round < 6; round++) {
        static void *blocks[COUNT(kind_sizes)][20];
        for (size_t i = 0; i < COUNT(kind_sizes); i++) {
            for (int k = 0; k < 20; k++) {
                size_t size = kind_sizes[i];
                if (size > MIB && k > 2) {
                    blocks[i][k] = NULL;
                    continue;
                }
                blocks[i][k] = k % 2 ? malloc(size) : memalign(256, size);
                CHECK(blocks[i][k], "size %zu", size);
                fill(blocks[i][k], size, 1);
            }
        }
        for (size_t i = 0; i < COUNT(kind_sizes); i++) {
            for (int k = 0; k < 20; k++) {
                errno = 1234;
                free(blocks[i][k]);
                CHECK(errno == 1234, "size %zu: %d", kind_sizes[i], errno);
            }
        }
    }
    errno = 1234;
    free(NULL);
    CHECK(errno == 1234);
}

/* glibc dropped cfree in 2.26; where a library still has it, it frees. */
static void cfree_frees_where_it_exists(void) {
    void (*cfree_function)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    void (*release)(void *) = cfree_function ? cfree_function : free;
    /* 32 GiB in all, if it did not. */
    for (int i = 0; i < 32 * 1024; i++) {
        void *block = malloc(MIB);
        CHECK(block);
        *(volatile char *)block = 1;
        release(block);
    }
    CHECK(resident_bytes() < 512 * MIB);
}

static void what_succeeds_leaves_errno_alone(void) {
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT(kind_sizes); i++) {
            size_t size = kind_sizes[i];
            void *aligned_block = NULL;
            errno = 1234;
            void *blocks[] = {malloc(size),  calloc(1, size),           realloc(NULL, size),
                              valloc(size),  pvalloc(size),             memalign(2 * PAGE, size),
                              memalign(0, size), aligned_alloc(64, size), reallocarray(NULL, 1, size)};
            CHECK(posix_memalign(&aligned_block, 64, size) == 0);
            CHECK(errno == 1234, "size %zu: %d", size, errno);
            for (size_t k = 0; k < COUNT(blocks); k++) {
                CHECK(malloc_usable_size(blocks[k]) >= size);
                blocks[k] = realloc(blocks[k], kind_sizes[(i * 7 + k) % COUNT(kind_sizes)]);
                CHECK(blocks[k] && errno == 1234, "size %zu: %d", size, errno);
                CHECK(realloc(blocks[k], 0) == NULL);
            }
            free(aligned_block);
            CHECK(errno == 1234, "size %zu: %d", size, errno);
        }
        malloc_trim(0);
        mallinfo2();
        mallopt(M_TRIM_THRESHOLD, 128 * 1024);
        malloc_stats();
        CHECK(malloc_usable_size(NULL) == 0);
        CHECK(errno == 1234, "%d", errno);
        /* Who is told by the answer is not told by errno. */
        CHECK(posix_memalign(&(void *){NULL}, 3, 100) == EINVAL);
        CHECK(posix_memalign(&(void *){NULL}, 0, 100) == EINVAL);
        CHECK(errno == 1234, "%d", errno);
    }
}

/* libc hands out blocks of ours and takes them back. */
static void libc_and_its_callers_share_blocks(void) {
    char *copy = strdup("slack water");
    CHECK(copy && strcmp(copy, "slack water") == 0);
    copy = realloc(copy, 4096);
    CHECK(copy && strcmp(copy, "slack water") == 0);
    free(copy);
    copy = strndup("slack water", 5);
    CHECK(copy && strcmp(copy, "slack") == 0);
    free(copy);

    char *text = NULL;
    CHECK(asprintf(&text, "%0*d", 70000, 7) == 70000);
    CHECK(strlen(text) == 70000 && text[69999] == '7' && malloc_usable_size(text) > 70000);
    free(text);

    char *buffer = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&buffer, &length);
    CHECK(stream);
    for (int line = 0; line < 20000; line++)
        fprintf(stream, "line %d %*s\n", line, line % 200, "");
    CHECK(fclose(stream) == 0 && length > 20000 * 8 && strlen(buffer) == length);

    /* getline grows a block of the caller's. */
    stream = fmemopen(buffer, length, "r");
    CHECK(stream);
    size_t capacity = 1;
    char *line = malloc(capacity);
    int lines = 0;
    ssize_t got;
    while ((got = getline(&line, &capacity, stream)) >= 0) {
        int number = -1;
        CHECK(sscanf(line, "line %d", &number) == 1 && number == lines, "line %d", lines);
        CHECK((size_t)got < capacity && capacity <= malloc_usable_size(line), "line %d", lines);
        lines++;
    }
    CHECK(lines == 20000);
    fclose(stream);
    free(line);
    free(buffer);

    char *here = getcwd(NULL, 0);
    CHECK(here);
    char *resolved = realpath(here, NULL);
    CHECK(resolved);
    free(resolved);
    free(here);

    regex_t expression;
    CHECK(regcomp(&expression, "^(a|b)*c{2,9}[[:alpha:]]+$", REG_EXTENDED) == 0);
    CHECK(regexec(&expression, "ababcccz", 0, NULL, 0) == 0);
    CHECK(regexec(&expression, "ababcz", 0, NULL, 0) == REG_NOMATCH);
    regfree(&expression);

    CHECK(setenv("SLACK_WATER_CHECK", "1", 1) == 0 && unsetenv("SLACK_WATER_CHECK") == 0);
}

/* A seeded walk over the whole interface with every block's content checked. */
static void a_long_random_walk(void) {
    enum { SLOTS = 2000, STEPS = 200000 };
    static struct { void *block; size_t size; unsigned seed; } slots[SLOTS];
    uint32_t random = 20240;
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned at = draw(&random) % SLOTS;
        size_t size = draw_size(&random);
        unsigned seed = draw(&random);
        CHECK(holds(slots[at].block, slots[at].size, slots[at].seed), "step %u", step);
        size_t kept = 0;
        switch (draw(&random) % 6) {
        case 0:
            free(slots[at].block);
            slots[at].block = calloc(1, size);
            CHECK(slots[at].block && all_zero(slots[at].block, size), "step %u", step);
            break;
        case 1:
            free(slots[at].block);
            CHECK(posix_memalign(&slots[at].block, (size_t)8 << draw(&random) % 10, size) == 0);
            break;
        case 2:
        case 3:
            kept = size < slots[at].size ? size : slots[at].size;
            slots[at].block = realloc(slots[at].block, size);
            CHECK(holds_part(slots[at].block, kept, slots[at].size, slots[at].seed), "%u", step);
            break;
        default:
            free(slots[at].block);
            slots[at].block = malloc(size);
        }
        CHECK(slots[at].block, "step %u, size %zu", step, size);
        slots[at].size = size;
        slots[at].seed = seed;
        fill(slots[at].block, size, seed);
    }
    for (unsigned at = 0; at < SLOTS; at++) {
        CHECK(holds(slots[at].block, slots[at].size, slots[at].seed), "slot %u", at);
        free(slots[at].block);
    }
}

static const struct check checks[] = {
    {"whole_surface_is_exported", whole_surface_is_exported},
    {"every_size_is_aligned_and_writable", every_size_is_aligned_and_writable},
    {"zero_sizes", zero_sizes},
    {"impossible_sizes_are_refused", impossible_sizes_are_refused},
    {"overflowing_products_are_refused", overflowing_products_are_refused},
    {"posix_memalign_errors", posix_memalign_errors},
    {"alignments_up_to_beyond_a_segment", alignments_up_to_beyond_a_segment},
    {"aligned_blocks_do_not_overlap", aligned_blocks_do_not_overlap},
    {"alignments_that_are_no_power_of_two", alignments_that_are_no_power_of_two},
    {"page_aligned_blocks", page_aligned_blocks},
    {"usable_size_is_usable", usable_size_is_usable},
    {"realloc_between_all_kinds", realloc_between_all_kinds},
    {"realloc_of_null_is_malloc", realloc_of_null_is_malloc},
    {"realloc_in_small_steps", realloc_in_small_steps},
    {"realloc_of_very_large_blocks", realloc_of_very_large_blocks},
    {"calloc_is_zero_after_dirty_use", calloc_is_zero_after_dirty_use},
    {"free_preserves_errno", free_preserves_errno},
    {"cfree_frees_where_it_exists", cfree_frees_where_it_exists},
    {"what_succeeds_leaves_errno_alone", what_succeeds_leaves_errno_alone},
    {"libc_and_its_callers_share_blocks", libc_and_its_callers_share_blocks},
    {"a_long_random_walk", a_long_random_walk},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
