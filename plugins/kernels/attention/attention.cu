// RetentiveAttention: two launches with one new token, three with more; with the residual readout always three.
#include "attention/combine.cuh"
#include "attention/launches.h"
#include "common/launch.cuh"
#include "operators.h"

namespace retentive {
namespace {

template <typename Element>
int32_t combine(const RetentiveAttentionParams &params, const Shape &s, bool keep, void *stream) {
    const int threads = ceil_div(s.D, kWarpSize) * kWarpSize;
    const AttentionPlan plan(s, params.geometry);
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

// The output alone: no blocks for the columns.
template <typename Element>
int32_t decode_output_alone(const RetentiveAttentionParams &params, const Shape &s, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    AttentionWorkspace at(s, plan);
    at.column_blocks = 0;
    at.output_blocks = blocks_for(kMultiprocessors / s.BH, ceil_div(s.G * s.D / 4, kFinishThreads / kWarpSize));
    return launch("attention_decode", attention_decode<Element>, dim3(unsigned(at.output_blocks), unsigned(s.BH)),
                  kFinishThreads, 0, stream, params, s, plan, at, true);
}

} // namespace

int32_t launch_partial(const RetentiveAttentionParams &params, bool statistics, void *stream) {
    switch (params.geometry.dtype) {
    case RETENTIVE_FLOAT32: return launch_partial_of<float>(params, statistics, stream);
    case RETENTIVE_FLOAT16: return launch_partial_of<__half>(params, statistics, stream);
    default: return launch_partial_of<__nv_bfloat16>(params, statistics, stream);
    }
}

int32_t launch_statistics(const RetentiveAttentionParams &params, void *stream) {
    switch (params.geometry.dtype) {
    case RETENTIVE_FLOAT32: return launch_statistics_of<float>(params, stream);
    case RETENTIVE_FLOAT16: return launch_statistics_of<__half>(params, stream);
    default: return launch_statistics_of<__nv_bfloat16>(params, stream);
    }
}

int32_t launch_combine(const RetentiveAttentionParams &params, bool keep, void *stream) {
    const Shape s(params.geometry, params.steps);
    switch (params.geometry.dtype) {
    case RETENTIVE_FLOAT32: return combine<float>(params, s, keep, stream);
    case RETENTIVE_FLOAT16: return combine<__half>(params, s, keep, stream);
    default: return combine<__nv_bfloat16>(params, s, keep, stream);
    }
}

int32_t launch_decode(const RetentiveAttentionParams &params, bool output, void *stream) {
    const Shape s(params.geometry, params.steps);
    switch (params.geometry.dtype) {
    case RETENTIVE_FLOAT32: return decode<float>(params, s, output, stream);
    case RETENTIVE_FLOAT16: return decode<__half>(params, s, output, stream);
    default: return decode<__nv_bfloat16>(params, s, output, stream);
    }
}

int32_t launch_output(const RetentiveAttentionParams &params, void *stream) {
    if (params.geometry.readout == RETENTIVE_READOUT_RESIDUAL) return launch_combine(params, true, stream);
    const Shape s(params.geometry, params.steps);
    switch (params.geometry.dtype) {
    case RETENTIVE_FLOAT32: return decode_output_alone<float>(params, s, stream);
    case RETENTIVE_FLOAT16: return decode_output_alone<__half>(params, s, stream);
    default: return decode_output_alone<__nv_bfloat16>(params, s, stream);
    }
}

int32_t launch_attention(const RetentiveAttentionParams &params, void *stream) {
    const bool residual = params.geometry.readout == RETENTIVE_READOUT_RESIDUAL;
    if (const int32_t status = launch_partial(params, false, stream)) return status;
    if (params.steps > 1 || residual)
        if (const int32_t status = launch_combine(params, false, stream)) return status;
    return params.steps == 1 ? launch_decode(params, !residual, stream) : launch_statistics(params, stream);
}

} // namespace retentive
