/* malloc_stats and malloc_info where the stream cannot be written to, and where the thread is to be cancelled. */
#include "check.h"

#include <signal.h>

static pthread_barrier_t together;

static void stderr_becomes(int descriptor) {
    CHECK(descriptor >= 0 && dup2(descriptor, STDERR_FILENO) == STDERR_FILENO);
}

static void tell_everything(void) {
    for (int i = 0; i < 3; i++) {
        malloc_stats();
        CHECK(malloc_info(0, stderr) == 0);
    }
    CHECK(ferror(stderr));
    free(malloc(100));
}

static void stderr_is_full(void) {
    stderr_becomes(open("/dev/full", O_WRONLY));
    tell_everything();
}

static void stderr_is_a_broken_pipe(void) {
    signal(SIGPIPE, SIG_IGN);
    int ends[2];
    CHECK(pipe(ends) == 0 && close(ends[0]) == 0);
    stderr_becomes(ends[1]);
    tell_everything();
}

static void stderr_is_closed(void) {
    close(STDERR_FILENO);
    tell_everything();
}

static void stderr_is_for_reading(void) {
    stderr_becomes(open("/dev/null", O_RDONLY));
    tell_everything();
}

/* Whatever stream the program calls stderr, with the buffer it has. */
static void stderr_is_another_stream(void) {
    FILE *before = stderr;
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    CHECK(memory);
    stderr = memory;
    fprintf(stderr, "first\n");
    malloc_stats();
    fprintf(stderr, "last\n");
    stderr = before;
    CHECK(fclose(memory) == 0);
    CHECK(strncmp(text, "first\n", 6) == 0 && strcmp(text + length - 5, "last\n") == 0, "%s", text);
    CHECK(length > 30, "%s", text);
    free(text);
}

static void a_stream_that_fails_keeps_the_error(void) {
    FILE *full = fopen("/dev/full", "w"), *reading = fopen("/dev/null", "r");
    CHECK(full && reading && setvbuf(full, NULL, _IONBF, 0) == 0);
    CHECK(malloc_info(0, full) == 0 && ferror(full));
    CHECK(malloc_info(0, reading) == 0 && ferror(reading));
    CHECK(malloc_info(1, full) == EINVAL);
    fclose(full);
    fclose(reading);
}

/* All that is no cancellation point, on a thread that is to be cancelled at the first. */
static void *call_everything(void *argument) {
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        void *blocks[] = {malloc(size),      calloc(1, size), realloc(malloc(1), size),
                          memalign(64, size), valloc(size),    pvalloc(size),
                          aligned_alloc(64, size), reallocarray(NULL, size, 1), NULL};
        if (posix_memalign(&blocks[8], 64, size) != 0)
            abort();
        for (size_t k = 0; k < COUNT(blocks); k++) {
            if (malloc_usable_size(blocks[k]) < size)
                abort();
            free(blocks[k]);
        }
        malloc_trim(0);
    }
    malloc_stats();
    mallinfo2();
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
    if (malloc_info(0, memory) != 0)
        abort();
    *(int *)argument = 1;
    pthread_testcancel();
    *(int *)argument = 2;
    return NULL;
}

static void *result_of(void *(*body)(void *), int *reached) {
    pthread_t thread;
    void *result;
    CHECK(pthread_barrier_init(&together, NULL, 2) == 0);
    CHECK(pthread_create(&thread, NULL, body, reached) == 0);
    pthread_barrier_wait(&together);
    CHECK(pthread_cancel(thread) == 0);
    pthread_barrier_wait(&together);
    CHECK(pthread_join(thread, &result) == 0);
    return result;
}

static void they_are_no_cancellation_points(void) {
    int reached = 0;
    CHECK(result_of(call_everything, &reached) == PTHREAD_CANCELED);
    CHECK(reached == 1, "%d", reached);
    malloc_stats();
}

static void cleaned_up(void *argument) { *(int *)argument = 1; }

static void *write_the_figures(void *argument) {
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    pthread_cleanup_push(cleaned_up, argument);
    malloc_info(0, stderr);
    /* Cancelled there, or here where the stream did not write. */
    pthread_testcancel();
    pthread_cleanup_pop(0);
    return NULL;
}

static void a_thread_may_be_cancelled_while_it_writes_them(void) {
    for (int i = 0; i < 20; i++) {
        int reached = 0;
        CHECK(result_of(write_the_figures, &reached) == PTHREAD_CANCELED);
        CHECK(reached == 1);
        free(malloc(1000));
        malloc_stats();
    }
}

static const struct check checks[] = {
    {"stderr_is_full", stderr_is_full},
    {"stderr_is_a_broken_pipe", stderr_is_a_broken_pipe},
    {"stderr_is_closed", stderr_is_closed},
    {"stderr_is_for_reading", stderr_is_for_reading},
    {"stderr_is_another_stream", stderr_is_another_stream},
    {"a_stream_that_fails_keeps_the_error", a_stream_that_fails_keeps_the_error},
    {"they_are_no_cancellation_points", they_are_no_cancellation_points},
    {"a_thread_may_be_cancelled_while_it_writes_them",
     a_thread_may_be_cancelled_while_it_writes_them},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
