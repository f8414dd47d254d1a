/* Calls that cannot be: each must be refused with its status and a message, and write nothing. */
#ifndef RETENTIVE_HARNESS_REFUSALS_H_
#define RETENTIVE_HARNESS_REFUSALS_H_

#include "findings.h"

namespace retentive::harness {

Findings check_refusals();

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_REFUSALS_H_ */
