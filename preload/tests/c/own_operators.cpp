// A library with plain operators of its own, of which it finds some by itself, and all others find them by name.
#include "operators.h"

#include <string>

void *operator new(size_t size) { return take(size); }
void operator delete(void *block) noexcept { give(block); }

extern "C" void own_operators_in_library(void) {
    use_all_forms();
    news = deletes = 0;
    std::string(1000, 'x') += std::string(1000, 'y');
    CHECK(news >= 2 && deletes == news, "%d of %d", deletes, news);
}

// One of its blocks, for others to delete.
extern "C" void *own_operators_block(void) { return take(100); }
extern "C" int own_operators_count(void) { return news; }
