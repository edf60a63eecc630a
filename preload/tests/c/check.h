/* What every check program shares. A program is a table of named checks; one run of it runs one of
 * them, so that a crash, a hang or an abort is that check's own. Built with -fno-builtin, so that
 * every call below reaches the allocator. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)4096)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
/* Used by some programs and not by others. */
#define SHARED __attribute__((unused)) static

struct check {
    const char *name;
    void (*run)(void);
};

/* Straight to the descriptor and out: the heap may be what is broken. */
__attribute__((noreturn, format(printf, 4, 5))) SHARED void check_failed(
    const char *file, int line, const char *condition, const char *format, ...) {
    char text[512] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dprintf(STDERR_FILENO, "%s:%d: not so: %s %s\n", file, line, condition, text);
    _exit(1);
}

#define CHECK(condition, ...)                                               \
    do {                                                                    \
        if (!(condition))                                                   \
            check_failed(__FILE__, __LINE__, #condition, "" __VA_ARGS__);   \
    } while (0)

SHARED pthread_t start(void *(*body)(void *), void *argument) {
    pthread_t thread;
    int error = pthread_create(&thread, NULL, body, argument);
    CHECK(error == 0, "%d", error);
    return thread;
}

SHARED void join(pthread_t thread) { CHECK(pthread_join(thread, NULL) == 0); }

/* One size at and beside every border between kinds of block. */
static const size_t kind_sizes[] = {
    1,     7,     8,     15,     16,      17,          31,      64,          100,
    128,   129,   513,   1000,   1024,    2047,        2048,    2049,        3000,
    4095,  4096,  4097,  8192,   20000,   32767,       32768,   32769,       65536,
    100000, 500000, MIB, 2 * MIB - PAGE, 2 * MIB, 2 * MIB + 1, 5 * MIB, 16 * MIB,
};

SHARED unsigned char pattern_byte(size_t index, unsigned seed) {
    return (unsigned char)((index * 31 + (index >> 12) * 7 + seed * 101 + 1) & 0xff);
}

/* Every byte of a block up to 64 KiB; beyond that both ends and one word a page, which is enough to
 * see a lost or a doubled page and keeps the checks quick. */
SHARED size_t pattern_next(size_t index, size_t size) {
    if (size <= 64 * KIB || index < 64 || index + 64 >= size)
        return index + 1;
    size_t next = (index / PAGE + 1) * PAGE;
    return next + 64 > size ? size - 64 : next;
}

SHARED void fill(void *block, size_t size, unsigned seed) {
    unsigned char *bytes = (unsigned char *)block;
    for (size_t i = 0; i < size; i = pattern_next(i, size))
        bytes[i] = pattern_byte(i, seed);
}

/* Whether the first `size` bytes are those that fill() wrote into a block of `filled` bytes. */
SHARED int holds_part(const void *block, size_t size, size_t filled, unsigned seed) {
    const unsigned char *bytes = (const unsigned char *)block;
    for (size_t i = 0; i < size; i = pattern_next(i, filled))
        if (bytes[i] != pattern_byte(i, seed))
            return 0;
    return 1;
}

SHARED int holds(const void *block, size_t size, unsigned seed) {
    return holds_part(block, size, size, seed);
}

SHARED int all_zero(const void *block, size_t size) {
    const unsigned char *bytes = (const unsigned char *)block;
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

SHARED int aligned(const void *block, size_t alignment) {
    return (uintptr_t)block % alignment == 0;
}

/* xorshift: the same walk in every run. */
SHARED uint32_t draw(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Mostly small, now and then of every kind up to a few hundred KiB. */
SHARED size_t draw_size(uint32_t *state) {
    uint32_t kind = draw(state) % 100;
    uint32_t value = draw(state);
    if (kind < 80)
        return 1 + value % 1024;
    if (kind < 92)
        return 1 + value % 4096;
    if (kind < 98)
        return 1 + value % 32768;
    return 1 + value % 300000;
}

/* Resident bytes of this process, read without allocating. */
SHARED size_t resident_bytes(void) {
    char text[128] = "";
    size_t pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    CHECK(sscanf(text, "%*u %zu", &pages) == 1);
    return pages * PAGE;
}

SHARED int check_main(const struct check *checks, size_t count, int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++)
            puts(checks[i].name);
        return 0;
    }
    for (size_t i = 0; argc == 2 && i < count; i++) {
        if (strcmp(argv[1], checks[i].name) == 0) {
            checks[i].run();
            return 0;
        }
    }
    dprintf(STDERR_FILENO, "%s: no such check\n", argc == 2 ? argv[1] : "(none)");
    return 2;
}

#endif
