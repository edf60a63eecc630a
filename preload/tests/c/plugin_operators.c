/* A C program that opens plugins written in C++: it has no C++ library, they bring it, and operators of their own. */
#include "check.h"

#include <dlfcn.h>

static void *opened(int flags) {
    const char *path = getenv("SLACKWATER_CHECK_PLUGIN");
    CHECK(path);
    CHECK(!dlsym(RTLD_DEFAULT, "__cxa_throw"), "this program has a C++ library");
    void *plugin = dlopen(path, flags);
    CHECK(plugin, "%s", dlerror());
    return plugin;
}

static void runs(int flags) {
    void *plugin = opened(flags);
    void (*work)(void) = (void (*)(void))dlsym(plugin, "own_operators_in_library");
    CHECK(work);
    work();
    pthread_t thread = start((void *(*)(void *))work, NULL);
    join(thread);
    CHECK(dlclose(plugin) == 0);
}

static void a_plugins_operators_are_its_own(void) { runs(RTLD_NOW | RTLD_LOCAL); }

static void a_lazy_plugins_too(void) { runs(RTLD_LAZY | RTLD_GLOBAL); }

static void a_plugin_that_looks_at_itself_first_too(void) { runs(RTLD_NOW | RTLD_DEEPBIND); }

static const struct check checks[] = {
    {"a_plugins_operators_are_its_own", a_plugins_operators_are_its_own},
    {"a_lazy_plugins_too", a_lazy_plugins_too},
    {"a_plugin_that_looks_at_itself_first_too", a_plugin_that_looks_at_itself_first_too},
};

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
