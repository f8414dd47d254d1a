// The attention's launches, per element type in files of their own so that they compile side by side.
#pragma once

#include "common/plan.h"

namespace retentive {

// `statistics`: also sum importance and entropy over the rows, for the whole step.
int32_t launch_partial(const RetentiveAttentionParams &params, bool statistics, void *stream);
// Output and normalisers query by query. `keep`: the new token (T = 1), for what follows of the step.
int32_t launch_combine(const RetentiveAttentionParams &params, bool keep, void *stream);
// T = 1: the output alone, and the new token kept.
int32_t launch_output(const RetentiveAttentionParams &params, void *stream);
int32_t launch_decode(const RetentiveAttentionParams &params, bool output, void *stream);
int32_t launch_statistics(const RetentiveAttentionParams &params, void *stream);

template <typename Element>
int32_t launch_partial_of(const RetentiveAttentionParams &params, bool statistics, void *stream);
template <typename Element> int32_t launch_statistics_of(const RetentiveAttentionParams &params, void *stream);

} // namespace retentive
