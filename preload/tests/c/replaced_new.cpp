// A program that has `operator new` of its own, to count, and leaves `delete` to others.
#include "check.h"

#include <new>

static int news;

void *operator new(size_t size) {
    news++;
    if (void *block = malloc(size))
        return block;
    throw std::bad_alloc();
}

namespace {

void every_new_is_counted() {
    int expected = news = 0;
    auto counted = [&](void *block) {
        CHECK(news == ++expected, "%d, not %d", news, expected);
        CHECK(malloc_usable_size(block) >= 100);
        return block;
    };
    for (int i = 0; i < 1000; i++) {
        ::operator delete(counted(::operator new(100)), size_t{100});
        ::operator delete[](counted(::operator new[](100)));
        ::operator delete(counted(::operator new(100, std::nothrow)));
        ::operator delete[](counted(::operator new[](100, std::nothrow)), size_t{100});
        free(counted(::operator new(100)));
    }
}

// The forms that return null call the program's, which throws.
void what_it_throws_is_turned_into_null() {
    volatile size_t impossible = PTRDIFF_MAX;
    news = 0;
    CHECK(!::operator new(impossible, std::nothrow));
    CHECK(!::operator new[](impossible, std::nothrow));
    CHECK(news == 2, "%d", news);
}

const check checks[] = {
    {"every_new_is_counted", every_new_is_counted},
    {"what_it_throws_is_turned_into_null", what_it_throws_is_turned_into_null},
};

} // namespace

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
