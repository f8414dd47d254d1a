// The C ABI of retentive/launch.h: parameters are checked first, and workspaces are sized as the kernels lay them out.
#include <algorithm>

#include "common/plan.h"
#include "operators.h"
#include "retentive/launch.h"
#include "retentive/validate.h"

namespace retentive {
namespace {

size_t bytes_of(const RetentiveAttentionParams &, const Shape &s, const RetentiveGeometry &g) {
    return AttentionWorkspace(s, AttentionPlan(s, g)).total;
}
size_t bytes_of(const RetentiveGateParams &, const Shape &s, const RetentiveGeometry &) {
    return GateWorkspace(s).total;
}
size_t bytes_of(const RetentiveTransitionParams &, const Shape &s, const RetentiveGeometry &) {
    return TransitionWorkspace(s).total;
}
size_t bytes_of(const RetentiveStepParams &, const Shape &s, const RetentiveGeometry &g) {
    return StepWorkspace(s, AttentionPlan(s, g)).total;
}

// For T and all that are fewer: a step of fewer tokens may be split otherwise and need more. 0 where there is no such
// step.
template <typename Params> size_t workspace_up_to(const RetentiveGeometry *geometry, int32_t steps) {
    if (geometry == nullptr || check(*geometry, true) != RETENTIVE_OK || steps < 1 || steps > geometry->chunk) return 0;
    size_t most = 0;
    for (int32_t t = 1; t <= steps; ++t) most = std::max(most, bytes_of(Params{}, Shape(*geometry, t), *geometry));
    return most;
}

template <typename Params> int32_t call(const Params *params, int32_t (*launch)(const Params &, void *), void *stream) {
    if (params == nullptr) return fail(RETENTIVE_INVALID, "params is NULL");
    if (const int32_t status = check(params->geometry, true)) return status;
    const bool steps_there = params->steps >= 1 && params->steps <= params->geometry.chunk;
    const size_t bytes = steps_there ? bytes_of(*params, Shape(params->geometry, params->steps), params->geometry) : 0;
    if (const int32_t status = check(*params, true, bytes)) return status;
    return launch(*params, stream);
}

int32_t call_part(const RetentiveStepParams *params, int32_t (*launch)(const RetentiveStepParams &, void *),
                  void *stream) {
    if (params != nullptr)
        if (const int32_t status = check_part(*params)) return status;
    return call(params, launch, stream);
}

} // namespace
} // namespace retentive

using namespace retentive;

size_t retentive_attention_workspace(const RetentiveGeometry *geometry, int32_t steps) {
    return workspace_up_to<RetentiveAttentionParams>(geometry, steps);
}
size_t retentive_gate_workspace(const RetentiveGeometry *geometry, int32_t steps) {
    return workspace_up_to<RetentiveGateParams>(geometry, steps);
}
size_t retentive_transition_workspace(const RetentiveGeometry *geometry, int32_t steps) {
    return workspace_up_to<RetentiveTransitionParams>(geometry, steps);
}
size_t retentive_step_workspace(const RetentiveGeometry *geometry, int32_t steps) {
    return workspace_up_to<RetentiveStepParams>(geometry, steps);
}

int32_t retentive_attention(const RetentiveAttentionParams *params, void *stream) {
    return call(params, launch_attention, stream);
}
int32_t retentive_gate(const RetentiveGateParams *params, void *stream) { return call(params, launch_gate, stream); }
int32_t retentive_transition(const RetentiveTransitionParams *params, void *stream) {
    return call(params, launch_transition, stream);
}
int32_t retentive_step(const RetentiveStepParams *params, void *stream) { return call(params, launch_step, stream); }

int32_t retentive_step_attend(const RetentiveStepParams *params, void *stream) {
    return call_part(params, launch_step_attend, stream);
}
int32_t retentive_step_settle(const RetentiveStepParams *params, void *stream) {
    return call_part(params, launch_step_settle, stream);
}

const char *retentive_message(void) { return message(); }
