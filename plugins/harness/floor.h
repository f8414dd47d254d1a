/* What a decode step costs before it computes anything. */
#ifndef RETENTIVE_HARNESS_FLOOR_H_
#define RETENTIVE_HARNESS_FLOOR_H_

#include "retentive/params.h"

namespace retentive::harness {

/* The two launches of a step with one new token, in the same blocks and with the same dependent launch, which read its
 * rows, what is known of them and the splits' parts, and write the statistics, the splits' parts and an output: no
 * products, no logits, no victims, so what is written means nothing. Rows of 16-bit numbers, readout without residual.
 * A bound for how fast these two launches can be, on whatever GPU. */
int32_t launch_floor(const RetentiveStepParams &params, void *stream);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_FLOOR_H_ */
