// Blocks of C's malloc go from goroutine to goroutine while the runtime starts threads as it likes.
package main

/*
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern void visited(uintptr_t, int);

static unsigned char *filled(size_t size, int byte) {
    unsigned char *block = malloc(size);
    if (block)
        memset(block, byte, size);
    return block;
}

static long sum(const unsigned char *block, size_t size) {
    long sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += block[i];
    return sum;
}

static void visit(uintptr_t list, int times) {
    for (int i = 0; i < times; i++) {
        char *block = strdup("a block held while Go is called");
        visited(list, i);
        free(block);
    }
}

static void pause_in_c(void) { usleep(1000); }
*/
import "C"

import (
	"fmt"
	"os/exec"
	"runtime"
	"runtime/cgo"
	"sync"
	"unsafe"
)

type block struct {
	address *C.uchar
	size    C.size_t
}

//export visited
func visited(list C.uintptr_t, number C.int) {
	numbers := cgo.Handle(list).Value().(*[]int)
	*numbers = append(*numbers, int(number))
}

func produce(seed int, blocks chan<- block, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < 5000; i++ {
		size := C.size_t(1 + (i*7919+seed*31)%3000)
		blocks <- block{C.filled(size, C.int((i+seed)%251)), size}
		if i%1000 == 0 {
			runtime.GC()
		}
	}
}

func consume(blocks <-chan block, sums chan<- int64) {
	var total int64
	for block := range blocks {
		total += int64(C.sum(block.address, block.size))
		C.free(unsafe.Pointer(block.address))
	}
	sums <- total
}

func main() {
	blocks, sums := make(chan block, 100), make(chan int64)
	var producers sync.WaitGroup
	for i := 0; i < 4; i++ {
		producers.Add(1)
		go produce(i, blocks, &producers)
		go consume(blocks, sums)
	}
	// Goroutines that stand in C at once have a thread each.
	var pauses sync.WaitGroup
	for i := 0; i < 60; i++ {
		pauses.Add(1)
		go func() {
			defer pauses.Done()
			runtime.LockOSThread()
			text := C.CString("a string of C")
			C.pause_in_c()
			C.free(unsafe.Pointer(text))
			// The thread ends with the goroutine that it was locked to.
		}()
	}
	producers.Wait()
	close(blocks)
	var total int64
	for i := 0; i < 4; i++ {
		total += <-sums
	}
	pauses.Wait()
	numbers := []int{}
	handle := cgo.NewHandle(&numbers)
	C.visit(C.uintptr_t(handle), 2000)
	handle.Delete()
	said, failed := exec.Command("sh", "-c", "seq 1000 | sort -n | tail -n 1").Output()
	fmt.Println(total, len(numbers), numbers[len(numbers)-1], string(said), failed)
	var absent *int
	defer func() { fmt.Println("recovered:", recover()) }()
	fmt.Println(*absent)
}
