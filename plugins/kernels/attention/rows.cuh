// One warp's tile of 16 rows: loads in the layout of the matrix instruction's operands, straight from global memory.
//  m16n8k16, lane = 4 g + t. Logits: A = 8 queries (rounded) and their 8 rounding errors, B = keys, column g = row g of
// an 8-row half, k = channels; the order of k is free, so lane t takes channels 32 i + 8 t .. + 7 of its row in one
// load and spreads them over two k steps. Output: A = probabilities and their rounding errors, k = the 16 rows (2t,
// 2t+1, 2t+8, 2t+9 in lane t, which is how the logits come out), B = values, column g of column tile j = channel 64 h +
// 8 g + j, so that a lane again loads 8 adjacent channels of a row.
#pragma once

#include "common/device.cuh"

namespace retentive {

__device__ __forceinline__ uint32_t word(const uint4 &x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}
__device__ __forceinline__ uint32_t word(const uint2 &x, int i) { return i == 0 ? x.x : x.y; }

// Operand type on the tensor cores, and the number of terms that a float32 operand is split into.
template <typename Element> struct Traits {
    using Operand = Element;
    static constexpr int kTerms = 2;
};
template <> struct Traits<float> {
    using Operand = __nv_bfloat16;
    static constexpr int kTerms = 3;
};

// x = sum of kTerms operands, each the rounding of what the ones before it left.
template <typename Operand, int kTerms> __device__ __forceinline__ void split(float x, Operand (&terms)[kTerms]) {
#pragma unroll
    for (int i = 0; i < kTerms; ++i) {
        terms[i] = from_float<Operand>(x);
        x -= to_float(terms[i]);
    }
}

// The power of two that brings a query whose largest magnitude this is into [256, 512).
__device__ __forceinline__ float query_factor(float largest) {
    const int exponent = largest > 0.0f ? int(__float_as_uint(largest) >> 23) - 126 : 0; // largest < 2^exponent
    return __uint_as_float(unsigned(127 + max(min(exponent - 9, 100), -100)) << 23);
}

// Operand A from two terms of 8 rows each: rows 0-7 hold the first, rows 8-15 the second.
struct Probabilities {
    uint32_t first[4]; // rounded, error
    uint32_t third[4]; // error of the error, nothing; used with three terms
};

template <typename Operand, int kTerms> __device__ __forceinline__ Probabilities operand_of(const float (&p)[4]) {
    Operand terms[4][kTerms];
#pragma unroll
    for (int i = 0; i < 4; ++i) split<Operand, kTerms>(p[i], terms[i]);
    Probabilities a;
    a.first[0] = pack(terms[0][0], terms[1][0]);
    a.first[1] = pack(terms[0][1], terms[1][1]);
    a.first[2] = pack(terms[2][0], terms[3][0]);
    a.first[3] = pack(terms[2][1], terms[3][1]);
    if constexpr (kTerms == 3) {
        a.third[0] = pack(terms[0][2], terms[1][2]);
        a.third[2] = pack(terms[2][2], terms[3][2]);
        a.third[1] = a.third[3] = 0;
    }
    return a;
}

// Queries in shared memory: [term][query][stride] operands. The stride puts odd queries into the other half of the
// banks.
template <int kDim> struct QueryTile {
    static constexpr int kStride = kDim + (kDim * 2 % 128 == 0 ? 32 : 0);
    static constexpr int kTermSize = kTileQueries * kStride;

    // Operand A of the two k steps of channels 32 i .. + 31, terms `term` and `term + 1` (or nothing).
    template <typename Operand>
    static __device__ __forceinline__ void load(const Operand *tile, int i, int term, bool pair, uint32_t (&low)[4],
                                                uint32_t (&high)[4]) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
        const Operand *at = tile + term * kTermSize + g * kStride + 32 * i + 8 * t;
        const uint4 first = *reinterpret_cast<const uint4 *>(at);
        uint4 second = make_uint4(0, 0, 0, 0);
        if (pair) second = *reinterpret_cast<const uint4 *>(at + kTermSize);
        low[0] = first.x, low[1] = second.x, low[2] = first.y, low[3] = second.y;
        high[0] = first.z, high[1] = second.z, high[2] = first.w, high[3] = second.w;
    }
};

