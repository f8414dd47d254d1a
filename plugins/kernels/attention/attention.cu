// RetentiveAttention: two launches with one new token, three with more; with the residual readout always three.
#include "attention/combine.cuh"
#include "attention/launches.h"
#include "common/launch.cuh"
#include "operators.h"

namespace retentive {
namespace {

template <typename Element>
int32_t combine(const RetentiveAttentionParams &params, const Shape &s, bool keep, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    if (params.geometry.readout != RETENTIVE_READOUT_RESIDUAL)
        return launch("prefill_combine", prefill_combine<Element>,
                      dim3(unsigned(ceil_div(s.GT, kFinishThreads / kWarpSize)), unsigned(s.BH)), kFinishThreads, 0,
                      stream, params, s, plan, AttentionWorkspace(s, plan));
    const int threads = ceil_div(s.D, kWarpSize) * kWarpSize;
    return launch("attention_combine", attention_combine<Element>, dim3(unsigned(s.GT), unsigned(s.BH)), threads, 0,
                  stream, params, s, plan, AttentionWorkspace(s, plan), keep);
}

template <typename Element>
int32_t decode(const RetentiveAttentionParams &params, const Shape &s, bool output, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    const AttentionWorkspace at(s, plan);
    const dim3 grid(unsigned(at.column_blocks + (output ? at.output_blocks : 0)), unsigned(s.BH));
    return launch("attention_decode", attention_decode<Element>, grid, kFinishThreads, 0, stream, params, s, plan, at,
                  false);
}

// The output alone: no blocks for the columns, one for the new token.
template <typename Element>
int32_t decode_output_alone(const RetentiveAttentionParams &params, const Shape &s, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    AttentionWorkspace at(s, plan);
    at.column_blocks = 0;
    at.output_blocks = output_blocks_of(s, kMultiprocessors);
    return launch("attention_decode", attention_decode<Element>, dim3(unsigned(at.output_blocks + 1), unsigned(s.BH)),
                  kFinishThreads, 0, stream, params, s, plan, at, true);
}

} // namespace

int32_t launch_partial(const RetentiveAttentionParams &params, bool statistics, void *stream) {
    return with_element(params.geometry,
                        [&](auto x) { return launch_partial_of<decltype(x)>(params, statistics, stream); });
}

int32_t launch_statistics(const RetentiveAttentionParams &params, void *stream) {
    return with_element(params.geometry, [&](auto x) { return launch_statistics_of<decltype(x)>(params, stream); });
}

int32_t launch_combine(const RetentiveAttentionParams &params, bool keep, void *stream) {
    const Shape s(params.geometry, params.steps);
    return with_element(params.geometry, [&](auto x) { return combine<decltype(x)>(params, s, keep, stream); });
}

int32_t launch_decode(const RetentiveAttentionParams &params, bool output, void *stream) {
    const Shape s(params.geometry, params.steps);
    return with_element(params.geometry, [&](auto x) { return decode<decltype(x)>(params, s, output, stream); });
}

int32_t launch_output(const RetentiveAttentionParams &params, void *stream) {
    if (params.geometry.readout == RETENTIVE_READOUT_RESIDUAL) return launch_combine(params, true, stream);
    const Shape s(params.geometry, params.steps);
    return with_element(params.geometry, [&](auto x) { return decode_output_alone<decltype(x)>(params, s, stream); });
}

int32_t launch_attention(const RetentiveAttentionParams &params, void *stream) {
    const bool residual = params.geometry.readout == RETENTIVE_READOUT_RESIDUAL;
    if (const int32_t status = launch_partial(params, false, stream)) return status;
    if (params.steps > 1 || residual)
        if (const int32_t status = launch_combine(params, false, stream)) return status;
    return params.steps == 1 ? launch_decode(params, !residual, stream) : launch_statistics(params, stream);
}

} // namespace retentive
