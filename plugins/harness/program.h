#ifndef RETENTIVE_HARNESS_PROGRAM_H_
#define RETENTIVE_HARNESS_PROGRAM_H_

namespace retentive::harness {

/* The whole program; its exit code. */
int run_program(int count, const char *const *arguments);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_PROGRAM_H_ */
