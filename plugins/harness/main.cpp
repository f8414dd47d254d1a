#include "program.h"

int main(int count, char **arguments) { return retentive::harness::run_program(count, arguments); }
