// Staged rows as operands of the matrix instruction m16n8k16, lane = 4 g + t. Operand A has the 8 queries' (or
// probabilities') roundings in rows 0-7 and their rounding errors in rows 8-15; B has keys, column g = row g of an
// 8-row part and k = channels, or values, k = 16 rows and column g = a channel. The order of k and of the value columns
// is free: each kind of rows takes the one in which its bytes come cheapest.
#pragma once

#include "attention/rows.cuh"
#include "attention/staging.cuh"

namespace retentive {

// Four 8 x 8 matrices of 16-bit numbers, lane 8 m + i giving the address of row i of matrix m.
__device__ __forceinline__ void load_matrices(const char *row, uint32_t (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_transposed(const char *row, uint32_t (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Operand A of one k step, from where stage_fragments() put it.
__device__ __forceinline__ void load_fragment(const uint4 *fragments, int step, uint32_t (&a)[4]) {
    const uint4 x = fragments[step * kWarpSize + threadIdx.x % kWarpSize];
    a[0] = x.x, a[1] = x.y, a[2] = x.z, a[3] = x.w;
}

// Sums of a warp: [column tile][column 2 t, 2 t + 1 of the rounded operand, then of the errors].
template <int kDim> using Sums = float[kDim / 8][4];

// Rows of the exact store (or new tokens) in a 16-bit type.
template <typename Element, int kDim> struct StagedExact {
    using Operand = Element;
    static constexpr int kRowBytes = kDim * 2;
    static constexpr bool kCodes = false, kFresh = true;
    static constexpr int kStages = 1;      // that a warp has under way
    static constexpr float kOffset = 0.0f; // what the operands are too large by

    static __device__ __forceinline__ int channel(int step, int t, int e) {
        return 16 * step + 2 * t + e % 2 + e / 2 * 8;
    }

    // c[part] += q k^T of 8 rows each. Channels behind the last one are zeros on both sides.
    template <int kParts>
    static __device__ __forceinline__ void logits(const uint4 *fragments, const char *stage, float (&c)[kParts][4]) {
        const int lane = threadIdx.x % kWarpSize;
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
    }

    // sums += p v of the 16 rows from `row` on.
    static __device__ __forceinline__ void weigh(const uint32_t (&p)[4], const char *stage, int row, Sums<kDim> &sums) {
        const int lane = threadIdx.x % kWarpSize;
#pragma unroll
        for (int j = 0; j < kDim / 8; j += 2) {
            uint32_t b[4];
            load_transposed(stage + place_of<kRowBytes, kCodes>(row + lane % 16, j + lane / 16), b);
            mma<Operand>(sums[j], p, b[0], b[1]);
            mma<Operand>(sums[j + 1], p, b[2], b[3]);
        }
    }

    // The lane's channels of query g, less `surplus` (rounded, error), at `to`.
    static __device__ __forceinline__ void store(const Sums<kDim> &sums, const float (&)[4], float *to) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j)
            *reinterpret_cast<float2 *>(to + 8 * j + 2 * t) =
                make_float2(sums[j][0] + sums[j][2], sums[j][1] + sums[j][3]);
    }
};

// Rows of codes: int8, or packed int4, which go in as 128 + (code + 8) and lose the offset in the sums. Queries carry the
// keys' scale per channel, probabilities the values' scale per row.
template <int kDim, int kBits> struct StagedCodes {
    using Operand = __nv_bfloat16;
    static constexpr int kRowBytes = kDim * kBits / 8;
    static constexpr bool kCodes = true, kFresh = false;
    static constexpr int kStages = kBits == 4 ? 2 : 1; // that a warp has under way, in the space of exact rows
    static constexpr float kOffset = kBits == 4 ? 136.0f : 0.0f;
    static constexpr int kStepsPerWord = 8 / kBits; // k steps
    static constexpr int kKeyWords = 2;             // a lane takes at once
    static constexpr int kKeyLoads = kRowBytes / (16 * kKeyWords);
    static constexpr int kValueWords = kRowBytes >= 64 ? 2 : 1;
    static constexpr int kValueLoads = kRowBytes >= 64 ? kRowBytes / 64 : 1;

    // A lane's word has channels c, c + 2 in one operand word and c + 1, c + 3 in the other.
    static __device__ __forceinline__ int channel(int step, int t, int e) {
        const int place = step / kStepsPerWord, load = place / kKeyWords, word = place % kKeyWords;
        const int byte = 16 * kKeyWords * load + 4 * (kKeyWords * t + word) + (e == 1 ? 2 : e == 2 ? 1 : e);
        return step % kStepsPerWord * (kDim / 2) + byte;
    }

    template <int kParts>
    static __device__ __forceinline__ void logits(const uint4 *fragments, const char *stage, float (&c)[kParts][4]) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll 1 // the instruction cache is small
        for (int load = 0; load < kKeyLoads; ++load) {
            uint32_t codes[kParts][kKeyWords];
#pragma unroll
            for (int part = 0; part < kParts; ++part)
                load_codes(stage + place_of<kRowBytes, true>(8 * part + g, kKeyWords * load + t / 2) + t % 2 * 8,
                           codes[part]);
#pragma unroll
            for (int word = 0; word < kKeyWords; ++word)
#pragma unroll
                for (int half = 0; half < kStepsPerWord; ++half) {
                    uint32_t a[4];
                    load_fragment(fragments, (load * kKeyWords + word) * kStepsPerWord + half, a);
#pragma unroll
                    for (int part = 0; part < kParts; ++part) {
                        const uint32_t x = codes[part][word] >> (kBits == 4 ? 4 * half : 0);
                        mma<Operand>(c[part], a, operand(x), operand(x >> 8));
                    }
                }
        }
    }

    static __device__ __forceinline__ void weigh(const uint32_t (&p)[4], const char *stage, int row, Sums<kDim> &sums) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int load = 0; load < kValueLoads; ++load) {
            uint32_t codes[4][kValueWords];
#pragma unroll
            for (int k = 0; k < 4; ++k)
                load_codes(
                    stage + place_of<kRowBytes, true>(row + 2 * t + k % 2 + k / 2 * 8, 4 * load + kValueWords * g / 4) +
                        kValueWords * 4 * g % 16,
                    codes[k]);
#pragma unroll
            for (int word = 0; word < kValueWords; ++word)
#pragma unroll
                for (int pair = 0; pair < 2; ++pair) { // bytes 0 and 1, then 2 and 3
                    const unsigned pick = pair == 0 ? 0x5410 : 0x7632;
                    const uint32_t low = __byte_perm(codes[0][word], codes[1][word], pick);
                    const uint32_t high = __byte_perm(codes[2][word], codes[3][word], pick);
                    const int byte = load * 8 + word * 4 + pair * 2;
#pragma unroll
                    for (int i = 0; i < 2 * kStepsPerWord; ++i)
                        mma<Operand>(sums[byte * kStepsPerWord + i], p, operand(low >> kBits * i),
                                     operand(high >> kBits * i));
                }
        }
    }

