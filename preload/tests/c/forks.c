/* What other people's fork handlers may do, and libc's own locks around a fork. Linked with early.c. */
#include "check.h"

#include <stdatomic.h>
#include <sys/wait.h>

extern char early_work;
extern int early_calls[3], early_refused[3];
extern pthread_mutex_t early_mutex;

static atomic_int stop;

static void fork_and_look(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(early_calls[0] > 0 && early_calls[2] == 0 && early_work != 'j' ? 100 : early_refused[2]);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
    CHECK(early_refused[0] == 0 && early_refused[1] == 0, "%d %d", early_refused[0], early_refused[1]);
}

static void with_handlers_that(char work) {
    void *warm = malloc(100000);
    early_work = work;
    for (int i = 0; i < 50; i++)
        fork_and_look();
    CHECK(early_calls[0] >= 7 && early_calls[1] >= 7);
    free(warm);
}

static void handlers_of_a_library_may_allocate(void) { with_handlers_that('a'); }

static void handlers_may_start_and_join_threads(void) { with_handlers_that('j'); }

static void *allocate_under_the_mutex(void *argument) {
    while (!stop) {
        pthread_mutex_lock(&early_mutex);
        for (size_t size = 16; size < 400000; size *= 5)
            free(malloc(size));
        pthread_mutex_unlock(&early_mutex);
    }
    return argument;
}

static void handlers_may_take_a_mutex_that_others_allocate_under(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        threads[i] = start(allocate_under_the_mutex, NULL);
    with_handlers_that('m');
    stop = 1;
    for (int i = 0; i < 2; i++)
        join(threads[i]);
}

/* A line longer than any buffer, so that getline asks for memory with its stream locked. */
static char line_path[] = "/tmp/slackwater-forks-XXXXXX";

static void *read_lines(void *argument) {
    FILE *file = fopen(line_path, "r");
    CHECK(file);
    while (!stop) {
        char *line = NULL;
        size_t size = 0;
        rewind(file);
        CHECK(getline(&line, &size, file) > 0);
        free(line);
    }
    fclose(file);
    return argument;
}

static void *flush_all(void *argument) {
    while (!stop)
        fflush(NULL);
    return argument;
}

/* One thread forks, one flushes all streams, one reads a line: a circle of three locks, if fork takes them in
 * another order than these. */
static void streams_are_flushed_and_read_around_forks(void) {
    int fd = mkstemp(line_path);
    CHECK(fd >= 0);
    for (int i = 0; i < 200; i++) {
        char text[1000];
        memset(text, 'x', sizeof text);
        CHECK(write(fd, text, sizeof text) == sizeof text);
    }
    close(fd);
    pthread_t reader = start(read_lines, NULL), flusher = start(flush_all, NULL);
    for (int i = 0; i < 500; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            /* Streams, and memory, as in any process. */
            char *line = NULL;
            size_t size = 0;
            FILE *file = fopen(line_path, "r");
            CHECK(file && getline(&line, &size, file) > 0);
            free(line);
            fclose(file);
            fflush(NULL);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
    }
    stop = 1;
    join(reader);
    join(flusher);
    unlink(line_path);
}

/* A child of a program with one thread starts another, which flushes: the list of streams is nobody's. */
static void *flush_once(void *argument) {
    fflush(NULL);
    return argument;
}

static void a_childs_threads_find_the_streams_unlocked(void) {
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            join(start(flush_once, NULL));
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
        join(start(flush_once, NULL));
    }
}

static const struct check checks[] = {
    {"handlers_of_a_library_may_allocate", handlers_of_a_library_may_allocate},
    {"handlers_may_start_and_join_threads", handlers_may_start_and_join_threads},
    {"handlers_may_take_a_mutex_that_others_allocate_under",
     handlers_may_take_a_mutex_that_others_allocate_under},
    {"streams_are_flushed_and_read_around_forks", streams_are_flushed_and_read_around_forks},
    {"a_childs_threads_find_the_streams_unlocked", a_childs_threads_find_the_streams_unlocked},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
