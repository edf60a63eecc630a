/* What debuggers and tracers look at: a list in the heap, threads that churn beside it, and a function to stop in. It
 * prints the same in every run. With an argument it says when it is ready and waits to be looked at. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct node {
    struct node *next;
    int number;
    char *text;
};

struct node *list;

static struct node *grown(struct node *list, int to) {
    for (int i = 1; i <= to; i++) {
        struct node *node = malloc(sizeof *node);
        node->next = list;
        node->number = i;
        node->text = malloc(2000);
        snprintf(node->text, 2000, "node %d", i);
        list = node;
    }
    return list;
}

long sum(const struct node *list) {
    long sum = 0;
    for (; list; list = list->next)
        sum += list->number + (long)strlen(list->text);
    return sum;
}

/* A debugger may call it while the program stands still. */
long grow(int by) {
    list = grown(list, by);
    return sum(list);
}

__attribute__((noinline)) void stop_here(int round) { __asm__ volatile("" : : "r"(round) : "memory"); }

static void *churn(void *seed) {
    unsigned char *blocks[100] = {NULL};
    long sum = 0;
    for (int i = 0; i < 5000; i++) {
        int slot = (i * 7919 + (int)(long)seed) % 100;
        if (blocks[slot])
            sum += blocks[slot][0];
        free(blocks[slot]);
        size_t size = 1 + i * 31 % 3000;
        blocks[slot] = malloc(size);
        memset(blocks[slot], i, size);
    }
    for (int i = 0; i < 100; i++)
        free(blocks[i]);
    return (void *)sum;
}

int main(int argc, char **argv) {
    (void)argv;
    pthread_t threads[3];
    long churned = 0;
    for (int round = 1; round <= 3; round++) {
        for (long i = 0; i < 3; i++)
            if (pthread_create(&threads[i], NULL, churn, (void *)i))
                return 1;
        grow(300);
        stop_here(round);
        for (int i = 0; i < 3; i++) {
            void *result;
            pthread_join(threads[i], &result);
            churned += (long)result;
        }
    }
    printf("%ld %ld\n", sum(list), churned);
    fflush(stdout);
    if (argc > 1)
        pause();
    while (list) {
        struct node *next = list->next;
        free(list->text);
        free(list);
        list = next;
    }
    return 0;
}
