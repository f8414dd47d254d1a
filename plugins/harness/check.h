/* All checks, their results on the terminal and as JSON. */
#ifndef RETENTIVE_HARNESS_CHECK_H_
#define RETENTIVE_HARNESS_CHECK_H_

#include <string>
#include <vector>

#include "findings.h"
#include "json.h"

namespace retentive::harness {

class PluginLibrary;

struct CheckedCase {
    std::string name;
    Findings findings;
};

struct CheckResults {
    std::vector<CheckedCase> cases;
    size_t asked = 0; /* more than `cases` when the device failed on the way: nothing can be run after that */

    bool passed() const;
};

constexpr const char *refusals_name = "refusals: calls that cannot be";
std::vector<std::string> check_names(bool quick, const std::string &filter);

/* Prints a line for each case that fails, then a summary. */
CheckResults run_checks(bool quick, const std::string &filter, PluginLibrary *plugins);

/* As members of an object: passed, cases, and the worst of each metric over all cases. */
void write_checks(Json &json, const CheckResults &results);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_CHECK_H_ */
