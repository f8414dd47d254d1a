/* Which rows leave: the gate's choice, judged by scores computed here in double. */
#ifndef RETENTIVE_HARNESS_VICTIMS_H_
#define RETENTIVE_HARNESS_VICTIMS_H_

#include "cases.h"
#include "findings.h"
#include "tensors.h"

namespace retentive::harness {

/* `actual` victims [B, Hkv, L, T] must be the reference's, in its order. Another row in a place passes where the scores
 * of both, from the reference's statistics, are within `near_tie` of each other but not of rows with equal statistics,
 * where the lower index wins; such places are counted. `decision`: the reference's outputs of the gate. */
void compare_victims(Findings &findings, const Case &c, int32_t steps, const HostTensors &inputs,
                     const HostTensors &state, const HostTensors &decision, const int64_t *actual, double near_tie);

/* The decision with other victims: absorption follows them. */
HostTensors with_victims(const Case &c, int32_t steps, const HostTensors &state, const HostTensors &decision,
                         const int64_t *victims);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_VICTIMS_H_ */
