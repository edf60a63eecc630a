// Code that compilers lay out in their own ways: callbacks out of templates, exceptions, destructors
// that run while the stack unwinds, stacks that are realigned or grow as they run.
#include <algorithm>
#include <alloca.h>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#ifndef LOCAL_BYTES
#define LOCAL_BYTES 64
#endif

using Callback = void (*)();

namespace {

struct CallsWhenDestroyed {
    Callback callback;
    ~CallsWhenDestroyed() { callback(); }
};

template <int N> __attribute__((noinline)) int nested(const std::function<void()> &call) {
    volatile char local[LOCAL_BYTES + N * 8];
    local[0] = N;
    if constexpr (N == 0) {
        call();
    } else {
        nested<N - 1>(call);
    }
    return local[0];
}

__attribute__((noinline)) void fails(Callback callback) {
    CallsWhenDestroyed guard{callback};
    throw std::runtime_error("on purpose");
}

__attribute__((noinline)) void realigned(Callback callback) {
    alignas(128) volatile char local[256];
    local[0] = 1;
    callback();
    local[1] = local[0];
}

__attribute__((noinline)) int grown(size_t bytes, Callback callback) {
    char *room = static_cast<char *>(alloca(bytes));
    memset(room, 1, bytes);
    callback();
    return room[bytes - 1];
}

}  // namespace

extern "C" void through_templates(Callback callback) {
    nested<20>([&] { callback(); });
}

extern "C" void through_sort(Callback callback) {
    std::vector<int> numbers(40);
    for (size_t i = 0; i < numbers.size(); i++) numbers[i] = i * 7919 % 41;
    bool called = false;
    std::sort(numbers.begin(), numbers.end(), [&](int a, int b) {
        if (!called) {
            called = true;
            callback();
        }
        return a < b;
    });
}

extern "C" void through_exceptions(Callback callback) {
    try {
        fails(callback);
    } catch (const std::exception &) {
        callback();
    }
}

extern "C" void through_odd_frames(Callback callback) {
    realigned(callback);
    grown(1000, callback);
    grown(5000, callback);
}

#ifdef ANOTHER
// Last: what is in front of it stays where it is.
extern "C" int another(Callback callback) {
    callback();
    return 1;
}
#endif
