// A program with plain operators of its own.
#include "operators.h"

#include <atomic>
#include <dlfcn.h>
#include <string>
#include <thread>
#include <vector>

void *operator new(size_t size) { return take(size); }
void operator delete(void *block) noexcept { give(block); }
void operator delete(void *block, size_t) noexcept { give(block); }

namespace {

// Before the preloaded library's constructors, or after: it is not known.
struct AtLoad {
    AtLoad() { use_all_forms(); }
} at_load;

void every_form_calls_the_programs() { use_all_forms(); }

// Code of the C++ library, which is compiled into it.
void the_cxx_library_calls_the_programs() {
    news = deletes = 0;
    {
        std::string text(1000, 'x');
        text += std::string(1000, 'y');
        std::thread thread([] {});
        thread.join();
    }
    CHECK(news >= 3, "%d", news);
    CHECK(deletes == news, "%d of %d", deletes, news);
}

// Somebody who wants what comes after the program's.
void the_next_ones_are_an_allocators() {
    auto next = (void *(*)(size_t))dlsym(RTLD_NEXT, "_Znwm");
    auto next_delete = (void (*)(void *))dlsym(RTLD_NEXT, "_ZdlPv");
    CHECK(next && next_delete);
    void *block = next(100);
    CHECK(block && !is_of_pool(block));
    CHECK(malloc_usable_size(block) >= 100);
    next_delete(block);
}

const check checks[] = {
    {"every_form_calls_the_programs", every_form_calls_the_programs},
    {"the_cxx_library_calls_the_programs", the_cxx_library_calls_the_programs},
    {"the_next_ones_are_an_allocators", the_next_ones_are_an_allocators},
};

} // namespace

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
