// Staged rows of codes as operands of the integer matrix instructions m16n8k32 and m16n8k16, lane = 4 g + t. Queries and
// probabilities are integers of 16 bits beside a factor; operand A has the 8 queries' (or probabilities') high bytes in
// rows 0-7 and their low bytes in rows 8-15. B has codes as they are stored: int8, or int4's nibbles with their offset,
// which the sums begin without. The order of k and of the value columns is free: lanes take the one in which the bytes
// come cheapest.
#pragma once

#include "attention/split_rows.cuh"

namespace retentive {

// d = a b + c, 8-bit integers, exactly. A has 16 rows and k = 32 (four registers) or 16 (two), B k rows and 8 columns.
template <bool kSignedA, bool kSignedB>
__device__ __forceinline__ void mma(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
#define RETENTIVE_MMA(A, B)                                                                                            \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." A "." B ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "       \
                 "{%10,%11,%12,%13};"                                                                                  \
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),  \
                   "r"(c[3]))
    if constexpr (kSignedA && kSignedB)
        RETENTIVE_MMA("s8", "s8");
    else if constexpr (kSignedA)
        RETENTIVE_MMA("s8", "u8");
    else if constexpr (kSignedB)
        RETENTIVE_MMA("u8", "s8");
    else
        RETENTIVE_MMA("u8", "u8");
#undef RETENTIVE_MMA
}
template <bool kSignedA, bool kSignedB>
__device__ __forceinline__ void mma(int (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int (&c)[4]) {
    static_assert(!kSignedA || !kSignedB, "probabilities are one of them");
#define RETENTIVE_MMA(A, B)                                                                                            \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32." A "." B ".s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "                \
                 "{%7,%8,%9,%10};"                                                                                     \
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]))
    if constexpr (kSignedA)
        RETENTIVE_MMA("s8", "u8");
    else if constexpr (kSignedB)
        RETENTIVE_MMA("u8", "s8");
    else
        RETENTIVE_MMA("u8", "u8");
#undef RETENTIVE_MMA
}

// A query is an integer of at most this magnitude times its factor: 256 times a signed byte, and another signed byte.
constexpr float kLargestQuery = 127.0f * 256.0f;

// Of a query's probabilities of a stage, which then are integers: a power of two that leaves the largest 15 or 16 bits.
class StageFactor {
  public:
    // `p`: what the lane has of the query, as StageLanes.
    template <int kQueries, int kParts> static __device__ __forceinline__ StageFactor of(const float (&p)[kParts][2]) {
        float most = 0.0f;
#pragma unroll
        for (int part = 0; part < kParts; ++part) most = fmaxf(most, fmaxf(p[part][0], p[part][1]));
        return StageFactor(StageLanes<kQueries, 2 * kWarpSize * kParts / kQueries>::largest(most));
    }

    __device__ __forceinline__ float value() const { return __uint_as_float((exponent_ - kBitsLess) << 23); }
    // In the last 16 bits: 2^23 has the ones in its last bit.
    __device__ __forceinline__ uint32_t integer(float p) const { return __float_as_uint(fmaf(p, inverse_, 0x1p23f)); }

  private:
    static constexpr float kRoundsUp = 1.0f + 0x1p-16f; // no number becomes 2^16
    static constexpr unsigned kBias = 127, kBitsLess = 15;

    __device__ __forceinline__ explicit StageFactor(float most) {
        exponent_ = max(__float_as_uint(most * kRoundsUp) >> 23, kBitsLess + 1);
        inverse_ = __uint_as_float((2 * kBias + kBitsLess - exponent_) << 23);
    }

    unsigned exponent_;
    float inverse_;
};

// Bytes b of four rows' words number `word`, for each b.
template <int kWords>
__device__ __forceinline__ void transpose_bytes(const uint32_t (&rows)[4][kWords], int word, uint32_t (&bytes)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const unsigned pick = half == 0 ? 0x5140 : 0x7362;
        const uint32_t y = __byte_perm(rows[0][word], rows[1][word], pick),
                       z = __byte_perm(rows[2][word], rows[3][word], pick);
        bytes[2 * half] = __byte_perm(y, z, 0x5410), bytes[2 * half + 1] = __byte_perm(y, z, 0x7632);
    }
}

