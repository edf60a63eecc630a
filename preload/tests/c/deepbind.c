/* The program of a plugin that finds libc's functions before anybody else's (deepbound.c): PHP and sssd, among others,
 * open theirs so. libc itself calls the preloaded malloc for it. */
#include "check.h"

#include <dlfcn.h>

static int (*plugin_work)(void);
static char *(*plugin_gives)(size_t);
static char *(*plugin_resizes)(char *, size_t);
static void (*plugin_takes)(char *);
static size_t (*plugin_counts)(void);

static void *open_plugin(void) {
    const char *path = getenv("SLACKWATER_CHECK_PLUGIN");
    CHECK(path, "no plugin is named");
    void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    CHECK(plugin, "%s", dlerror());
    plugin_work = (int (*)(void))dlsym(plugin, "plugin_work");
    plugin_gives = (char *(*)(size_t))dlsym(plugin, "plugin_gives");
    plugin_resizes = (char *(*)(char *, size_t))dlsym(plugin, "plugin_resizes");
    plugin_takes = (void (*)(char *))dlsym(plugin, "plugin_takes");
    plugin_counts = (size_t (*)(void))dlsym(plugin, "plugin_counts");
    CHECK(plugin_work && plugin_gives && plugin_resizes && plugin_takes && plugin_counts);
    return plugin;
}

static void a_plugin_frees_what_libc_gives_it(void) {
    for (int round = 0; round < 3; round++) {
        void *plugin = open_plugin();
        for (int i = 0; i < 100; i++)
            CHECK(plugin_work() == 0);
        CHECK(dlclose(plugin) == 0);
    }
}

static void blocks_go_to_and_fro(void) {
    open_plugin();
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        size_t size = kind_sizes[i];
        char *block = malloc(size);
        CHECK(block);
        fill(block, size, 1);
        block = plugin_resizes(block, 2 * size);
        CHECK(block && holds(block, size, 1), "size %zu", size);
        block = realloc(block, size);
        CHECK(block && holds(block, size, 1), "size %zu", size);
        plugin_takes(block);
        block = plugin_gives(size);
        CHECK(block && malloc_usable_size(block) >= size, "size %zu", size);
        fill(block, size, 2);
        block = realloc(block, 2 * size);
        CHECK(block && holds(block, size, 2), "size %zu", size);
        free(block);
        free(plugin_gives(size));
    }
}

static void *open_and_work(void *argument) {
    pthread_barrier_wait(argument);
    open_plugin();
    CHECK(plugin_work() == 0);
    return NULL;
}

static void two_threads_open_the_first(void) {
    pthread_barrier_t together;
    CHECK(pthread_barrier_init(&together, NULL, 2) == 0);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        threads[i] = start(open_and_work, &together);
    for (int i = 0; i < 2; i++)
        join(threads[i]);
}

static void a_plugin_asks_the_heap_that_it_uses(void) {
    open_plugin();
    size_t before = plugin_counts();
    char *block = malloc(8 * MIB);
    CHECK(block);
    fill(block, 8 * MIB, 1);
    /* glibc counts what it has mapped elsewhere. */
    CHECK(plugin_counts() >= before && mallinfo2().uordblks == plugin_counts());
    free(block);
}

/* The loader goes by who calls dlopen. */
static void libraries_are_looked_for_where_the_caller_is(void) {
    const char *path = getenv("SLACKWATER_CHECK_PLUGIN");
    CHECK(path && strrchr(path, '/'), "no plugin is named");
    char name[512];
    CHECK(snprintf(name, sizeof name, "$ORIGIN%s", strrchr(path, '/')) < (int)sizeof name);
    void *plugin = dlopen(name, RTLD_NOW);
    CHECK(plugin, "%s", dlerror());
    CHECK(dlclose(plugin) == 0);
    plugin = dlopen(name, RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin, "%s", dlerror());
    CHECK(dlopen("no/such/library.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    const char *error = dlerror();
    CHECK(error && strstr(error, "no/such/library.so"), "%s", error ? error : "none");
}

static const struct check checks[] = {
    {"a_plugin_frees_what_libc_gives_it", a_plugin_frees_what_libc_gives_it},
    {"blocks_go_to_and_fro", blocks_go_to_and_fro},
    {"two_threads_open_the_first", two_threads_open_the_first},
    {"a_plugin_asks_the_heap_that_it_uses", a_plugin_asks_the_heap_that_it_uses},
    {"libraries_are_looked_for_where_the_caller_is", libraries_are_looked_for_where_the_caller_is},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
