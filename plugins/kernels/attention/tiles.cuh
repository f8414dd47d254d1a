// Instances of the kernels that work on tiles of rows, for one element type: head sizes up to 64, 128 and 256.
#pragma once

#include "attention/launches.h"
#include "attention/partial.cuh"
#include "attention/prefill.cuh"
#include "attention/prefill_statistics.cuh"
#include "attention/split.cuh"
#include "attention/statistics.cuh"
#include "common/launch.cuh"

namespace retentive {

constexpr size_t kPlainShared = 48 * 1024; // what a kernel gets without asking

template <typename Kernel> int32_t allow_shared(Kernel *kernel, size_t bytes) {
    if (bytes <= kPlainShared) return RETENTIVE_OK;
    return cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
                       "cudaFuncSetAttribute");
}

// The grid and the arguments are the same for all kernels of the first launch.
template <typename Kernel>
int32_t launch_first(const char *name, Kernel *kernel, size_t shared, const RetentiveAttentionParams &params,
                     const Shape &s, const AttentionPlan &plan, bool statistics, void *stream) {
    if (const int32_t status = allow_shared(kernel, shared)) return status;
    const dim3 grid(unsigned(plan.splits), unsigned(plan.query_blocks), unsigned(s.BH));
    return launch(name, kernel, grid, kAttentionWarps * kWarpSize, shared, stream, params, s, plan,
                  AttentionWorkspace(s, plan), statistics);
}

template <typename Element, int kDim, int kRows, int kBits>
int32_t split_rows(const RetentiveAttentionParams &params, const Shape &s, const AttentionPlan &plan, bool statistics,
                   void *stream) {
    constexpr size_t kShared = SplitShared<Element, kDim, kRows, kBits>::kBytes;
    if constexpr (kBits != 0)
        if (s.GT <= kFewQueries)
            return launch_first("attention_split", attention_split<Element, kDim, kRows, kBits, true>, kShared, params,
                                s, plan, statistics, stream);
    return launch_first("attention_split", attention_split<Element, kDim, kRows, kBits, false>, kShared, params, s,
                        plan, statistics, stream);
}

template <typename Element, int kDim, int kBits>
int32_t split_in(const RetentiveAttentionParams &params, const Shape &s, const AttentionPlan &plan, bool statistics,
                 void *stream) {
    if constexpr (kDim <= 128)
        if (plan.turn_rows == kStageRows)
            return split_rows<Element, kDim, kStageRows, kBits>(params, s, plan, statistics, stream);
    return split_rows<Element, kDim, kTileRows, kBits>(params, s, plan, statistics, stream);
}

template <typename Element, int kDim, Mode kMode>
int32_t partial_in(const RetentiveAttentionParams &params, const Shape &s, const AttentionPlan &plan, bool statistics,
                   void *stream) {
    return launch_first("attention_partial", attention_partial<Element, kDim, kMode>,
                        PartialShared<Element, kDim, kMode>::bytes(s), params, s, plan, statistics, stream);
}

template <typename Element, int kDim, bool kCodes>
int32_t prefill_in(const RetentiveAttentionParams &params, const Shape &s, const AttentionPlan &plan, void *stream) {
    return launch_first("attention_prefill", attention_prefill<Element, kDim, kCodes>,
                        PrefillShared<kDim, kCodes>::kBytes, params, s, plan, false, stream);
}

template <typename Element, int kDim>
int32_t partial_of(const RetentiveAttentionParams &params, const Shape &s, bool statistics, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    if constexpr (sizeof(Element) == 4) {
        if constexpr (kDim <= 128)
            if (!plan.rows_per_warp) return partial_in<Element, kDim, Mode::alone>(params, s, plan, statistics, stream);
    } else {
        if (plan.prefill && s.F == 0) return prefill_in<Element, kDim, false>(params, s, plan, stream);
        if (plan.prefill) return prefill_in<Element, kDim, true>(params, s, plan, stream);
        // a kernel for each kind of codes: the instruction cache is small
        if (plan.staged && s.F == 0) return split_in<Element, kDim, 0>(params, s, plan, statistics, stream);
        if (plan.staged && params.geometry.coarse_dtype == RETENTIVE_INT8)
            return split_in<Element, kDim, 8>(params, s, plan, statistics, stream);
        if (plan.staged) return split_in<Element, kDim, 4>(params, s, plan, statistics, stream);
    }
    return partial_in<Element, kDim, Mode::shared>(params, s, plan, statistics, stream);
}

template <typename Kernel>
int32_t statistics_in(const char *name, Kernel *kernel, size_t shared, int blocks,
                      const RetentiveAttentionParams &params, const Shape &s, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    if (const int32_t status = allow_shared(kernel, shared)) return status;
    return launch(name, kernel, dim3(unsigned(blocks), unsigned(s.BH)), kAttentionWarps * kWarpSize, shared, stream,
                  params, s, plan, AttentionWorkspace(s, plan));
}

template <typename Element, int kDim>
int32_t statistics_of(const RetentiveAttentionParams &params, const Shape &s, void *stream) {
    if constexpr (sizeof(Element) == 4) {
        const int tiles = ceil_div(s.E, kTileRows) + ceil_div(s.F, kTileRows) + ceil_div(s.T, kTileRows);
        return statistics_in("attention_statistics", attention_statistics<Element, kDim>,
                             StatisticsShared<Element, kDim>::bytes(s), ceil_div(tiles, kAttentionWarps), params, s,
                             stream);
    } else {
        const StatisticsBlocks blocks(s);
        const int all = blocks.exact + blocks.coarse + blocks.fresh;
        if (s.F == 0)
            return statistics_in("prefill_statistics", prefill_statistics<Element, kDim, false>,
                                 PrefillStatisticsShared<kDim, false>::kBytes, all, params, s, stream);
        return statistics_in("prefill_statistics", prefill_statistics<Element, kDim, true>,
                             PrefillStatisticsShared<kDim, true>::kBytes, all, params, s, stream);
    }
}

template <typename Element>
int32_t launch_partial_of(const RetentiveAttentionParams &params, bool statistics, void *stream) {
    const Shape s(params.geometry, params.steps);
    if (s.D <= 64) return partial_of<Element, 64>(params, s, statistics, stream);
    if (s.D <= 128) return partial_of<Element, 128>(params, s, statistics, stream);
    return partial_of<Element, 256>(params, s, statistics, stream);
}

template <typename Element> int32_t launch_statistics_of(const RetentiveAttentionParams &params, void *stream) {
    const Shape s(params.geometry, params.steps);
    if (s.D <= 64) return statistics_of<Element, 64>(params, s, stream);
    if (s.D <= 128) return statistics_of<Element, 128>(params, s, stream);
    return statistics_of<Element, 256>(params, s, stream);
}

} // namespace retentive