    static __device__ __forceinline__ void store(const Sums<kDim> &sums, const float (&surplus)[4], float *to) {
        const int t = threadIdx.x % 4;
        constexpr int kBytes = 4 * kValueWords; // of a lane's load
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int half = 0; half < kStepsPerWord; ++half)
#pragma unroll
                for (int load = 0; load < kValueLoads; ++load)
#pragma unroll
                    for (int byte = 0; byte < kBytes; byte += 4) {
                        float x[4];
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const float (&sum)[4] = sums[(load * kBytes + byte + i) * kStepsPerWord + half];
                            x[i] = (sum[n] - surplus[n]) + (sum[n + 2] - surplus[n + 2]);
                        }
                        *reinterpret_cast<float4 *>(to + half * (kDim / 2) + 64 * load + kBytes * (2 * t + n) + byte) =
                            make_float4(x[0], x[1], x[2], x[3]);
                    }
    }

  private:
    static __device__ __forceinline__ void load_codes(const char *at, uint32_t (&words)[4]) {
        const uint4 x = *reinterpret_cast<const uint4 *>(at);
        words[0] = x.x, words[1] = x.y, words[2] = x.z, words[3] = x.w;
    }
    static __device__ __forceinline__ void load_codes(const char *at, uint32_t (&words)[2]) {
        const uint2 x = *reinterpret_cast<const uint2 *>(at);
        words[0] = x.x, words[1] = x.y;
    }
    static __device__ __forceinline__ void load_codes(const char *at, uint32_t (&words)[1]) {
        words[0] = *reinterpret_cast<const uint32_t *>(at);
    }

    // Two operands from the low bits of the word's 16-bit halves.
    static __device__ __forceinline__ uint32_t operand(uint32_t codes) {
        if constexpr (kBits == 4) {
            return (codes & 0x000f000fu) | 0x43004300u; // 128 + nibble
        } else { // 128 + low seven bits, less 128 or, where the code is negative, 256
            const uint32_t low = (codes & 0x007f007fu) | 0x43004300u, base = (codes & 0x00800080u) | 0x43004300u;
            __nv_bfloat162 x, y;
            memcpy(&x, &low, sizeof low), memcpy(&y, &base, sizeof base);
            x = __hsub2(x, y);
            return pack(x.x, x.y);
        }
    }
};

} // namespace retentive
