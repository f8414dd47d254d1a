// A tile of 16 quantised rows, laid out as in rows.cuh. Codes are integers that bfloat16 holds exactly; the keys' scale
// per channel is in the queries, the values' scale per row in the probabilities.
#pragma once

#include "attention/codes.cuh"
#include "attention/rows.cuh"

namespace retentive {

// Interface of both: load_keys, load_values, logits, weigh as in ExactRows, `codes` [n, D] int8 or [n, D/2] packed
// int4.
template <int kDim, int kBits> struct CoarseRows;

// c[half] += q k^T over all channels, with the keys' operands of block i from `operands(half, i, pairs)`.
template <int kDim, int kTerms, typename Operands>
__device__ __forceinline__ void coarse_logits(const __nv_bfloat16 *tile, int dim, float (&c)[2][4], Operands operands) {
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
        if (32 * i >= dim) break;
        uint32_t low[4], high[4], low3[4], high3[4];
        QueryTile<kDim>::load(tile, i, 0, true, low, high);
        if constexpr (kTerms == 3) QueryTile<kDim>::load(tile, i, 2, false, low3, high3);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t b[4];
            operands(half, i, b);
            mma<__nv_bfloat16>(c[half], low, b[0], b[1]);
            mma<__nv_bfloat16>(c[half], high, b[2], b[3]);
            if constexpr (kTerms == 3) {
                mma<__nv_bfloat16>(c[half], low3, b[0], b[1]);
                mma<__nv_bfloat16>(c[half], high3, b[2], b[3]);
            }
        }
    }
}

template <int kTerms>
__device__ __forceinline__ void coarse_weigh(const Probabilities &p, float (&sums)[4], uint32_t b0, uint32_t b1) {
    mma<__nv_bfloat16>(sums, p.first, b0, b1);
    if constexpr (kTerms == 3) mma<__nv_bfloat16>(sums, p.third, b0, b1);
}

template <int kDim> struct CoarseRows<kDim, 8> : LoadedRows<uint2, kDim> {
    using Loaded = LoadedRows<uint2, kDim>;
    using Loaded::kKeyLoads, Loaded::kValueLoads, Loaded::key, Loaded::value;
    using Operand = __nv_bfloat16;

    __device__ __forceinline__ void sanitize_keys(bool) const {} // codes are finite
    __device__ __forceinline__ void sanitize_values(bool) const {}

    template <int kTerms>
    __device__ __forceinline__ void logits(const __nv_bfloat16 *tile, int dim, float (&c)[2][4]) const {
        coarse_logits<kDim, kTerms>(tile, dim, c, [this](int half, int i, uint32_t (&b)[4]) {
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                b[pair] = int8_pair(word(key[half][i], pair / 2), pair % 2 * 2);
            }
        });
    }

    template <int kTerms>
    __device__ __forceinline__ void weigh(const Probabilities &p, int dim, float (&sums)[kValueLoads][8][4]) const {
#pragma unroll
        for (int h = 0; h < kValueLoads; ++h) {
            if (64 * h >= dim) break;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float x[4];
#pragma unroll
                for (int k = 0; k < 4; ++k) x[k] = int8_code(word(value[k][h], j / 4), j % 4);
                coarse_weigh<kTerms>(p, sums[h][j], bfloat16_pair(x[0], x[1]), bfloat16_pair(x[2], x[3]));
            }
        }
    }
};

template <int kDim> struct CoarseRows<kDim, 4> {
    // A byte holds the nibbles of two blocks of channels: with D = kDim just as it is stored.
    static constexpr int kKeyLoads = kDim / 64;
    static constexpr int kValueLoads = kDim / 128 > 0 ? kDim / 128 : 1;
    using Operand = __nv_bfloat16;

    uint2 key[2][kKeyLoads];
    uint2 value[4][kValueLoads];

    __device__ __forceinline__ void load_keys(const void *codes, int row, int n, int dim) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const char *at = static_cast<const char *>(codes) + size_t(min(row + 8 * half + g, n - 1)) * (dim / 2);
#pragma unroll
            for (int i = 0; i < kKeyLoads; ++i) {
                if (dim == kDim) {
                    key[half][i] = load_word<uint2>(at + 32 * i + 8 * t);
                } else {
                    const uint2 low = nibbles(at, 32 * i + 8 * t, dim),
                                high = nibbles(at, 32 * (i + kKeyLoads) + 8 * t, dim);
                    key[half][i] = make_uint2(low.x | high.x << 4, low.y | high.y << 4);
                }
            }
        }
    }

    __device__ __forceinline__ void load_values(const void *codes, int row, int n, int dim) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int at_row = min(row + 2 * t + k % 2 + k / 2 * 8, n - 1);
            const char *at = static_cast<const char *>(codes) + size_t(at_row) * (dim / 2);
