// The operators' launches, behind the checks of api.cpp.
#pragma once

#include "retentive/params.h"

namespace retentive {

int32_t launch_attention(const RetentiveAttentionParams &params, void *stream);
int32_t launch_gate(const RetentiveGateParams &params, void *stream);
int32_t launch_transition(const RetentiveTransitionParams &params, void *stream);
int32_t launch_step(const RetentiveStepParams &params, void *stream);

} // namespace retentive