// A tile of keys and one of values in registers; a Word is eight channels.
template <typename Word, int kDim> struct LoadedRows {
    static constexpr int kKeyLoads = kDim / 32, kValueLoads = kDim / 64;
    static constexpr int kBytes = sizeof(Word) / 8; // of a channel

    Word key[2][kKeyLoads];
    Word value[4][kValueLoads];

    // `rows`: [n, D]; `row`: first row of the tile; rows at or past n repeat row n - 1.
    __device__ __forceinline__ void load_keys(const void *rows, int row, int n, int dim) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const char *at = row_at(rows, min(row + 8 * half + g, n - 1), dim, 8 * t);
#pragma unroll
            for (int i = 0; i < kKeyLoads; ++i)
                key[half][i] = 32 * i + 8 * t < dim ? load_word<Word>(at + 32 * i * kBytes) : Word{};
        }
    }

    __device__ __forceinline__ void load_values(const void *rows, int row, int n, int dim) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const char *at = row_at(rows, min(row + 2 * t + k % 2 + k / 2 * 8, n - 1), dim, 8 * g);
#pragma unroll
            for (int h = 0; h < kValueLoads; ++h)
                value[k][h] = 64 * h + 8 * g < dim ? load_word<Word>(at + 64 * h * kBytes) : Word{};
        }
    }

  private:
    static __device__ __forceinline__ const char *row_at(const void *rows, int row, int dim, int channel) {
        return static_cast<const char *>(rows) + (size_t(row) * dim + channel) * kBytes;
    }
};

// Rows of the exact store (or new tokens) in a 16-bit type.
template <typename Element, int kDim> struct ExactRows : LoadedRows<uint4, kDim> {
    using Loaded = LoadedRows<uint4, kDim>;
    using Loaded::kKeyLoads, Loaded::kValueLoads, Loaded::key, Loaded::value;
    using Operand = Element;

    __device__ __forceinline__ void sanitize_keys(bool wanted) {
        if (!wanted) return;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < kKeyLoads; ++i) sanitize_words(key[half][i]);
    }

    __device__ __forceinline__ void sanitize_values(bool wanted) {
        if (!wanted) return;
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int h = 0; h < kValueLoads; ++h) sanitize_words(value[k][h]);
    }

    // c[half] += q k^T; `tile` as in QueryTile.
    template <int kTerms> __device__ __forceinline__ void logits(const Operand *tile, int dim, float (&c)[2][4]) const {
#pragma unroll
        for (int i = 0; i < kKeyLoads; ++i) {
            if (32 * i >= dim) break;
            uint32_t low[4], high[4];
            QueryTile<kDim>::load(tile, i, 0, true, low, high);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                mma<Operand>(c[half], low, key[half][i].x, key[half][i].y);
                mma<Operand>(c[half], high, key[half][i].z, key[half][i].w);
            }
        }
    }

    // sums[h][j] += p v
    template <int kTerms>
    __device__ __forceinline__ void weigh(const Probabilities &p, int dim, float (&sums)[kValueLoads][8][4]) const {
#pragma unroll
        for (int h = 0; h < kValueLoads; ++h) {
            if (64 * h >= dim) break;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const unsigned pick = j % 2 ? 0x7632 : 0x5410;
                mma<Operand>(sums[h][j], p.first, __byte_perm(word(value[0][h], j / 2), word(value[1][h], j / 2), pick),
                             __byte_perm(word(value[2][h], j / 2), word(value[3][h], j / 2), pick));
            }
        }
    }

  private:
    static __device__ __forceinline__ void sanitize_words(uint4 &words) {
        words.x = sanitize_pair<Element>(words.x), words.y = sanitize_pair<Element>(words.y);
        words.z = sanitize_pair<Element>(words.z), words.w = sanitize_pair<Element>(words.w);
    }
};

