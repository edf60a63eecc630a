/* Blocks that are not of the preloaded allocator: those of who asks libc itself. Linked with early_foreign.c. */
#include "check.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern int early_failures;
extern char *early_kept;

static void *(*others_malloc)(size_t);
static void *(*others_memalign)(size_t, size_t);

static char *others_copy(const char *text) { return strcpy(others_malloc(strlen(text) + 1), text); }

static void find_others(void) {
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    CHECK(libc, "%s", dlerror());
    others_malloc = (void *(*)(size_t))dlsym(libc, "malloc");
    others_memalign = (void *(*)(size_t, size_t))dlsym(libc, "memalign");
    CHECK(others_malloc && others_memalign);
}

static void use_blocks(void) {
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        char *block = others_malloc(size);
        CHECK(block && malloc_usable_size(block) >= size, "size %zu", size);
        fill(block, size, 1);
        for (size_t k = 0; k < COUNT(kind_sizes); k += 7) {
            size_t other = kind_sizes[k];
            char *copy = others_malloc(size);
            memcpy(copy, block, size);
            copy = k % 2 ? realloc(copy, other) : reallocarray(copy, 1, other);
            CHECK(copy && malloc_usable_size(copy) >= other, "%zu to %zu", size, other);
            CHECK(holds_part(copy, size < other ? size : other, size, 1), "%zu to %zu", size, other);
            fill(copy, other, 2);
            free(copy);
        }
        errno = 1234;
        free(block);
        CHECK(errno == 1234, "size %zu: %d", size, errno);
        void *boundary = others_memalign(4 * PAGE, size);
        CHECK(boundary && malloc_usable_size(boundary) >= size, "size %zu", size);
        free(boundary);
        CHECK(realloc(others_malloc(size), 0) == NULL);
    }
}

static void anothers_blocks_are_used_by_the_program(void) {
    find_others();
    use_blocks();
    /* libc frees and resizes what the program hands it. */
    size_t capacity = 1;
    char *line = others_malloc(capacity);
    FILE *stream = fmemopen("a line that is longer than a byte\n", 34, "r");
    CHECK(stream && getline(&line, &capacity, stream) == 34 && capacity > 34);
    fclose(stream);
    free(line);
    void (*cfree_function)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    if (cfree_function)
        cfree_function(others_malloc(100));
}

static void *use_blocks_on_a_thread(void *argument) {
    use_blocks();
    return argument;
}

static void anothers_blocks_are_used_by_threads_and_children(void) {
    find_others();
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        threads[i] = start(use_blocks_on_a_thread, NULL);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            use_blocks();
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
    }
    for (int i = 0; i < 3; i++)
        join(threads[i]);
}

/* 8 GiB in all, if they did not. */
static void anothers_blocks_go_back(void) {
    find_others();
    for (int i = 0; i < 8 * 1024; i++) {
        char *block = others_malloc(MIB);
        CHECK(block);
        block[0] = 1;
        if (i % 2)
            block = realloc(block, 2 * MIB);
        CHECK(block && block[0] == 1);
        free(block);
    }
    CHECK(resident_bytes() < 512 * MIB);
}

static void anothers_block_that_cannot_grow_stays(void) {
    find_others();
    volatile size_t sizes[] = {PTRDIFF_MAX, SIZE_MAX - PAGE, (size_t)1 << 48};
    char *text = others_copy("as it was");
    for (size_t i = 0; i < COUNT(sizes); i++) {
        errno = 0;
        CHECK(realloc(text, sizes[i]) == NULL);
        CHECK(errno == ENOMEM, "%d", errno);
        errno = 0;
        CHECK(reallocarray(text, sizes[i], 16) == NULL);
        CHECK(errno == ENOMEM, "%d", errno);
    }
    CHECK(strcmp(text, "as it was") == 0);
    free(text);
}

/* What the loader keeps for dlerror is the program's. */
static void dlerror_is_left_alone(void) {
    find_others();
    CHECK(dlsym(RTLD_DEFAULT, "no_such_function") == NULL);
    use_blocks();
    const char *error = dlerror();
    CHECK(error && strstr(error, "no_such_function"), "%s", error ? error : "none");
    CHECK(dlerror() == NULL);
}

static void a_constructor_has_them_before_anybody(void) {
    CHECK(early_failures == 0, "%d", early_failures);
    CHECK(strcmp(early_kept, "kept for main") == 0);
    early_kept = realloc(early_kept, 1000);
    CHECK(early_kept && strcmp(early_kept, "kept for main") == 0);
    free(early_kept);
}

/* What is no block at all ends the process, as it does without the library. */
static void what_is_no_block_ends_the_process(void) {
    static char in_data[64] __attribute__((aligned(16)));
    char on_stack[64] __attribute__((aligned(16))) = "";
    char *mapping = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED);
    void *volatile wrong[] = {on_stack + 16, on_stack + 8, in_data + 16, mapping + PAGE, mapping,
                              (void *)16,    (void *)(UINTPTR_MAX - 15)};
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (size_t i = 0; i < 2 * COUNT(wrong); i++) {
        fflush(NULL);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            close(STDERR_FILENO);
            if (i % 2)
                _exit(realloc(wrong[i / 2], 100000) != NULL);
            free(wrong[i / 2]);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status), "%zu: %x", i, status);
        CHECK(WTERMSIG(status) == SIGABRT || WTERMSIG(status) == SIGSEGV, "%zu: %x", i, status);
    }
}

static const struct check checks[] = {
    {"anothers_blocks_are_used_by_the_program", anothers_blocks_are_used_by_the_program},
    {"anothers_blocks_are_used_by_threads_and_children",
     anothers_blocks_are_used_by_threads_and_children},
    {"anothers_blocks_go_back", anothers_blocks_go_back},
    {"anothers_block_that_cannot_grow_stays", anothers_block_that_cannot_grow_stays},
    {"dlerror_is_left_alone", dlerror_is_left_alone},
    {"a_constructor_has_them_before_anybody", a_constructor_has_them_before_anybody},
    {"what_is_no_block_ends_the_process", what_is_no_block_ends_the_process},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