// Rows of codes in shared memory: int8, or packed int4. Queries carry the keys' scale per channel, probabilities the
// values' scale per row.
template <int kDim, int kBits> struct CodeRows {
    static constexpr int kRowBytes = kDim * kBits / 8;
    static constexpr bool kCodes = true, kSigned = kBits == 8;
    static constexpr float kRoom = 8.0f;            // see StagedExact
    static constexpr int kPerByte = 8 / kBits;      // codes
    static constexpr int kOffset = kSigned ? 0 : 8; // that codes are stored with
    static constexpr uint32_t kOffsets = 0x01010101u * kOffset;
    static constexpr int kHigh = kSigned ? 1 : 16; // times the code: what a byte's second code, where it is, goes in as
    static constexpr int kKeyWords = 2;            // a lane takes at once
    static constexpr int kKeyLoads = kRowBytes / (16 * kKeyWords);
    static constexpr int kValueWords = kRowBytes >= 64 ? 2 : 1;
    static constexpr int kValueLoads = kRowBytes >= 64 ? kRowBytes / 64 : 1;

    // Queries come four channels at a time, of which two make a k step: the bytes of a lane's words in turn.
    static __device__ __forceinline__ int channel(int unit, int t, int e) {
        const int place = unit / kPerByte, load = place / kKeyWords, word = place % kKeyWords;
        return unit % kPerByte * (kDim / 2) + 16 * kKeyWords * load + 4 * (kKeyWords * t + word) + e;
    }

  protected:
    // A code of each byte: all of it, or a nibble, the high one as kHigh times the code.
    static __device__ __forceinline__ uint32_t pick(uint32_t bytes, int nibble) {
        return kSigned ? bytes : bytes & (nibble == 0 ? 0x0f0f0f0fu : 0xf0f0f0f0u);
    }
    // Words that a lane has of a row of a stage: of its keys, those of t; of its values, those of g.
    static __device__ __forceinline__ void key_words(const char *stage, int row, int load,
                                                     uint32_t (&words)[kKeyWords]) {
        const int t = threadIdx.x % 4;
        load_words(stage + place_of<kRowBytes, true>(row, kKeyWords * load + t / 2) + t % 2 * 8, words);
    }
    static __device__ __forceinline__ void value_words(const char *stage, int row, int load,
                                                       uint32_t (&words)[kValueWords]) {
        const int g = threadIdx.x % kWarpSize / 4;
        load_words(stage + place_of<kRowBytes, true>(row, 4 * load + kValueWords * g / 4) + kValueWords * 4 * g % 16,
                   words);
    }

  private:
    static __device__ __forceinline__ void load_words(const char *at, uint32_t (&words)[2]) {
        const uint2 x = *reinterpret_cast<const uint2 *>(at);
        words[0] = x.x, words[1] = x.y;
    }
    static __device__ __forceinline__ void load_words(const char *at, uint32_t (&words)[1]) {
        words[0] = *reinterpret_cast<const uint32_t *>(at);
    }
};

