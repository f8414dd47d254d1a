#include "launch_host.h"

using namespace retentive::harness;

size_t retentive_attention_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }
size_t retentive_gate_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }
size_t retentive_transition_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }
size_t retentive_step_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }

int32_t retentive_attention(const RetentiveAttentionParams *params, void *) {
    return launch_host(params, retentive_reference_attention);
}
int32_t retentive_gate(const RetentiveGateParams *params, void *) {
    return launch_host(params, retentive_reference_gate);
}
int32_t retentive_transition(const RetentiveTransitionParams *params, void *) {
    return launch_host(params, retentive_reference_transition);
}
int32_t retentive_step(const RetentiveStepParams *params, void *) {
    return launch_host(params, retentive_reference_step);
}
int32_t retentive_step_attend(const RetentiveStepParams *params, void *) {
    const int32_t status = refuse_part(params);
    return status == RETENTIVE_OK ? retentive_step(params, nullptr) : status;
}
int32_t retentive_step_settle(const RetentiveStepParams *params, void *) { return refuse_part(params); }
const char *retentive_message(void) { return retentive::message(); }
