// The C++ allocation operators, and the language's own use of them.
#include "check.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <new>
#include <regex>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

// Keeps a new/delete pair from being optimised away.
template <typename T> T *kept(T *pointer) {
    asm volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

struct Plain {
    unsigned char bytes[40];
};

struct alignas(64) CacheLine {
    unsigned char bytes[100];
};

struct alignas(4096) WholePage {
    unsigned char bytes[5000];
};

template <typename T> void single_and_array() {
    std::vector<T *> singles;
    std::vector<T *> arrays;
    for (unsigned i = 0; i < 200; i++) {
        singles.push_back(kept(i % 2 ? new T : new (std::nothrow) T));
        arrays.push_back(kept(i % 2 ? new T[i + 1] : new (std::nothrow) T[i + 1]));
        CHECK(singles.back() && aligned(singles.back(), alignof(T)));
        CHECK(arrays.back() && aligned(arrays.back(), alignof(T)));
        fill(singles.back(), sizeof(T), i);
        fill(arrays.back(), sizeof(T) * (i + 1), i);
    }
    for (unsigned i = 0; i < 200; i++) {
        CHECK(holds(singles[i], sizeof(T), i), "%u", i);
        CHECK(holds(arrays[i], sizeof(T) * (i + 1), i), "%u", i);
        delete singles[i];
        delete[] arrays[i];
    }
}

void new_and_delete_of_types() {
    single_and_array<Plain>();
    single_and_array<CacheLine>();
    single_and_array<WholePage>();
    single_and_array<std::string *>();
}

void every_operator_form() {
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        const size_t size = kind_sizes[i];
        void *block = kept(::operator new(size));
        fill(block, size, 1);
        CHECK(aligned(block, 16) && malloc_usable_size(block) >= size, "%zu", size);
        ::operator delete(block);
        block = kept(::operator new(size));
        ::operator delete(block, size);
        block = kept(::operator new(size, std::nothrow));
        CHECK(block);
        ::operator delete(block, std::nothrow);
        block = kept(::operator new[](size));
        fill(block, size, 1);
        ::operator delete[](block);
        block = kept(::operator new[](size));
        ::operator delete[](block, size);
        block = kept(::operator new[](size, std::nothrow));
        CHECK(block);
        ::operator delete[](block, std::nothrow);
        for (size_t alignment = 1; alignment <= 8 * MIB; alignment *= 8) {
            const std::align_val_t align{alignment};
            block = kept(::operator new(size, align));
            fill(block, size, 2);
            CHECK(aligned(block, alignment), "%zu at %zu", size, alignment);
            ::operator delete(block, align);
            block = kept(::operator new(size, align));
            ::operator delete(block, size, align);
            block = kept(::operator new(size, align, std::nothrow));
            CHECK(block && aligned(block, alignment), "%zu at %zu", size, alignment);
            ::operator delete(block, align, std::nothrow);
            block = kept(::operator new[](size, align));
            CHECK(aligned(block, alignment), "%zu at %zu", size, alignment);
            ::operator delete[](block, align);
            block = kept(::operator new[](size, align));
            ::operator delete[](block, size, align);
            block = kept(::operator new[](size, align, std::nothrow));
            CHECK(block && aligned(block, alignment), "%zu at %zu", size, alignment);
            ::operator delete[](block, align, std::nothrow);
        }
    }
    void *first = kept(::operator new(0));
    void *second = kept(::operator new(0));
    CHECK(first && second && first != second);
    ::operator delete(first, size_t{0});
    ::operator delete(second);
    ::operator delete(nullptr);
    ::operator delete[](nullptr, size_t{0});
}

