/* retentive_harness_broken FAULT ARGUMENTS: the harness over a test double with that fault. */
#include <cstdio>

#include "fault.h"
#include "program.h"

int main(int count, char **arguments) {
    using namespace retentive::harness;
    const Fault fault = count < 2 ? Fault::none : fault_named(arguments[1]);
    if (fault == Fault::none) {
        std::fprintf(stderr, "the first argument must be the name of a fault (double/fault.h)\n");
        return 2;
    }
    set_fault(fault);
    return run_program(count - 1, arguments + 1);
}
