// A tile of queries as operands A of attention_split, in shared memory in the order in which lanes take them.
#pragma once

#include <type_traits>

#include "attention/split_rows.cuh"

namespace retentive {

// Two numbers, rounded and what the rounding left.
template <typename Operand> struct Pair {
    uint32_t rounded, error;

    __device__ __forceinline__ Pair(float x, float y) {
        rounded = pack_pair(x, y);
        Operand terms[2];
        memcpy(terms, &rounded, sizeof rounded);
        error = pack_pair(x - to_float(terms[0]), y - to_float(terms[1]));
    }

  private:
    static __device__ __forceinline__ uint32_t pack_pair(float x, float y) {
        if constexpr (std::is_same_v<Operand, __nv_bfloat16>) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
            return pack(pair.x, pair.y);
        } else {
            return pack(from_float<Operand>(x), from_float<Operand>(y));
        }
    }
};

template <int kDim> constexpr int kFragmentBytes = kDim / 16 * kWarpSize * int(sizeof(uint4)); // of all k steps

// Start to copy a tile of queries as they are: [queries, D]. All threads of the block.
template <typename Element>
__device__ __forceinline__ void send_queries(const RetentiveAttentionParams &params, const Shape &s, int bh,
                                             int query_tile, void *to) {
    const int first = query_tile * kTileQueries,
              pieces = min(kTileQueries, s.GT - first) * s.D * int(sizeof(Element)) / 16;
    const char *from =
        reinterpret_cast<const char *>(static_cast<const Element *>(params.query) + (size_t(bh) * s.GT + first) * s.D);
    for (int i = threadIdx.x; i < pieces; i += kAttentionWarps * kWarpSize)
        copy_async16(static_cast<char *>(to) + 16 * i, from + 16 * i);
}

// Start to copy the head's key scales: [D].
__device__ __forceinline__ void send_key_scale(const RetentiveAttentionParams &params, const Shape &s, int bh,
                                               float *to) {
    const float *from = params.key_scale + size_t(bh % s.Hkv) * s.D;
    for (int i = threadIdx.x; i < s.D / 4; i += kAttentionWarps * kWarpSize) copy_async16(to + 4 * i, from + 4 * i);
}

// A thread's part of the queries for rows of one kind.
template <typename Element, int kDim, typename Rows> struct QueryFragments {
    static constexpr int kSteps = kDim / 16 / kAttentionWarps; // of a thread: k steps warp, warp + 4, ...
    static constexpr bool kNormalise = !Rows::kCodes && std::is_same_v<Element, __half>;

    Element x[kSteps][4];
    float key_scale[kSteps][4];

    // `from`, `scales`: what was sent for. `queries`: of the tile.
    __device__ __forceinline__ void load(const Element *from, const float *scales, int queries, int dim) {
        const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
#pragma unroll
        for (int i = 0; i < kSteps; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int channel = Rows::channel(warp + kAttentionWarps * i, lane % 4, e);
                const bool there = lane / 4 < queries && channel < dim;
                x[i][e] = there ? from[lane / 4 * dim + channel] : from_float<Element>(0.0f);
                if constexpr (Rows::kCodes) key_scale[i][e] = there ? scales[channel] : 0.0f;
            }
    }

    // Times `scale` and log2 e, and the keys' scales where there are codes. factors[q]: the power of two that query q's
    // operands were divided by, with float16 alone. All threads of the block; synchronises with float16.
    __device__ __forceinline__ void store(float scale, uint4 *to, float *factors) const {
        const int warp = threadIdx.x / kWarpSize;
        const float inverse = kNormalise ? 1.0f / factor_of(scale, factors) : 1.0f; // exact
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            float y[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) y[e] = number(i, e, scale) * inverse;
            const Pair<typename Rows::Operand> low(y[0], y[1]), high(y[2], y[3]);
            to[(warp + kAttentionWarps * i) * kWarpSize + threadIdx.x % kWarpSize] =
                make_uint4(low.rounded, low.error, high.rounded, high.error);
        }
    }

  private:
    __device__ __forceinline__ float number(int i, int e, float scale) const {
        const float y = sanitize(to_float(x[i][e])) * (scale * kLog2e); // logits are base-2
        return Rows::kCodes ? y * key_scale[i][e] : y;
    }

    // Brings a query's largest magnitude into [256, 512): float16 would overflow, or lose small queries.
    __device__ __forceinline__ float factor_of(float scale, float *factors) const {
        __shared__ float largest[kAttentionWarps][kTileQueries];
        const int lane = threadIdx.x % kWarpSize, g = lane / 4;
        float most = 0.0f;
#pragma unroll
        for (int i = 0; i < kSteps; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) most = fmaxf(most, fabsf(number(i, e, scale)));
        most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2));
        if (lane % 4 == 0) largest[threadIdx.x / kWarpSize][g] = most;
        __syncthreads();
#pragma unroll
        for (int w = 0; w < kAttentionWarps; ++w) most = fmaxf(most, largest[w][g]);
        const float factor = query_factor(most);
        if (threadIdx.x < kWarpSize && lane % 4 == 0) factors[g] = factor;
        return factor;
    }
};

} // namespace retentive
