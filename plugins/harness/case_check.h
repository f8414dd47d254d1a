/* Everything that is checked of one case. */
#ifndef RETENTIVE_HARNESS_CASE_CHECK_H_
#define RETENTIVE_HARNESS_CASE_CHECK_H_

#include "cases.h"
#include "findings.h"

namespace retentive::harness {

class PluginLibrary;

/* Runs a case step by step. At each step every operator alone and the whole step in place must match the reference;
 * repeat themselves bit by bit, from a CUDA graph too; write all of their outputs, nothing beside them, and leave their
 * inputs as they are. `plugins`: the same operators as plugins must give the same bits; may be nullptr. */
Findings check_case(const Case &c, PluginLibrary *plugins);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_CASE_CHECK_H_ */
