/* The CUDA kernels' entry points. C ABI, exported by libretentive_plugins.so.
 *
 * Each call checks its parameters on the host (validate.h), then launches on `stream` (a cudaStream_t) and returns: no
 * synchronisation, no allocation, safe to capture into a CUDA graph, bitwise reproducible. Pointers are device pointers.
 */
#ifndef RETENTIVE_LAUNCH_H_
#define RETENTIVE_LAUNCH_H_

#include "retentive/params.h"

#if defined(__GNUC__)
#define RETENTIVE_EXPORT __attribute__((visibility("default")))
#else
#define RETENTIVE_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of workspace that the calls with `steps` tokens or fewer need; 0 for a geometry that cannot be. These need no
 * GPU and give the same answer on every machine. Contents need not be initialised. */
RETENTIVE_EXPORT size_t retentive_attention_workspace(const RetentiveGeometry *geometry, int32_t steps);
RETENTIVE_EXPORT size_t retentive_gate_workspace(const RetentiveGeometry *geometry, int32_t steps);
RETENTIVE_EXPORT size_t retentive_transition_workspace(const RetentiveGeometry *geometry, int32_t steps);
RETENTIVE_EXPORT size_t retentive_step_workspace(const RetentiveGeometry *geometry, int32_t steps);

/* RetentiveStatus of a launch; on failure retentive_message() says why. */
RETENTIVE_EXPORT int32_t retentive_attention(const RetentiveAttentionParams *params, void *stream);
RETENTIVE_EXPORT int32_t retentive_gate(const RetentiveGateParams *params, void *stream);
RETENTIVE_EXPORT int32_t retentive_transition(const RetentiveTransitionParams *params, void *stream);
/* Two launches with T = 1, three with the residual readout. */
RETENTIVE_EXPORT int32_t retentive_step(const RetentiveStepParams *params, void *stream);

/* The same step in two parts, T = 1: the output alone, which is what the model waits for; then statistics, gate and
 * transition, which it does not, so that they may run on another stream beside what follows. Both take the same
 * parameters. The second part reads the workspace and the state and no input. From the first part until the second one
 * is done the workspace belongs to them, and the layer's next step must wait. The same bits as retentive_step. */
RETENTIVE_EXPORT int32_t retentive_step_attend(const RetentiveStepParams *params, void *stream);
RETENTIVE_EXPORT int32_t retentive_step_settle(const RetentiveStepParams *params, void *stream);

/* What the calling thread's last failing call said; never NULL. */
RETENTIVE_EXPORT const char *retentive_message(void);

#ifdef __cplusplus
}
#endif

#endif /* RETENTIVE_LAUNCH_H_ */