#pragma unroll
            for (int h = 0; h < kValueLoads; ++h) {
                if (kDim >= 128 && dim == kDim) {
                    value[k][h] = load_word<uint2>(at + 64 * h + 8 * g);
                } else {
                    const uint2 low = nibbles(at, 64 * h + 8 * g, dim);
                    const uint2 high =
                        kDim >= 128 ? nibbles(at, 64 * (h + kValueLoads) + 8 * g, dim) : make_uint2(0, 0);
                    value[k][h] = make_uint2(low.x | high.x << 4, low.y | high.y << 4);
                }
            }
        }
    }

    __device__ __forceinline__ void sanitize_keys(bool) const {} // codes are finite
    __device__ __forceinline__ void sanitize_values(bool) const {}

    template <int kTerms>
    __device__ __forceinline__ void logits(const __nv_bfloat16 *tile, int dim, float (&c)[2][4]) const {
        coarse_logits<kDim, kTerms>(tile, dim, c, [this](int half, int i, uint32_t (&b)[4]) {
            const bool high = i >= kKeyLoads;
            const uint2 both = key[half][high ? i - kKeyLoads : i];
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                const uint32_t packed = word(both, pair / 2);
                const uint32_t codes = (high ? packed >> 4 : packed) & 0x0f0f0f0fu;
                b[pair] = int4_pair(codes, pair % 2);
            }
        });
    }

    template <int kTerms>
    __device__ __forceinline__ void weigh(const Probabilities &p, int dim, float (&sums)[kDim / 64][8][4]) const {
#pragma unroll
        for (int h = 0; h < kDim / 64; ++h) {
            if (64 * h >= dim) break;
            const bool high = h >= kValueLoads;
            const int from = high ? h - kValueLoads : h;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const unsigned pick = 0x4400 + 0x1111 * (j % 4);
                uint32_t b[2];
#pragma unroll
                for (int pair = 0; pair < 2; ++pair) {
                    uint32_t packed =
                        __byte_perm(word(value[2 * pair][from], j / 4), word(value[2 * pair + 1][from], j / 4), pick);
                    if (high) packed >>= 4;
                    b[pair] = less_136((packed & 0x000f000fu) | 0x43004300u);
                }
                coarse_weigh<kTerms>(p, sums[h][j], b[0], b[1]);
            }
        }
    }

  private:
    // Nibbles of the eight channels from `channel` on, a byte each; the nibble of code 0 behind the last channel.
    static __device__ __forceinline__ uint2 nibbles(const char *row, int channel, int dim) {
        uint32_t words[2] = {0x08080808u, 0x08080808u};
        const int half = dim / 2;
        if (channel >= dim) return make_uint2(words[0], words[1]);
        if (dim % 16 == 0) {
            const bool high = channel >= half;
            const uint2 bytes = load_word<uint2>(row + (high ? channel - half : channel));
            words[0] = (high ? bytes.x >> 4 : bytes.x) & 0x0f0f0f0fu;
            words[1] = (high ? bytes.y >> 4 : bytes.y) & 0x0f0f0f0fu;
            return make_uint2(words[0], words[1]);
        }
        words[0] = words[1] = 0; // head sizes that are no multiple of 16: the halves do not fall on eight channels
        for (int e = 0; e < 8; ++e) {
            const int c = channel + e;
            const uint32_t byte =
                static_cast<const unsigned char *>(static_cast<const void *>(row))[c < half ? c : c - half];
            words[e / 4] |= (c < half ? byte & 15u : byte >> 4) << (8 * (e % 4));
        }
        return make_uint2(words[0], words[1]);
    }
};

} // namespace retentive
