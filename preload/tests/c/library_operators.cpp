// A program that is linked with a library that has plain operators of its own: they are the program's as well.
#include "check.h"

#include <memory>
#include <new>
#include <string>

extern "C" void own_operators_in_library(void);
extern "C" void *own_operators_block(void);
extern "C" int own_operators_count(void);

namespace {

void the_librarys_are_its_own() { own_operators_in_library(); }

void the_program_has_the_librarys() {
    const int before = own_operators_count();
    std::string(1000, 'x') += "y";
    delete[] new (std::nothrow) std::string[10];
    int *volatile number = new int(7);
    delete number;
    CHECK(own_operators_count() >= before + 3, "%d", own_operators_count());
}

void blocks_of_the_librarys_are_deleted_there() {
    ::operator delete(own_operators_block());
    ::operator delete(own_operators_block(), size_t{100});
    ::operator delete[](own_operators_block());
    ::operator delete[](own_operators_block(), size_t{100});
    ::operator delete(own_operators_block(), std::nothrow);
}

const check checks[] = {
    {"the_librarys_are_its_own", the_librarys_are_its_own},
    {"the_program_has_the_librarys", the_program_has_the_librarys},
    {"blocks_of_the_librarys_are_deleted_there", blocks_of_the_librarys_are_deleted_there},
};

} // namespace

int main(int argc, char **argv) { return check_main(checks, COUNT(checks), argc, argv); }
