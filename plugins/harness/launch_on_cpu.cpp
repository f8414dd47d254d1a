/* The launch functions over the C++ reference: host pointers, no stream. For tests of the plugins without a GPU. */
#include "retentive/launch.h"
#include "retentive/reference.h"

size_t retentive_attention_workspace(const RetentiveGeometry *, int32_t) { return 0; }
size_t retentive_gate_workspace(const RetentiveGeometry *, int32_t) { return 0; }
size_t retentive_transition_workspace(const RetentiveGeometry *, int32_t) { return 0; }
size_t retentive_step_workspace(const RetentiveGeometry *, int32_t) { return 0; }

int32_t retentive_attention(const RetentiveAttentionParams *params, void *) {
    return retentive_reference_attention(params);
}
int32_t retentive_gate(const RetentiveGateParams *params, void *) { return retentive_reference_gate(params); }
int32_t retentive_transition(const RetentiveTransitionParams *params, void *) {
    return retentive_reference_transition(params);
}
int32_t retentive_step(const RetentiveStepParams *params, void *) { return retentive_reference_step(params); }
/* The first part does it all: there is no stream here that could be waited for. */
int32_t retentive_step_attend(const RetentiveStepParams *params, void *) { return retentive_reference_step(params); }
int32_t retentive_step_settle(const RetentiveStepParams *, void *) { return RETENTIVE_OK; }
const char *retentive_message(void) { return retentive_reference_message(); }
