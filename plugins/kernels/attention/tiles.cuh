// Instances of the kernels that work on tiles of rows, for one element type: head sizes up to 64, 128 and 256.
#pragma once

#include "attention/launches.h"
#include "attention/partial.cuh"
#include "attention/statistics.cuh"
#include "common/launch.cuh"

namespace retentive {

constexpr size_t kPlainShared = 48 * 1024; // what a kernel gets without asking

template <typename Kernel> int32_t allow_shared(Kernel *kernel, size_t bytes) {
    if (bytes <= kPlainShared) return RETENTIVE_OK;
    return cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
                       "cudaFuncSetAttribute");
}

template <typename Element, int kDim, Mode kMode, int kBits>
int32_t partial_in(const RetentiveAttentionParams &params, const Shape &s, const AttentionPlan &plan, bool statistics,
                   void *stream) {
    const auto kernel = attention_partial<Element, kDim, kMode, kBits>;
    const size_t shared = PartialShared<Element, kDim, kMode>::bytes(s);
    if (const int32_t status = allow_shared(kernel, shared)) return status;
    const dim3 grid(unsigned(plan.splits), unsigned(plan.query_blocks), unsigned(s.BH));
    return launch("attention_partial", kernel, grid, kAttentionWarps * kWarpSize, shared, stream, params, s, plan,
                  AttentionWorkspace(s, plan), statistics);
}

template <typename Element, int kDim>
int32_t partial_of(const RetentiveAttentionParams &params, const Shape &s, bool statistics, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    if (!plan.rows_per_warp)
        return partial_in<Element, kDim, Mode::alone, kAnyBits>(params, s, plan, statistics, stream);
    if constexpr (sizeof(Element) == 2) { // decode's instruction cache holds one kind of coarse rows
        if (s.F == 0) return partial_in<Element, kDim, Mode::staged, 0>(params, s, plan, statistics, stream);
        if (s.D == kDim)
            return params.geometry.coarse_dtype == RETENTIVE_INT8
                       ? partial_in<Element, kDim, Mode::staged, 8>(params, s, plan, statistics, stream)
                       : partial_in<Element, kDim, Mode::staged, 4>(params, s, plan, statistics, stream);
    }
    return partial_in<Element, kDim, Mode::direct, kAnyBits>(params, s, plan, statistics, stream);
}

template <typename Element, int kDim>
int32_t statistics_of(const RetentiveAttentionParams &params, const Shape &s, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    const auto kernel = attention_statistics<Element, kDim>;
    const size_t shared = StatisticsShared<Element, kDim>::bytes(s);
    if (const int32_t status = allow_shared(kernel, shared)) return status;
    const int tiles = plan.exact_tiles + plan.coarse_tiles + plan.fresh_tiles;
    const dim3 grid(unsigned(ceil_div(tiles, kAttentionWarps)), unsigned(s.BH));
    return launch("attention_statistics", kernel, grid, kAttentionWarps * kWarpSize, shared, stream, params, s, plan,
                  AttentionWorkspace(s, plan));
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
