// Codes with few queries: an order of products in which no operand row is wasted on queries that are not there. Keys, and
// later values, are operand A, 16 rows or channels at a time; B has the 4 queries' (or probabilities') high bytes in
// columns 2 q and their low bytes in columns 2 q + 1.
#pragma once

#include "attention/split_codes.cuh"

namespace retentive {

// Operand B of four columns with two 16-bit numbers a lane, from lanes that have two rows of one column each.
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// Rows of codes and up to kFewQueries queries.
template <int kDim, int kBits> struct FewCodes : CodeRows<kDim, kBits> {
    using Codes = CodeRows<kDim, kBits>;
    using Codes::kHigh, Codes::kKeyLoads, Codes::kKeyWords, Codes::kOffset, Codes::kOffsets, Codes::kPerByte,
        Codes::kSigned, Codes::kValueLoads, Codes::kValueWords;
    static constexpr int kQueries = kFewQueries;
    static constexpr float kUnit = 1.0f / kHigh;

    using Sums = float[kDim / 16][2]; // [16 channels][first, second of the lane]
    struct Base {
        uint32_t queries[kDim / 32][2]; // operand B of a k step: a nibble of the two words of a load, or all of them
        int sum[4] = {};                // what the products begin with: less what the offset adds
    };

    // The high or low bytes of query g / 2.
    static __device__ __forceinline__ Base base(const uint4 *fragments) {
        const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
        Base base;
#pragma unroll
        for (int step = 0; step < kDim / 32; ++step)
#pragma unroll
            for (int word = 0; word < 2; ++word) {
                const int unit = step / kPerByte * 2 * kPerByte + word * kPerByte + step % kPerByte;
                const uint4 *from = fragments + unit / 2 * kWarpSize + 4 * (g / 2) + t;
                base.queries[step][word] = reinterpret_cast<const uint32_t *>(from)[unit % 2 * 2 + g % 2];
            }
        if constexpr (kOffset != 0) {
            const uint32_t offsets[4] = {kOffsets, kOffsets, kOffsets, kOffsets};
#pragma unroll
            for (int step = 0; step < kDim / 32; ++step)
                mma<false, true>(base.sum, offsets, base.queries[step], base.sum);
#pragma unroll
            for (int &x : base.sum) x = -x;
        }
        return base;
    }

    // q k^T over kUnit times q's factor: of query t with rows first_row() + 8 part + k.
    template <int kParts>
    static __device__ __forceinline__ void products(const uint4 *, const Base &base, const char *stage,
                                                    float (&x)[kParts][2]) {
        const int first = StageLanes<kFewQueries, 16 * kParts>::first_row();
        int c[kPerByte][kParts][4];
#pragma unroll
        for (int nibble = 0; nibble < kPerByte; ++nibble)
#pragma unroll
            for (int part = 0; part < kParts; ++part)
#pragma unroll
                for (int i = 0; i < 4; ++i) c[nibble][part][i] = nibble == 0 ? base.sum[i] : 0;
#pragma unroll
        for (int load = 0; load < kKeyLoads; ++load) {
            uint32_t words[kParts][2][kKeyWords];
#pragma unroll
            for (int part = 0; part < kParts; ++part)
#pragma unroll
                for (int k = 0; k < 2; ++k) Codes::key_words(stage, first + 8 * part + k, load, words[part][k]);
#pragma unroll
            for (int nibble = 0; nibble < kPerByte; ++nibble)
#pragma unroll
                for (int part = 0; part < kParts; ++part) {
                    const uint32_t a[4] = {
                        Codes::pick(words[part][0][0], nibble), Codes::pick(words[part][1][0], nibble),
                        Codes::pick(words[part][0][1], nibble), Codes::pick(words[part][1][1], nibble)};
                    mma<kSigned, true>(c[nibble][part], a, base.queries[load * kPerByte + nibble], c[nibble][part]);
                }
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                int high = c[0][part][2 * k], low = c[0][part][2 * k + 1];
                if constexpr (!kSigned)
                    high = kHigh * high + c[1][part][2 * k], low = kHigh * low + c[1][part][2 * k + 1];
                x[part][k] = float(256 * high + low);
            }
    }

    // sums += p v; p >= 0 with the values' scales.
    template <int kParts>
    static __device__ __forceinline__ void weigh(const float (&p)[kParts][2], const char *stage, Sums &sums) {
        const int t = threadIdx.x % 4;
        uint32_t b[kParts]; // rows as value_words() below
        const float factor = integers(p, b);
        int begin[4] = {}; // the products, less the codes' offset
        if constexpr (kOffset != 0) {
            uint32_t offsets[2 * kParts];
#pragma unroll
            for (uint32_t &x : offsets) x = kOffsets;
            mma<false, false>(begin, offsets, b, begin);
            begin[0] = -begin[0], begin[1] = -begin[1];
            begin[2] = kHigh * begin[0], begin[3] = kHigh * begin[1];
        }
#pragma unroll
        for (int load = 0; load < kValueLoads; ++load) {
            uint32_t words[kParts][4][kValueWords];
#pragma unroll
            for (int part = 0; part < kParts; ++part)
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    Codes::value_words(stage, 2 * t + 8 * part + k % 2 + k / 2 * 8 * kParts, load, words[part][k]);
            // A tile's first and second channels: nibbles of a byte, or a byte of two words.
#pragma unroll
            for (int word = 0; word < kValueWords; word += 2 / kPerByte) {
                uint32_t bytes[kParts][2][4];
#pragma unroll
                for (int part = 0; part < kParts; ++part)
#pragma unroll
                    for (int i = 0; i < 2 / kPerByte; ++i) transpose_bytes(words[part], word + i, bytes[part][i]);
#pragma unroll
                for (int byte = 0; byte < 4; ++byte) {
                    uint32_t a[2 * kParts];
#pragma unroll
                    for (int part = 0; part < kParts; ++part)
#pragma unroll
                        for (int side = 0; side < 2; ++side)
                            a[2 * part + side] =
                                kSigned ? bytes[part][side][byte] : Codes::pick(bytes[part][0][byte], side);
                    int c[4];
                    mma<kSigned, false>(c, a, b, begin);
                    float (&sum)[2] = sums[tile_of(load, word, byte)];
#pragma unroll
                    for (int side = 0; side < 2; ++side)
                        sum[side] = fmaf(float(256 * c[2 * side] + c[2 * side + 1]),
                                         side == 0 ? factor : factor * (1.0f / kHigh), sum[side]);
                }
            }
        }
    }

    // The lane's channels of query t.
    static __device__ __forceinline__ void store(const Sums &sums, float *to) {
        const int g = threadIdx.x % kWarpSize / 4;
#pragma unroll
        for (int load = 0; load < kValueLoads; ++load)
#pragma unroll
            for (int word = 0; word < kValueWords; ++word)
#pragma unroll
                for (int nibble = 0; nibble < kPerByte; ++nibble) {
                    float x[4];
#pragma unroll
                    for (int byte = 0; byte < 4; ++byte)
                        x[byte] = sums[tile_of(load, word, byte)][kSigned ? word % 2 : nibble];
                    *reinterpret_cast<float4 *>(to + nibble * (kDim / 2) + 64 * load + 4 * (kValueWords * g + word)) =
                        make_float4(x[0], x[1], x[2], x[3]);
                }
    }

  private:
    // The query's probabilities over the returned factor: operand B.
    template <int kParts>
    static __device__ __forceinline__ float integers(const float (&p)[kParts][2], uint32_t (&b)[kParts]) {
        const StageFactor factor = StageFactor::of<kQueries>(p);
#pragma unroll
        for (int part = 0; part < kParts; ++part)
            b[part] = transpose(__byte_perm(factor.integer(p[part][0]), factor.integer(p[part][1]), 0x4051));
        return factor.value();
    }

    static __device__ __forceinline__ int tile_of(int load, int word, int byte) {
        return (load * kValueWords + word) / (2 / kPerByte) * 4 + byte;
    }
};

} // namespace retentive
