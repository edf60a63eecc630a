// Misuses of a block, each in a process of its own. The test has every allocation sampled.
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Not inlined, and not left by a jump: each has a frame of its own.
__attribute__((noinline)) static char *make(size_t bytes) {
    char *block = malloc(bytes);
    __asm__ volatile("" ::: "memory");
    return block;
}

__attribute__((noinline)) static void drop(char *block) {
    free(block);
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void touch(volatile char *place) {
    *place = 1;
    __asm__ volatile("" ::: "memory");
}

static void *drop_elsewhere(void *block) {
    drop(block);
    return NULL;
}

static void say_and_end(int signal) {
    (void)signal;
    static const char line[] = "the program's own handler\n";
    ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
    _exit(written < 0 ? 1 : 42);
}

static void own_handler(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = say_and_end;
    sigaction(SIGSEGV, &action, NULL);
}

// As reporters do who let the fault come again.
static void say_and_give_back(int number) {
    static const char line[] = "the handler that gives the signal back\n";
    ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
    if (written < 0 || getenv("BY_SIGNAL") != NULL) {
        signal(number, SIG_DFL);
    } else {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, NULL);
    }
}

static void say_and_return(int signal) {
    (void)signal;
    static const char line[] = "the handler that is called once\n";
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) {
        _exit(1);
    }
}

// Before the library's constructors run, and the program's.
static void handler_for_once(int count, char **arguments, char **environment) {
    (void)count, (void)arguments;
    for (; *environment != NULL; environment++) {
        if (strcmp(*environment, "HANDLER_FOR_ONCE=1") == 0) {
            struct sigaction action;
            memset(&action, 0, sizeof action);
            action.sa_handler = say_and_return;
            action.sa_flags = SA_RESETHAND;
            sigaction(SIGSEGV, &action, NULL);
        }
    }
}

__attribute__((section(".preinit_array"), used)) static void (*const FIRST)(int, char **, char **) =
    handler_for_once;

int main(int count, char **arguments) {
    const char *misuse = count > 1 ? arguments[1] : "";
    if (strcmp(misuse, "own_handler") == 0) {
        own_handler();
        char *block = make(4096);
        touch(block + 4096);
    } else if (strcmp(misuse, "given_back") == 0) {
        signal(SIGSEGV, say_and_give_back);
        char *block = make(100);
        drop(block);
        touch(block + 10);
    } else if (strcmp(misuse, "overflow") == 0) {
        char *block = make(4096);
        memset(block, 0, 4096);
        touch(block + 4096);
    } else if (strcmp(misuse, "small_overflow") == 0) {
        char *block = make(13);
        touch(block + 13);
        drop(block);
        puts("went on");
    } else if (strcmp(misuse, "overflow_before_a_resize") == 0) {
        char *block = make(113);
        touch(block + 113);
        drop(realloc(block, 120));
        puts("went on");
    } else if (strcmp(misuse, "overflow_after_a_resize") == 0) {
        char *block = realloc(make(3600), 3700);
        memset(block, 0, 4096);
        touch(block + 4096);
    } else if (strcmp(misuse, "use_after_free") == 0) {
        char *block = make(100);
        drop(block);
        touch(block + 10);
    } else if (strcmp(misuse, "use_after_free_elsewhere") == 0) {
        char *block = make(100);
        pthread_t thread;
        pthread_create(&thread, NULL, drop_elsewhere, block);
        pthread_join(thread, NULL);
        touch(block + 10);
    } else if (strcmp(misuse, "double_free") == 0) {
        char *block = make(100);
        drop(block);
        drop(block);
    } else if (strcmp(misuse, "free_inside") == 0) {
        drop(make(100) + 16);
    } else if (strcmp(misuse, "not_ours") == 0) {
        touch((char *)16);
    } else if (strcmp(misuse, "none") == 0) {
        for (int i = 0; i < 3000; i++) {
            size_t bytes = (size_t)i * 11 % 40000;
            char *block = make(bytes);
            memset(block, i, bytes);
            block = realloc(block, bytes + 1);
            block[bytes] = 1;
            drop(block);
        }
        puts("went on");
    } else {
        fprintf(stderr, "no such misuse: '%s'\n", misuse);
        return 2;
    }
    return 0;
}
