/* What a decode step costs before it computes anything. */
#ifndef RETENTIVE_HARNESS_FLOOR_H_
#define RETENTIVE_HARNESS_FLOOR_H_

#include "retentive/params.h"

namespace retentive::harness {

/* The two launches of a step with one new token, in the same blocks and with the same dependent launch, which read its
 * rows, what is known of them and the splits' parts, and write the statistics, the splits' parts and an output: no
 * products, no logits, no victims, so what is written means nothing. Rows of 16-bit numbers, readout without residual.
 * Whatever the step takes above this is its own work; below it these two launches cannot come unless rows can be read
 * faster than here. */
int32_t launch_floor(const RetentiveStepParams &params, void *stream);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_FLOOR_H_ */
