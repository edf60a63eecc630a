/* Uses blocks after they were freed, so that the report says where that happened. All of this is code
 * without frame pointers. */
#include "check.h"

#include <sys/resource.h>

typedef char *(*allocator)(void);

static char *by_malloc(void) { return malloc(100); }
static char *by_calloc(void) { return calloc(1, 100); }
static char *by_realloc(void) { return realloc(malloc(10), 100); }
static char *by_reallocarray(void) { return reallocarray(NULL, 1, 100); }
static char *by_aligned_alloc(void) { return aligned_alloc(64, 128); }
static char *by_memalign(void) { return memalign(64, 100); }

static char *by_posix_memalign(void) {
    void *block = NULL;
    CHECK(posix_memalign(&block, 64, 100) == 0);
    return block;
}

/* Not to be a jump, which would leave no frame. */
#define AFTER(block) __asm__ volatile("" : : "r"(block) : "memory")

__attribute__((noinline)) static char *deep(int frames, allocator allocate) {
    char *block = frames == 0 ? allocate() : deep(frames - 1, allocate);
    AFTER(block);
    return block;
}

__attribute__((noinline)) static void give_back(char *block) {
    free(block);
    AFTER(block);
}

static void use_after_free(allocator allocate) {
    char *volatile block = deep(10, allocate);
    give_back(block);
    block[5] = 1;
    CHECK(0, "not noticed");
}

static void of_malloc(void) { use_after_free(by_malloc); }
static void of_calloc(void) { use_after_free(by_calloc); }
static void of_realloc(void) { use_after_free(by_realloc); }
static void of_reallocarray(void) { use_after_free(by_reallocarray); }
static void of_aligned_alloc(void) { use_after_free(by_aligned_alloc); }
static void of_memalign(void) { use_after_free(by_memalign); }
static void of_posix_memalign(void) { use_after_free(by_posix_memalign); }

static const struct check checks[] = {
    {"of_malloc", of_malloc},
    {"of_calloc", of_calloc},
    {"of_realloc", of_realloc},
    {"of_reallocarray", of_reallocarray},
    {"of_aligned_alloc", of_aligned_alloc},
    {"of_memalign", of_memalign},
    {"of_posix_memalign", of_posix_memalign},
};

int main(int argc, char **argv) {
    /* The allocator reads the environment when it starts: every block is to be a sample. */
    if (getenv("SLACKWATER_PROFILE_RATE_BYTES") == NULL) {
        CHECK(setenv("SLACKWATER_PROFILE_RATE_BYTES", "1", 1) == 0);
        CHECK(setenv("SLACKWATER_PROFILE_EPOCH_SAMPLES", "1000000", 1) == 0);
        execv("/proc/self/exe", argv);
        CHECK(0, "%d", errno);
    }
    /* A fault is what is hoped for: no core file of it. */
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    return check_main(checks, COUNT(checks), argc, argv);
}