template <typename Call> bool throws_bad_alloc(Call call) {
    try {
        kept(call());
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

void impossible_sizes_throw() {
    volatile size_t all = SIZE_MAX;
    volatile size_t half = PTRDIFF_MAX;
    for (size_t size : {size_t{all}, size_t{all} - 4096, size_t{half} + 1, size_t{half}}) {
        CHECK(throws_bad_alloc([=] { return ::operator new(size); }));
        CHECK(throws_bad_alloc([=] { return ::operator new[](size); }));
        CHECK(!kept(::operator new(size, std::nothrow)));
        CHECK(!kept(::operator new[](size, std::nothrow)));
    }
    // Alone, libstdc++ 12 rounds the largest up to the alignment, wraps around, and succeeds.
    const size_t largest = getenv("LD_PRELOAD") ? all : half;
    for (size_t size : {largest, size_t{half} + 1, size_t{half}, size_t{half} - 4096}) {
        CHECK(throws_bad_alloc([=] { return ::operator new(size, std::align_val_t{64}); }));
        CHECK(throws_bad_alloc([=] { return ::operator new[](size, std::align_val_t{8192}); }));
        CHECK(!kept(::operator new(size, std::align_val_t{64}, std::nothrow)));
        CHECK(!kept(::operator new[](size, std::align_val_t{8192}, std::nothrow)));
    }
    // bad_array_new_length is a bad_alloc.
    CHECK(throws_bad_alloc([=] { return new int[size_t{half}]; }));
    CHECK(throws_bad_alloc([=] {
        return new std::vector<int>(size_t{half} / sizeof(int));
    }));
}

int handler_calls = 0;

// Asked again and again until it changes something: here, itself.
void give_up_after_three() {
    if (++handler_calls % 3 == 0)
        std::set_new_handler(nullptr);
}

struct Surrender : std::bad_alloc {};

void the_new_handler_is_asked() {
    volatile size_t impossible = PTRDIFF_MAX;
    int expected = 0;
    auto asked = [&](auto call) {
        std::set_new_handler(give_up_after_three);
        const bool thrown = throws_bad_alloc(call);
        expected += 3;
        CHECK(handler_calls == expected, "%d calls, not %d", handler_calls, expected);
        return thrown;
    };
    CHECK(asked([=] { return ::operator new(impossible); }));
    CHECK(asked([=] { return ::operator new[](impossible); }));
    CHECK(asked([=] { return ::operator new(impossible, std::align_val_t{256}); }));
    CHECK(!asked([=] { return ::operator new(impossible, std::nothrow); }));
    CHECK(!asked([=] { return ::operator new[](impossible, std::nothrow); }));

    std::set_new_handler([] { throw Surrender(); });
    bool surrendered = false;
    try {
        kept(::operator new(impossible));
    } catch (const Surrender &) {
        surrendered = true;
    }
    CHECK(surrendered);
    // The forms without exceptions turn the handler's into a null pointer.
    CHECK(!kept(::operator new(impossible, std::nothrow)));
    std::set_new_handler(nullptr);
}

// What is no alignment is refused, and what malloc's blocks have anyway is had.
void odd_alignments() {
    for (size_t align : {1, 2, 4, 8, 16}) {
        void *block = kept(::operator new(40, std::align_val_t{align}));
        CHECK(aligned(block, 16));
        ::operator delete(block, size_t{40}, std::align_val_t{align});
    }
    for (size_t align : {0, 3, 24, 48, 4097}) {
        CHECK(throws_bad_alloc([=] { return ::operator new(40, std::align_val_t{align}); }));
        CHECK(throws_bad_alloc([=] { return ::operator new[](40, std::align_val_t{align}); }));
        CHECK(!kept(::operator new(40, std::align_val_t{align}, std::nothrow)));
    }
}

// No more addresses than there are now and these. Returns what holds.
rlimit limit_addresses(size_t more) {
    rlimit before;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    FILE *file = fopen("/proc/self/statm", "r");
    size_t pages;
    CHECK(file && fscanf(file, "%zu", &pages) == 1);
    fclose(file);
    const rlimit now = {pages * PAGE + more, before.rlim_max};
    CHECK(setrlimit(RLIMIT_AS, &now) == 0);
    return before;
}

void *reserve;

void give_the_reserve_up() {
    handler_calls++;
    free(reserve);
    reserve = nullptr;
    std::set_new_handler(nullptr);
}

// Takes blocks until there are no more; returns how many it was when the handler was asked.
size_t exhaust(std::vector<void *> &blocks, size_t size) {
    size_t asked_at = 0;
    CHECK(throws_bad_alloc([&] {
        while (blocks.size() < blocks.capacity()) {
            blocks.push_back(::operator new(size));
            if (handler_calls && !asked_at)
                asked_at = blocks.size();
        }
        return static_cast<void *>(nullptr);
    }));
    return asked_at;
}

void what_the_handler_frees_is_enough() {
    for (size_t size : {size_t{64}, size_t{5000}, 100 * KIB, 2 * MIB}) {
        std::vector<void *> blocks;
        blocks.reserve(200 * MIB / size);
        reserve = malloc(64 * MIB);
        CHECK(reserve);
        handler_calls = 0;
        std::set_new_handler(give_the_reserve_up);
        const rlimit before = limit_addresses(16 * MIB);
        const size_t asked_at = exhaust(blocks, size);
        CHECK(handler_calls == 1, "%d", handler_calls);
        CHECK(asked_at && blocks.size() > asked_at, "%zu of %zu", asked_at, blocks.size());
        CHECK(!kept(::operator new(10 * MIB, std::nothrow)));
        CHECK(!kept(::operator new[](10 * MIB, std::nothrow)));
        CHECK(throws_bad_alloc([] { return ::operator new[](10 * MIB, std::align_val_t{64}); }));
        CHECK(setrlimit(RLIMIT_AS, &before) == 0);
        // One that failed has harmed nothing.
        for (void *block : blocks)
            ::operator delete(block, size);
        ::operator delete(kept(::operator new(10 * MIB)));
    }
}

struct Counted {
    ~Counted() { gone++; }
    static std::atomic<int> gone;
};
std::atomic<int> Counted::gone{0};

void end_this_thread() {
    pthread_cancel(pthread_self());
    pthread_testcancel();
    CHECK(false, "it was cancelled");
}

// What ends a thread in the handler unwinds through `new`.
void a_thread_is_cancelled_in_the_handler() {
    std::set_new_handler(end_this_thread);
    using Body = void *(*)(void *);
    const Body bodies[] = {
        [](void *) -> void * { Counted one; return kept(::operator new(PTRDIFF_MAX)); },
        [](void *) -> void * { Counted one; return kept(::operator new[](PTRDIFF_MAX)); },
        [](void *) -> void * {
            Counted one;
            return kept(::operator new(PTRDIFF_MAX, std::align_val_t{64}));
        },
    };
    for (Body body : bodies) {
        pthread_t thread = start(body, nullptr);
        void *result;
        CHECK(pthread_join(thread, &result) == 0);
        CHECK(result == PTHREAD_CANCELED);
    }
    CHECK(Counted::gone == 3, "%d", Counted::gone.load());
    std::set_new_handler(nullptr);
}

// Undefined, and done: the size is the base's, or that of another build.
void deletes_with_wrong_sizes() {
    uint32_t state = 7;
    std::vector<std::pair<unsigned char *, size_t>> blocks(2000);
    for (size_t round = 0; round < 50000; round++) {
        auto &[block, size] = blocks[draw(&state) % blocks.size()];
        if (block) {
            CHECK(holds(block, size, unsigned(size)));
            const size_t wrong = round % 3 ? draw_size(&state) : size / 2;
            if (round % 2)
                ::operator delete(block, wrong);
            else
                ::operator delete[](block, wrong);
        }
        size = draw_size(&state) % 50000 + 1;
        block = static_cast<unsigned char *>(::operator new(size));
        fill(block, size, unsigned(size));
    }
    for (auto &[block, size] : blocks)
        ::operator delete(block, size_t{1});
    struct Base { long number = 1; };
    struct Derived : Base { char text[500]; };
    for (int i = 0; i < 1000; i++) {
        Base *base = kept(static_cast<Base *>(new Derived));
        delete base;
    }
}

void blocks_of_malloc_and_of_new_are_the_same() {
    for (size_t size : kind_sizes) {
        ::operator delete(malloc(size), size);
        ::operator delete[](aligned_alloc(64, size), std::align_val_t{64});
        void *block = ::operator new(size);
        CHECK(malloc_usable_size(block) >= size);
        block = realloc(block, size + 100);
        free(block);
        free(::operator new[](size, std::align_val_t{4096}));
    }
}

void delete_preserves_errno() {
    std::vector<void *> blocks;
    for (size_t size : kind_sizes)
        blocks.push_back(::operator new(size));
    for (size_t i = 0; i < COUNT(kind_sizes); i++) {
        errno = 1234;
        ::operator delete(blocks[i], kind_sizes[i]);
        CHECK(errno == 1234, "%zu", kind_sizes[i]);
    }
    ::operator delete(nullptr);
    ::operator delete[](nullptr, size_t{8});
    ::operator delete(nullptr, size_t{8}, std::align_val_t{64});
    CHECK(errno == 1234);
}

struct OfItsOwn {
    long number = 3;
    static void *operator new(size_t size) { return counted++, malloc(size); }
    static void operator delete(void *block) { counted--, free(block); }
    static int counted;
};
int OfItsOwn::counted = 0;

void a_class_has_operators_of_its_own() {
    OfItsOwn *one = kept(new OfItsOwn);
    CHECK(OfItsOwn::counted == 1 && one->number == 3);
    delete one;
    CHECK(OfItsOwn::counted == 0);
    std::unique_ptr<OfItsOwn[]> many(new OfItsOwn[3]);
    CHECK(OfItsOwn::counted == 0);
}

// Each thread throws through `new` while others allocate.
void failures_in_threads() {
    std::vector<std::thread> threads;
    std::atomic<int> caught{0};
    for (int t = 0; t < 8; t++) {
        threads.emplace_back([&caught] {
            for (int i = 0; i < 1000; i++) {
                std::vector<std::string> some(20, std::string(size_t(i % 300), 's'));
                try {
                    kept(::operator new[](PTRDIFF_MAX));
                } catch (const std::bad_alloc &) {
                    caught++;
                }
                if (!kept(::operator new[](PTRDIFF_MAX, std::nothrow)))
                    caught++;
            }
        });
    }
    for (auto &thread : threads)
        thread.join();
    CHECK(caught == 16000, "%d", caught.load());
}

// Constructed before main and destroyed after it.
std::map<std::string, std::vector<int>> &registry() {
    static std::map<std::string, std::vector<int>> entries;
    return entries;
}

struct AtLoad {
    AtLoad() {
        for (int i = 0; i < 1000; i++)
            registry()["entry number " + std::to_string(i)].assign(size_t(i % 50), i);
    }
} at_load;

struct AtUnload {
    std::vector<std::string> *words = new std::vector<std::string>(1000, std::string(100, 'w'));
    ~AtUnload() {
        CHECK(words->back() == std::string(100, 'w'));
        delete words;
    }
} at_unload;

void static_objects() {
    CHECK(registry().size() == 1000);
    CHECK(registry()["entry number 49"].size() == 49);
}

struct PerThread {
    std::vector<std::string> words;
    std::unique_ptr<int[]> numbers{new int[1000]};
    ~PerThread() {
        // Destroyed by __cxa_thread_atexit; makes and drops more.
        std::vector<std::string> more(100, std::string(500, 'm'));
        CHECK(more.back().size() == 500);
        alive--;
    }
    PerThread() { alive++; }
    static std::atomic<int> alive;
};
std::atomic<int> PerThread::alive{0};
thread_local PerThread per_thread;

void thread_local_objects() {
    for (int round = 0; round < 20; round++) {
        std::vector<std::thread> threads;
        for (int t = 0; t < 16; t++) {
            threads.emplace_back([] {
                for (int i = 0; i < 200; i++)
                    per_thread.words.push_back(std::string(size_t(i), 'x'));
                per_thread.numbers[999] = 1;
            });
        }
        for (auto &thread : threads)
            thread.join();
    }
    CHECK(PerThread::alive == 0, "%d", PerThread::alive.load());
}

void exceptions_in_threads() {
    std::vector<std::thread> threads;
    std::atomic<int> caught{0};
    for (int t = 0; t < 8; t++) {
        threads.emplace_back([&caught] {
            for (int i = 0; i < 2000; i++) {
                try {
                    throw std::runtime_error(std::string(size_t(i % 300), 'e'));
                } catch (const std::exception &error) {
                    CHECK(strlen(error.what()) == size_t(i % 300));
                    caught++;
                }
            }
        });
    }
    for (auto &thread : threads)
        thread.join();
    CHECK(caught == 16000);
}

void containers_hand_blocks_between_threads() {
    std::unordered_map<std::string, std::shared_ptr<std::vector<long>>> table;
    std::vector<std::thread> threads;
    std::vector<std::vector<std::shared_ptr<std::vector<long>>>> made(8);
    for (size_t t = 0; t < 8; t++) {
        threads.emplace_back([t, &made] {
            for (long i = 0; i < 3000; i++)
                made[t].push_back(std::make_shared<std::vector<long>>(size_t(i % 97), i));
        });
    }
    for (auto &thread : threads)
        thread.join();
    long sum = 0;
    for (size_t t = 0; t < 8; t++)
        for (size_t i = 0; i < made[t].size(); i++)
            table[std::to_string(t) + "/" + std::to_string(i)] = std::move(made[t][i]);
    made.clear();
    for (const auto &[name, numbers] : table)
        for (long number : *numbers)
            sum += number;
    long expected = 0;
    for (long i = 0; i < 3000; i++)
        expected += 8 * i * (i % 97);
    CHECK(sum == expected, "%ld, not %ld", sum, expected);

    std::string text;
    for (int i = 0; i < 500; i++)
        text += "key" + std::to_string(i) + "=value" + std::to_string(i * i) + ";";
    const std::regex pair("(key[0-9]+)=(value[0-9]+);");
    auto found = std::distance(std::sregex_iterator(text.begin(), text.end(), pair),
                               std::sregex_iterator());
    CHECK(found == 500);
}

const check checks[] = {
    {"new_and_delete_of_types", new_and_delete_of_types},
    {"every_operator_form", every_operator_form},
    {"impossible_sizes_throw", impossible_sizes_throw},
    {"the_new_handler_is_asked", the_new_handler_is_asked},
    {"odd_alignments", odd_alignments},
    {"what_the_handler_frees_is_enough", what_the_handler_frees_is_enough},
    {"a_thread_is_cancelled_in_the_handler", a_thread_is_cancelled_in_the_handler},
    {"deletes_with_wrong_sizes", deletes_with_wrong_sizes},
    {"blocks_of_malloc_and_of_new_are_the_same", blocks_of_malloc_and_of_new_are_the_same},
    {"delete_preserves_errno", delete_preserves_errno},
    {"a_class_has_operators_of_its_own", a_class_has_operators_of_its_own},
    {"failures_in_threads", failures_in_threads},
    {"static_objects", static_objects},
    {"thread_local_objects", thread_local_objects},
    {"exceptions_in_threads", exceptions_in_threads},
    {"containers_hand_blocks_between_threads", containers_hand_blocks_between_threads},
};

} // namespace

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