// float32 rows: each is split into three bfloat16 terms, whose products with the queries' terms add up to float32
// accuracy on the tensor cores.
template <int kDim> struct ExactRows<float, kDim> {
    static constexpr int kKeyLoads = kDim / 32, kValueLoads = kDim / 64;
    using Operand = __nv_bfloat16;

    const float *keys, *values;
    int first_key, first_value, rows, dim_;
    bool fresh_keys = false, fresh_values = false;

    __device__ __forceinline__ void load_keys(const void *from, int row, int n, int dim) {
        keys = static_cast<const float *>(from), first_key = row, rows = n, dim_ = dim;
    }
    __device__ __forceinline__ void load_values(const void *from, int row, int n, int dim) {
        values = static_cast<const float *>(from), first_value = row, rows = n, dim_ = dim;
    }
    __device__ __forceinline__ void sanitize_keys(bool wanted) { fresh_keys = wanted; }
    __device__ __forceinline__ void sanitize_values(bool wanted) { fresh_values = wanted; }

    // Eight channels of a row.
    __device__ __forceinline__ void channels(const float *from, int row, int channel, bool fresh, float (&x)[8]) const {
        float4 low = make_float4(0, 0, 0, 0), high = low;
        if (channel < dim_) {
            const float4 *at = reinterpret_cast<const float4 *>(from + size_t(min(row, rows - 1)) * dim_ + channel);
            low = __ldg(at), high = __ldg(at + 1);
        }
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
        if (fresh) {
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = sanitize(x[i]);
        }
    }

    template <int kTerms> __device__ __forceinline__ void logits(const Operand *tile, int dim, float (&c)[2][4]) const {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < kKeyLoads; ++i) {
            if (32 * i >= dim) break;
            uint32_t low[4], high[4], low3[4], high3[4];
            QueryTile<kDim>::load(tile, i, 0, true, low, high);
            QueryTile<kDim>::load(tile, i, 2, false, low3, high3);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float x[8];
                channels(keys, first_key + 8 * half + g, 32 * i + 8 * t, fresh_keys, x);
                Operand terms[8][3];
#pragma unroll
                for (int e = 0; e < 8; ++e) split<Operand, 3>(x[e], terms[e]);
#pragma unroll
                for (int term = 2; term >= 0; --term) {
                    mma<Operand>(c[half], low, pack(terms[0][term], terms[1][term]),
                                 pack(terms[2][term], terms[3][term]));
                    mma<Operand>(c[half], high, pack(terms[4][term], terms[5][term]),
                                 pack(terms[6][term], terms[7][term]));
                }
                mma<Operand>(c[half], low3, pack(terms[0][0], terms[1][0]), pack(terms[2][0], terms[3][0]));
                mma<Operand>(c[half], high3, pack(terms[4][0], terms[5][0]), pack(terms[6][0], terms[7][0]));
            }
        }
    }

    template <int kTerms>
    __device__ __forceinline__ void weigh(const Probabilities &p, int dim, float (&sums)[kValueLoads][8][4]) const {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int h = 0; h < kValueLoads; ++h) {
            if (64 * h >= dim) break;
            float x[4][8];
#pragma unroll
            for (int k = 0; k < 4; ++k)
                channels(values, first_value + 2 * t + k % 2 + k / 2 * 8, 64 * h + 8 * g, fresh_values, x[k]);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                Operand terms[4][3];
                float tile[4] = {}; // the tensor cores cut off what they add up, so not the sums of all tiles
#pragma unroll
                for (int k = 0; k < 4; ++k) split<Operand, 3>(x[k][j], terms[k]);
#pragma unroll
                for (int term = 2; term >= 0; --term)
                    mma<Operand>(tile, p.first, pack(terms[0][term], terms[1][term]),
                                 pack(terms[2][term], terms[3][term]));
                mma<Operand>(tile, p.third, pack(terms[0][0], terms[1][0]), pack(terms[2][0], terms[3][0]));
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[h][j][i] += tile[i];
            }
        }
    }
};

} // namespace retentive
