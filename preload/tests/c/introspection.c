/* The calls that tell or tune: malloc_trim, mallinfo, malloc_info, malloc_stats, mallopt. */
#include "check.h"

#include <ctype.h>

enum { BLOCKS = 32 * 1024 };
static void *blocks[BLOCKS];

static void hold(size_t size) {
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(size);
        CHECK(blocks[i]);
        memset(blocks[i], 1, size);
    }
}

static void let_go(void) {
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
}

static void trim_returns_a_truth_value(void) {
    for (int round = 0; round < 4; round++) {
        hold(1000);
        let_go();
        int released = malloc_trim(round % 2 ? 0 : MIB);
        CHECK(released == 0 || released == 1, "%d", released);
    }
    /* Twice in a row: the second has nothing left to do and says so or not, but returns. */
    malloc_trim(0);
    int again = malloc_trim(0);
    CHECK(again == 0 || again == 1, "%d", again);
}

/* Every coverage kind: what was freed is the system's again after malloc_trim. */
static void trim_gives_every_kind_back(void) {
    static const size_t sizes[] = {64, 1000, 2048, 3000, 4096, 8192, 32768};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        /* The total is the same for each size, in blocks of that size. */
        size_t count = 32 * MIB / sizes[i];
        void **held = malloc(count * sizeof *held);
        CHECK(held);
        memset(held, 0, count * sizeof *held);
        size_t before = resident_bytes();
        for (size_t k = 0; k < count; k++) {
            held[k] = malloc(sizes[i]);
            CHECK(held[k]);
            memset(held[k], 1, sizes[i]);
        }
        size_t peak = resident_bytes();
        CHECK(peak >= before + 24 * MIB, "size %zu: %zu to %zu", sizes[i], before, peak);
        for (size_t k = 0; k < count; k++)
            free(held[k]);
        malloc_trim(0);
        size_t after = resident_bytes();
        CHECK(after < before + 4 * MIB, "size %zu: %zu, %zu, %zu", sizes[i], before, peak, after);
        free(held);
    }
    static const size_t runs[] = {40 * KIB, 500 * KIB, 2 * MIB, 5 * MIB, 32 * MIB};
    for (size_t i = 0; i < COUNT(runs); i++) {
        size_t count = 32 * MIB / runs[i];
        void **held = malloc(count * sizeof *held);
        CHECK(held);
        size_t before = resident_bytes();
        for (size_t k = 0; k < count; k++) {
            held[k] = malloc(runs[i]);
            CHECK(held[k]);
            memset(held[k], 1, runs[i]);
        }
        for (size_t k = 0; k < count; k++)
            free(held[k]);
        malloc_trim(0);
        size_t after = resident_bytes();
        CHECK(after < before + 4 * MIB, "run of %zu: %zu, %zu", runs[i], before, after);
        free(held);
    }
}

/* Live blocks among the freed ones keep their content through a trim. */
static void trim_leaves_live_blocks_alone(void) {
    hold(700);
    for (int i = 0; i < BLOCKS; i++) {
        if (i % 5 == 0)
            fill(blocks[i], 700, (unsigned)i);
        else
            free(blocks[i]);
    }
    malloc_trim(0);
    for (int i = 0; i < BLOCKS; i += 5) {
        CHECK(holds(blocks[i], 700, (unsigned)i), "block %d", i);
        free(blocks[i]);
    }
}

static void mallinfo_follows_what_is_live(void) {
    struct mallinfo2 before = mallinfo2();
    hold(1000);
    struct mallinfo2 during = mallinfo2();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo small = mallinfo();
#pragma GCC diagnostic pop
    let_go();
    malloc_trim(0);
    struct mallinfo2 after = mallinfo2();
    size_t held = (size_t)BLOCKS * 1000;
    CHECK(during.uordblks >= before.uordblks + held * 9 / 10, "%zu to %zu", before.uordblks,
          during.uordblks);
    CHECK(during.uordblks <= before.uordblks + held * 3 / 2, "%zu to %zu", before.uordblks,
          during.uordblks);
    CHECK(after.uordblks <= before.uordblks + held / 10, "%zu to %zu", before.uordblks,
          after.uordblks);
    CHECK(during.arena + during.hblkhd >= during.uordblks, "%zu, %zu, %zu", during.arena,
          during.hblkhd, during.uordblks);
    /* The old form has ints, which hold this much. */
    CHECK(small.uordblks > 0 && (size_t)small.uordblks >= held * 9 / 10, "%d", small.uordblks);
}

