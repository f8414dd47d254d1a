// Staged rows of 16-bit numbers as operands of the matrix instruction m16n8k16, lane = 4 g + t. Operand A has the 8
// queries' (or probabilities') roundings in rows 0-7 and their rounding errors in rows 8-15; B has keys, column g = row
// g of an 8-row part and k = channels, or values, k = 16 rows and column g = a channel.
#pragma once

#include "attention/rows.cuh"
#include "attention/staging.cuh"

namespace retentive {

// Four 8 x 8 matrices of 16-bit numbers, lane 8 m + i giving the shared address of row i of matrix m.
__device__ __forceinline__ void load_matrices(unsigned row, uint32_t (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(row)
                 : "memory");
}
__device__ __forceinline__ void load_matrices(const char *row, uint32_t (&b)[4]) {
    load_matrices(shared_address(row), b);
}
__device__ __forceinline__ void load_transposed(unsigned row, uint32_t (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(row)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(const char *row, uint32_t (&b)[4]) {
    load_transposed(shared_address(row), b);
}

// Operand A of one k step, from where QueryFragments::store() put it.
__device__ __forceinline__ void load_fragment(const uint4 *fragments, int step, uint32_t (&a)[4]) {
    const uint4 x = fragments[step * kWarpSize + threadIdx.x % kWarpSize];
    a[0] = x.x, a[1] = x.y, a[2] = x.z, a[3] = x.w;
}

// What a lane 4 g + t of a warp has of the logits of a stage: those of one query and of rows first_row() + 8 part + k,
// part < kParts, k < 2. kQueries: 8, each for four lanes, or 4, each for eight.
template <int kQueries, int kRows> struct StageLanes {
    static_assert((kQueries == 8 || kQueries == 4) && (kRows == 32 || kRows == 16));
    static constexpr int kParts = kQueries * kRows / (2 * kWarpSize);
    static constexpr int kLanes = kWarpSize / kQueries;          // of a query,
    static constexpr int kStride = kQueries == 8 ? 1 : kQueries; // so far apart

    static __device__ __forceinline__ int query() {
        const int lane = threadIdx.x % kWarpSize;
        return kQueries == 8 ? lane / 4 : lane % 4;
    }
    static __device__ __forceinline__ int first_row() {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4;
        return kQueries == 8 ? 2 * (lane % 4) : g % 2 * (kRows / 2) + g / 2 * 2;
    }
    // Where the first row's logit lies among those of the stage, as Shape::logit_at; the others follow.
    static __device__ __forceinline__ int logit() {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4;
        return kQueries == 8 ? 8 * (lane % 4) : g / 2 * 8 + g % 2 * (kRows / 8);
    }
    // Whether this lane speaks for its query's lanes.
    static __device__ __forceinline__ bool first() { return threadIdx.x % kWarpSize / kStride % kLanes == 0; }
    // Over the query's lanes.
    static __device__ __forceinline__ float largest(float x) {
#pragma unroll
        for (int offset = kStride; offset < kLanes * kStride; offset *= 2)
            x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
        return x;
    }
};

template <int kCount, int kEach> __device__ __forceinline__ void scale_sums(float (&sums)[kCount][kEach], float by) {
#pragma unroll
    for (auto &some : sums)
#pragma unroll
        for (float &x : some) x *= by;
}

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

// Rows of the exact store (or new tokens) in a 16-bit type.
template <typename Element, int kDim> struct StagedExact {
    using Operand = Element;
    static constexpr int kRowBytes = kDim * 2;
    static constexpr bool kCodes = false;
    static constexpr int kQueries = kTileQueries; // of a product
    static constexpr float kUnit = 1.0f;          // products are multiples of it, as wholes
    // Base-2 logits may exceed the running maximum by so much before it is raised, so that it seldom is: probabilities
    // then are below 2^kRoom, and must fit their operand (float16: 2^4 kProbabilityScale).
    static constexpr float kRoom = std::is_same_v<Element, __half> ? 4.0f : 8.0f;

    using Sums = float[kDim / 8][4]; // [8 channels][2 t, 2 t + 1 of the rounded operand, then of the errors]
    struct Base {};                  // what the products of queries and keys begin with: nothing

    static __device__ __forceinline__ int channel(int step, int t, int e) {
        return 16 * step + 2 * t + e % 2 + e / 2 * 8;
    }

    static __device__ __forceinline__ Base base(const uint4 *) { return {}; }

    // q k^T of 8 rows a part: of the lane's query with rows 2 t, 2 t + 1. Channels behind the last one are zeros on
    // both sides.
    template <int kParts>
    static __device__ __forceinline__ void products(const uint4 *fragments, const Base &, const char *stage,
                                                    float (&x)[kParts][2]) {
        const int lane = threadIdx.x % kWarpSize;
        float c[kParts][4] = {};
#pragma unroll
        for (int i = 0; i < kDim / 32; ++i) {
            uint32_t low[4], high[4];
            load_fragment(fragments, 2 * i, low), load_fragment(fragments, 2 * i + 1, high);
#pragma unroll
            for (int part = 0; part < kParts; ++part) {
                uint32_t b[4];
                load_matrices(stage + place_of<kRowBytes, kCodes>(8 * part + lane % 8, 4 * i + lane / 8), b);
                mma<Operand>(c[part], low, b[0], b[1]);
                mma<Operand>(c[part], high, b[2], b[3]);
            }
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) x[part][k] = c[part][k] + c[part][k + 2];
    }

    // sums += p v, 8 rows a part.
    template <int kParts>
    static __device__ __forceinline__ void weigh(const float (&p)[kParts][2], const char *stage, Sums &sums) {
        const int lane = threadIdx.x % kWarpSize;
#pragma unroll
        for (int part = 0; part < kParts; part += 2) {
            const Pair<Operand> low(p[part][0], p[part][1]), high(p[part + 1][0], p[part + 1][1]);
            const uint32_t a[4] = {low.rounded, low.error, high.rounded, high.error};
#pragma unroll
            for (int j = 0; j < kDim / 8; j += 2) {
                uint32_t b[4];
                load_transposed(stage + place_of<kRowBytes, kCodes>(8 * part + lane % 16, j + lane / 16), b);
                mma<Operand>(sums[j], a, b[0], b[1]);
                mma<Operand>(sums[j + 1], a, b[2], b[3]);
            }
        }
    }

    // The lane's channels of query g.
    static __device__ __forceinline__ void store(const Sums &sums, float *to) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j)
            *reinterpret_cast<float2 *>(to + 8 * j + 2 * t) =
                make_float2(sums[j][0] + sums[j][2], sums[j][1] + sums[j][3]);
    }
};

} // namespace retentive
