// For programs and libraries with plain operators of their own, which take what they give from a pool: no allocator
// knows its blocks, and each has a mark before it. All other forms are the C++ library's, and call these.
#include "check.h"

#include <new>

static char pool[MIB] __attribute__((aligned(16)));
static size_t used;
static int news, deletes;
static const size_t MARK = 0x6d61726b6d61726b;

static bool is_of_pool(void *block) { return (char *)block >= pool && (char *)block < pool + MIB; }

static void *take(size_t size) {
    size_t *place = (size_t *)(pool + used);
    used += (size + 31) / 16 * 16;
    CHECK(used <= MIB);
    place[0] = MARK;
    news++;
    return place + 2;
}

static void give(void *block) {
    if (!block)
        return;
    CHECK(is_of_pool(block));
    CHECK(((size_t *)block)[-2] == MARK);
    ((size_t *)block)[-2] = 0;
    deletes++;
}

// Keeps a new/delete pair from being optimised away.
template <typename T> static T *kept(T *pointer) {
    asm volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

struct WithDestructor {
    char bytes[40];
    ~WithDestructor() { asm volatile("" : : : "memory"); }
};

// Each form of `new` calls the own one once, and each of `delete`; the aligned ones are others, and stay so.
static void use_all_forms() {
    int expected = news;
    auto is_own = [&](void *block) {
        CHECK(is_of_pool(block));
        CHECK(news == ++expected, "%d, not %d", news, expected);
        return block;
    };
    auto gone = [&] { CHECK(deletes == expected, "%d, not %d", deletes, expected); };
    expected = deletes = news = 0;
    ::operator delete(is_own(::operator new(100)));
    gone();
    ::operator delete(is_own(::operator new(100)), size_t{100});
    gone();
    ::operator delete(is_own(::operator new(100, std::nothrow)), std::nothrow);
    gone();
    ::operator delete[](is_own(::operator new[](100)));
    gone();
    ::operator delete[](is_own(::operator new[](100)), size_t{100});
    gone();
    ::operator delete[](is_own(::operator new[](100, std::nothrow)), std::nothrow);
    gone();
    // Beyond what a thread has at hand.
    ::operator delete(is_own(::operator new[](100000)), size_t{100000});
    gone();
    int *number = kept(new int(5));
    is_own(number);
    delete number;
    gone();
    WithDestructor *array = kept(new (std::nothrow) WithDestructor[5]);
    is_own(array);
    delete[] array;
    gone();
    void *aligned_block = ::operator new(100, std::align_val_t{256});
    CHECK(!is_of_pool(aligned_block) && aligned(aligned_block, 256));
    ::operator delete(aligned_block, size_t{100}, std::align_val_t{256});
    gone();
}
