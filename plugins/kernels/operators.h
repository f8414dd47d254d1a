// The operators' launches, behind the checks of api.cpp.
#pragma once

#include "retentive/params.h"

namespace retentive {

int32_t launch_attention(const RetentiveAttentionParams &params, void *stream);
int32_t launch_gate(const RetentiveGateParams &params, void *stream);
int32_t launch_transition(const RetentiveTransitionParams &params, void *stream);
int32_t launch_step(const RetentiveStepParams &params, void *stream);
// T = 1: a step's output; everything else.
int32_t launch_step_attend(const RetentiveStepParams &params, void *stream);
int32_t launch_step_settle(const RetentiveStepParams &params, void *stream);

// T = 1: what left the last tier, where it waits in the workspace (recall_blocks() > 0). `untouched`: no kernel that may
// still run writes the memory.
int32_t launch_absorb(const RetentiveTransitionParams &params, bool untouched, void *stream);

} // namespace retentive
