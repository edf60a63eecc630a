// Pairs of an allocation and its free, so many of one kind: `pairs malloc|new|array|sized COUNT`.
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

template <typename Allocate, typename Free> void pairs(long count, Allocate allocate, Free free) {
    for (long i = 0; i < count; i++) {
        size_t size = 100;
        asm volatile("" : "+r"(size));
        void *block = allocate(size);
        asm volatile("" : "+r"(block) : : "memory");
        free(block, size);
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    const long count = atol(argv[2]);
    const auto plain = [](size_t size) { return ::operator new(size); };
    if (!strcmp(argv[1], "malloc"))
        pairs(count, [](size_t size) { return malloc(size); }, [](void *block, size_t) { free(block); });
    else if (!strcmp(argv[1], "new"))
        pairs(count, plain, [](void *block, size_t) { ::operator delete(block); });
    else if (!strcmp(argv[1], "array"))
        pairs(count, [](size_t size) { return ::operator new[](size); },
              [](void *block, size_t) { ::operator delete[](block); });
    else if (!strcmp(argv[1], "sized"))
        pairs(count, plain, [](void *block, size_t size) { ::operator delete(block, size); });
    else
        return 2;
    return 0;
}