/* Enough of XML to see that tags nest, close and quote their attributes. */
static void check_xml(const char *text) {
    char open_names[32][64];
    int depth = 0, elements = 0;
    for (const char *at = text; *at;) {
        if (*at != '<') {
            CHECK(*at != '>' && (depth > 0 || isspace((unsigned char)*at)), "at %.40s", at);
            at++;
            continue;
        }
        const char *end = strchr(at, '>');
        CHECK(end, "at %.40s", at);
        if (at[1] == '?') {
            CHECK(at == text && end[-1] == '?');
            at = end + 1;
            continue;
        }
        char name[64] = "";
        CHECK(sscanf(at[1] == '/' ? at + 2 : at + 1, "%63[A-Za-z0-9_]", name) == 1, "%.40s", at);
        if (at[1] == '/') {
            CHECK(depth > 0 && strcmp(open_names[depth - 1], name) == 0, "at %.40s", at);
            depth--;
        } else {
            int quotes = 0, equals = 0;
            for (const char *in = at + 1; in < end; in++) {
                quotes += *in == '"';
                equals += *in == '=';
                CHECK(*in != '<', "at %.40s", at);
            }
            CHECK(quotes == 2 * equals, "at %.40s", at);
            CHECK(depth > 0 || elements == 0, "a second root at %.40s", at);
            elements++;
            if (end[-1] != '/') {
                CHECK(depth < 32);
                strcpy(open_names[depth++], name);
            }
        }
        at = end + 1;
    }
    CHECK(depth == 0 && elements > 0);
}

static void malloc_info_writes_xml(void) {
    hold(300);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(stream);
    CHECK(malloc_info(0, stream) == 0);
    CHECK(fclose(stream) == 0 && length > 0);
    CHECK(strncmp(text, "<malloc", 7) == 0 || strncmp(text, "<?xml", 5) == 0, "%.40s", text);
    check_xml(text);
    CHECK(strstr(text, "</malloc>"));
    free(text);
    let_go();
    /* The options are reserved: anything but 0 is refused. */
    stream = tmpfile();
    CHECK(stream);
    CHECK(malloc_info(1, stream) != 0);
    CHECK(ftell(stream) == 0);
    fclose(stream);
}

static void malloc_stats_writes_to_stderr(void) {
    int ends[2];
    hold(300);
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    int saved = dup(STDERR_FILENO);
    CHECK(saved >= 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    malloc_stats();
    CHECK(dup2(saved, STDERR_FILENO) >= 0);
    char text[16384];
    ssize_t got = read(ends[0], text, sizeof text);
    CHECK(got > 10, "%zd bytes", got);
    CHECK(text[got - 1] == '\n', "the last line has no end");
    int digits = 0;
    for (ssize_t i = 0; i < got; i++) {
        CHECK(isprint((unsigned char)text[i]) || isspace((unsigned char)text[i]));
        digits += isdigit((unsigned char)text[i]) != 0;
    }
    CHECK(digits > 0);
    let_go();
}

static void mallopt_answers_and_harms_nothing(void) {
    static const int parameters[] = {M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD,
                                     M_MMAP_MAX, M_ARENA_MAX, M_ARENA_TEST, M_PERTURB, 12345};
    static const int values[] = {0, 64, 128 * 1024, -1};
    for (size_t i = 0; i < COUNT(parameters); i++) {
        for (size_t k = 0; k < COUNT(values); k++) {
            /* glibc's own debugging aid fills blocks on free: not part of this check. */
            if (parameters[i] == M_PERTURB && values[k] != 0)
                continue;
            int answer = mallopt(parameters[i], values[k]);
            CHECK(answer == 0 || answer == 1, "%d, %d: %d", parameters[i], values[k], answer);
        }
    }
    hold(500);
    for (int i = 0; i < BLOCKS; i++)
        fill(blocks[i], 500, (unsigned)i);
    for (int i = 0; i < BLOCKS; i++)
        CHECK(holds(blocks[i], 500, (unsigned)i), "block %d", i);
    let_go();
}

/* The flags of the mapping that a block lies in, from /proc/self/smaps. */
static void flags_of(const void *block, char *flags, size_t size) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    CHECK(maps);
    char line[512];
    int here = 0;
    flags[0] = 0;
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            here = start <= (uintptr_t)block && (uintptr_t)block < end;
        else if (here && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(flags, size, "%s", line + 8);
    }
    fclose(maps);
}

/* Huge pages fill the holes that a purge leaves: the heap has none, also where a realloc has moved
 * pages and the range was mapped anew. */
static void the_heap_has_no_huge_pages(void) {
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) != 0)
        return;
    char flags[512];
    char *small = malloc(100), *large = malloc(8 * MIB);
    CHECK(small && large);
    memset(large, 1, 8 * MIB);
    char *after = malloc(MIB);
    char *moved = realloc(large, 64 * MIB);
    CHECK(after && moved);
    free(moved);
    char *again = malloc(64 * MIB);
    CHECK(again);
    const void *places[] = {small, again, again + 32 * MIB, after};
    for (size_t i = 0; i < COUNT(places); i++) {
        flags_of(places[i], flags, sizeof flags);
        CHECK(strstr(flags, " nh"), "place %zu: %s", i, flags);
    }
}

static const struct check checks[] = {
    {"trim_returns_a_truth_value", trim_returns_a_truth_value},
    {"trim_gives_every_kind_back", trim_gives_every_kind_back},
    {"trim_leaves_live_blocks_alone", trim_leaves_live_blocks_alone},
    {"mallinfo_follows_what_is_live", mallinfo_follows_what_is_live},
    {"malloc_info_writes_xml", malloc_info_writes_xml},
    {"malloc_stats_writes_to_stderr", malloc_stats_writes_to_stderr},
    {"mallopt_answers_and_harms_nothing", mallopt_answers_and_harms_nothing},
    {"the_heap_has_no_huge_pages", the_heap_has_no_huge_pages},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
