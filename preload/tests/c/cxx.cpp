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
    // Not beyond half: libstdc++ 12 rounds the size up to the alignment and wraps around.
    for (size_t size : {size_t{half} + 1, size_t{half}, size_t{half} - 4096}) {
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
    {"static_objects", static_objects},
    {"thread_local_objects", thread_local_objects},
    {"exceptions_in_threads", exceptions_in_threads},
    {"containers_hand_blocks_between_threads", containers_hand_blocks_between_threads},
};

} // namespace

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
