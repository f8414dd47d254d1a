// Queries as operands of the matrix instruction, in shared memory.
#pragma once

#include <type_traits>

#include "attention/rows.cuh"

namespace retentive {

// One tile of queries times `scale` and log2 e (and, for coarse rows, the keys' scales), split into terms. The warps
// `warp` of `warps` take whole queries, so that a query's largest magnitude is known to its warp. factors[q]: the power
// of two that query q's operands were divided by.
template <typename Element, typename Operand, int kDim, bool kCoarse>
__device__ __forceinline__ void stage_queries(const RetentiveAttentionParams &params, const Shape &shape, int bh,
                                              int query_tile, int warp, int warps, Operand *tile, float *factors) {
    constexpr int kTerms = Traits<Element>::kTerms;
    constexpr bool kNormalise = !kCoarse && std::is_same_v<Element, __half>;
    const int lane = threadIdx.x % kWarpSize;
    const float factor_of_all = params.scale * kLog2e; // logits are base-2
    const float *key_scale = kCoarse ? params.key_scale + size_t(bh % shape.Hkv) * shape.D : nullptr;
#pragma unroll 1
    for (int q = warp; q < kTileQueries; q += warps) {
        const int query = query_tile * kTileQueries + q;
        Operand *to = tile + q * QueryTile<kDim>::kStride + lane;
        if (query >= shape.GT) {
#pragma unroll
            for (int i = 0; i < kDim / kWarpSize * kTerms; ++i)
                to[i % kTerms * QueryTile<kDim>::kTermSize + i / kTerms * kWarpSize] = from_float<Operand>(0.0f);
            if (lane == 0) factors[q] = 1.0f;
            continue;
        }
        const Element *from = static_cast<const Element *>(params.query) + (size_t(bh) * shape.GT + query) * shape.D;
        float x[kDim / kWarpSize];
        float largest = 0.0f;
#pragma unroll
        for (int i = 0; i < kDim / kWarpSize; ++i) {
            const int d = lane + i * kWarpSize;
            x[i] = d < shape.D ? sanitize(to_float(from[d])) * factor_of_all : 0.0f;
            if (kCoarse && d < shape.D) x[i] *= __ldg(key_scale + d);
            largest = fmaxf(largest, fabsf(x[i]));
        }
        float factor = 1.0f;
        if constexpr (kNormalise) { // into [256, 512): float16 would overflow, or lose small queries
            largest = warp_max(largest);
            factor = query_factor(largest);
        }
        if (lane == 0) factors[q] = factor;
        const float inverse = 1.0f / factor; // exact
#pragma unroll
        for (int i = 0; i < kDim / kWarpSize; ++i) {
            Operand terms[kTerms];
            split<Operand, kTerms>(x[i] * inverse, terms);
#pragma unroll
            for (int term = 0; term < kTerms; ++term)
                to[term * QueryTile<kDim>::kTermSize + i * kWarpSize] = terms[term];
        }
    }
}

} // namespace retentive
