// A tile of queries as operands A of attention_split, in shared memory in the order in which lanes take them.
#pragma once

#include <type_traits>

#include "attention/split_few_codes.cuh"

namespace retentive {

// Of all k steps: two 16-bit terms a number, or two bytes.
template <int kDim, bool kCodes>
constexpr int kFragmentBytes = kDim / (kCodes ? 32 : 16) * kWarpSize * int(sizeof(uint4));

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
    static constexpr int kSteps = kDim / 16 / kAttentionWarps; // of a thread: four channels each
    static constexpr bool kNormalise = Rows::kCodes || std::is_same_v<Element, __half>;

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

    // Times `scale` and log2 e, and the keys' scales where there are codes. factors[q]: what query q's operands must be
    // multiplied by; 1 with exact rows in bfloat16. All threads of the block; synchronises but then.
    __device__ __forceinline__ void store(float scale, uint4 *to, float *factors) const {
        const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
        float inverse = 1.0f;
        if constexpr (kNormalise) {
            const float most = largest(scale), factor = Rows::kCodes ? most / kLargestQuery : query_factor(most);
            inverse = Rows::kCodes ? (most > 0.0f ? kLargestQuery / most : 0.0f) : 1.0f / factor;
            if (warp == 0 && lane % 4 == 0) factors[lane / 4] = factor;
        } else if (warp == 0 && lane % 4 == 0) {
            factors[lane / 4] = 1.0f;
        }
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            const int unit = warp + kAttentionWarps * i;
            float y[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) y[e] = number(i, e, scale) * inverse;
            if constexpr (Rows::kCodes) {
                reinterpret_cast<uint2 *>(to + unit / 2 * kWarpSize + lane)[unit % 2] = bytes(y);
            } else {
                const Pair<typename Rows::Operand> low(y[0], y[1]), high(y[2], y[3]);
                to[unit * kWarpSize + lane] = make_uint4(low.rounded, low.error, high.rounded, high.error);
            }
        }
    }

  private:
    __device__ __forceinline__ float number(int i, int e, float scale) const {
        const float y = sanitize(to_float(x[i][e])) * (scale * kLog2e); // logits are base-2
        return Rows::kCodes ? y * key_scale[i][e] : y;
    }

    // High bytes and low bytes of four integers.
    static __device__ __forceinline__ uint2 bytes(const float (&y)[4]) {
        uint2 all = make_uint2(0, 0);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int whole = __float2int_rn(y[e]), high = (whole + 128) >> 8;
            all.x |= unsigned(high & 0xff) << 8 * e, all.y |= unsigned(whole & 0xff) << 8 * e;
        }
        return all;
    }

    // Magnitude of the lane's query over all its channels.
    __device__ __forceinline__ float largest(float scale) const {
        __shared__ float shared[kAttentionWarps][kTileQueries];
        const int lane = threadIdx.x % kWarpSize, g = lane / 4;
        float most = 0.0f;
#pragma unroll
        for (int i = 0; i < kSteps; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) most = fmaxf(most, fabsf(number(i, e, scale)));
        most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2));
        if (lane % 4 == 0) shared[threadIdx.x / kWarpSize][g] = most;
        __syncthreads();
#pragma unroll
        for (int w = 0; w < kAttentionWarps; ++w) most = fmaxf(most, shared[w][g]);
        return most;
    }
};

} // namespace retentive