// Their products with 8 queries, which are operand A.
template <int kDim, int kBits> struct StagedCodes : CodeRows<kDim, kBits> {
    using Codes = CodeRows<kDim, kBits>;
    using Codes::kHigh, Codes::kKeyLoads, Codes::kKeyWords, Codes::kOffset, Codes::kOffsets, Codes::kPerByte,
        Codes::kSigned, Codes::kValueLoads, Codes::kValueWords;
    static constexpr int kQueries = kTileQueries;
    static constexpr float kUnit = 1.0f;

    using Sums = float[kDim / 8][2]; // [8 channels][2 t, 2 t + 1]
    struct Base {                    // what the products of queries and keys begin with: less what the offset adds
        int sum[4] = {};
    };

    static __device__ __forceinline__ Base base(const uint4 *fragments) {
        Base base;
        if constexpr (kOffset != 0) {
            const uint32_t offsets[2] = {kOffsets, kOffsets};
#pragma unroll
            for (int step = 0; step < kDim / 32; ++step) {
                uint32_t a[4];
                load_fragment(fragments, step, a);
                mma<true, false>(base.sum, a, offsets, base.sum);
            }
#pragma unroll
            for (int &x : base.sum) x = -x;
        }
        return base;
    }

    // q k^T over q's factor, of 8 rows a part: of the lane's query with rows 2 t, 2 t + 1.
    template <int kParts>
    static __device__ __forceinline__ void products(const uint4 *fragments, const Base &base, const char *stage,
                                                    float (&x)[kParts][2]) {
        const int g = threadIdx.x % kWarpSize / 4;
        int c[kParts][4];
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int i = 0; i < 4; ++i) c[part][i] = base.sum[i];
#pragma unroll
        for (int load = 0; load < kKeyLoads; ++load) {
            uint32_t words[kParts][kKeyWords];
#pragma unroll
            for (int part = 0; part < kParts; ++part) Codes::key_words(stage, 8 * part + g, load, words[part]);
#pragma unroll
            for (int i = 0; i < kKeyWords * kPerByte / 2; ++i) { // two words of int8, or one of int4
                uint32_t a[4];
                load_fragment(fragments, load * kKeyWords * kPerByte / 2 + i, a);
#pragma unroll
                for (int part = 0; part < kParts; ++part) {
                    const uint32_t b[2] = {kSigned ? words[part][0] : words[part][i] & 0x0f0f0f0fu,
                                           kSigned ? words[part][1] : words[part][i] >> 4 & 0x0f0f0f0fu};
                    mma<true, kSigned>(c[part], a, b, c[part]);
                }
            }
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) x[part][k] = float(256 * c[part][k] + c[part][k + 2]);
    }

    // sums += p v, 8 rows a part; p >= 0 with the values' scales.
    template <int kParts>
    static __device__ __forceinline__ void weigh(const float (&p)[kParts][2], const char *stage, Sums &sums) {
        const int t = threadIdx.x % 4;
        uint32_t a[kParts];
        const float factor = integers(p, a);
        // The products begin without the codes' offset. A byte's high nibble goes in as kHigh times the code.
        int low[4] = {}, high[4] = {};
        if constexpr (kOffset != 0) {
            uint32_t offsets[kParts / 2];
#pragma unroll
            for (uint32_t &x : offsets) x = kOffsets;
            mma<false, false>(low, a, offsets, low);
#pragma unroll
            for (int i = 0; i < 4; ++i) low[i] = -low[i], high[i] = kHigh * low[i];
        }
#pragma unroll
        for (int load = 0; load < kValueLoads; ++load) {
            uint32_t words[kParts / 2][4][kValueWords]; // of rows 2 t, 2 t + 1 of each part
#pragma unroll
            for (int pair = 0; pair < kParts / 2; ++pair)
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    Codes::value_words(stage, 16 * pair + 2 * t + k % 2 + k / 2 * 8, load, words[pair][k]);
#pragma unroll
            for (int word = 0; word < kValueWords; ++word) {
                uint32_t bytes[kParts / 2][4]; // [16 rows][byte of the word]: the four rows' bytes
#pragma unroll
                for (int pair = 0; pair < kParts / 2; ++pair) transpose_bytes(words[pair], word, bytes[pair]);
#pragma unroll
                for (int byte = 0; byte < 4; ++byte) {
                    const int tile = (load * 4 * kValueWords + 4 * word + byte) * kPerByte;
                    uint32_t b[kPerByte][kParts / 2];
#pragma unroll
                    for (int pair = 0; pair < kParts / 2; ++pair)
#pragma unroll
                        for (int nibble = 0; nibble < kPerByte; ++nibble)
                            b[nibble][pair] = Codes::pick(bytes[pair][byte], nibble);
                    add(a, b[0], low, factor, sums[tile]);
                    if constexpr (!kSigned) add(a, b[1], high, factor * (1.0f / kHigh), sums[tile + 1]);
                }
            }
        }
    }

    // The lane's channels of query g.
    static __device__ __forceinline__ void store(const Sums &sums, float *to) {
        const int t = threadIdx.x % 4;
        constexpr int kBytes = 4 * kValueWords; // of a lane's load
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int half = 0; half < kPerByte; ++half)
#pragma unroll
                for (int load = 0; load < kValueLoads; ++load)
#pragma unroll
                    for (int byte = 0; byte < kBytes; byte += 4) {
                        float x[4];
#pragma unroll
                        for (int i = 0; i < 4; ++i) x[i] = sums[(load * kBytes + byte + i) * kPerByte + half][n];
                        *reinterpret_cast<float4 *>(to + half * (kDim / 2) + 64 * load + kBytes * (2 * t + n) + byte) =
                            make_float4(x[0], x[1], x[2], x[3]);
                    }
    }

  private:
    // The query's probabilities over the returned factor: operand A, high and low bytes in turn.
    template <int kParts>
    static __device__ __forceinline__ float integers(const float (&p)[kParts][2], uint32_t (&a)[kParts]) {
        const StageFactor factor = StageFactor::of<kQueries>(p);
#pragma unroll
        for (int part = 0; part < kParts; part += 2) {
            uint32_t pairs[2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                pairs[i] = __byte_perm(factor.integer(p[part + i][0]), factor.integer(p[part + i][1]), 0x5410);
            a[part] = __byte_perm(pairs[0], pairs[1], 0x7531), a[part + 1] = __byte_perm(pairs[0], pairs[1], 0x6420);
        }
        return factor.value();
    }

    template <int kParts, int kHalf>
    static __device__ __forceinline__ void add(const uint32_t (&a)[kParts], const uint32_t (&b)[kHalf],
                                               const int (&begin)[4], float factor, float (&sum)[2]) {
        int c[4];
        mma<false, kSigned>(c, a, b, begin);
#pragma unroll
        for (int n = 0; n < 2; ++n) sum[n] = fmaf(float(256 * c[n] + c[n + 2]), factor, sum[n]);
    }
};

} // namespace retentive
