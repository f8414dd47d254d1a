/* The same operators on the CPU with double accumulation: host pointers, no workspace. C ABI, exported by
 * libretentive_reference.so. float16 and bfloat16 tensors are raw 16-bit words. */
#ifndef RETENTIVE_REFERENCE_H_
#define RETENTIVE_REFERENCE_H_

#include "retentive/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

RETENTIVE_EXPORT int32_t retentive_reference_attention(const RetentiveAttentionParams *params);
RETENTIVE_EXPORT int32_t retentive_reference_gate(const RetentiveGateParams *params);
RETENTIVE_EXPORT int32_t retentive_reference_transition(const RetentiveTransitionParams *params);
RETENTIVE_EXPORT int32_t retentive_reference_step(const RetentiveStepParams *params);
RETENTIVE_EXPORT const char *retentive_reference_message(void);

#ifdef __cplusplus
}
#endif

#endif /* RETENTIVE_REFERENCE_H_ */
