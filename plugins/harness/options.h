/* The program's command line. */
#ifndef RETENTIVE_HARNESS_OPTIONS_H_
#define RETENTIVE_HARNESS_OPTIONS_H_

#include <stdexcept>
#include <string>

namespace retentive::harness {

extern const char *const usage;

struct Options {
    std::string command; /* check, sweep, info or help */
    bool quick = false;
    bool list = false;
    std::string filter;
    std::string json;    /* file; empty: none */
    std::string plugins; /* library; empty: none */
    std::string commit;
};

/* Thrown with what is wrong and what is accepted. */
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

Options parse_options(int count, const char *const *arguments);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_OPTIONS_H_ */
