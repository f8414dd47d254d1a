// The operators on parameters that were checked already; what they allocate may throw.
#pragma once

#include "retentive/params.h"

namespace retentive::reference {

void attention(const RetentiveAttentionParams &params);
void gate(const RetentiveGateParams &params);
void transition(const RetentiveTransitionParams &params);
void step(const RetentiveStepParams &params);

} // namespace retentive::reference
