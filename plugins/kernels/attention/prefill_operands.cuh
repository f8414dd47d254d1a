// Operands of prefill, which has many queries. The matrix instruction is m16n8k16, lane = 4 g + t: operand A has 16
// queries of a warp, of which the lane has g and g + 8; B has rows, which lie in shared memory as numbers of 16 bits for
// all warps of a block. Queries and exact rows are operands as they are, and their scale comes behind the product; for
// codes, queries carry the keys' scale and count with two bfloat16 terms, their rounding and its error. Probabilities
// always have two.
#pragma once

#include "attention/codes.cuh"
#include "attention/split_rows.cuh"

namespace retentive {

constexpr int kPrefillThreads = kAttentionWarps * kWarpSize;

// Whether sanitize_pair() would change one of two numbers.
template <typename Element> __device__ __forceinline__ bool is_wild(uint32_t pair) {
    constexpr unsigned kLargest = std::is_same_v<Element, __half> ? 0x7bff : 0x4e6e; // finite; 1e9
    return ((pair & 0x7fff7fffu) + (0x7fffu - kLargest) * 0x10001u) & 0x80008000u;   // no carry between the halves
}

// Rows of up to kDim numbers of 16 bits in shared memory, swizzled as place_of() says, zeros behind a row's end. They
// begin at a multiple of kRowBytes.
template <int kDim> struct NumberRows {
    static constexpr int kRowBytes = kDim * 2, kPieces = kDim / 8;

    static __device__ __forceinline__ int at(int row, int piece) { return place_of<kRowBytes, false>(row, piece); }

    // A lane's place in the rows, for loads along its row: `piece` bits further, which its own piece has not got, is
    // further(place, piece), and any 8 rows further 8 kRowBytes.
    static __device__ __forceinline__ unsigned place(const char *rows, int row, int piece) {
        return shared_address(rows) + at(row, piece);
    }
    static __device__ __forceinline__ unsigned further(unsigned place, int piece) {
        return place ^ unsigned(piece * 16);
    }

    // Start to copy rows row .. row + kRows - 1 of `from` [n, row_bytes]; rows at or past n are zeros. kThreads
    // threads.
    template <int kRows, int kThreads>
    static __device__ __forceinline__ void send(const char *from, int row, int n, int row_bytes, char *to) {
        constexpr int kAtOnce = kThreads / kPieces, kTimes = kRows / kAtOnce;
        static_assert(kAtOnce * kPieces == kThreads && kAtOnce * kTimes == kRows && (kAtOnce & (kAtOnce - 1)) == 0);
        const int thread = threadIdx.x % kThreads, first = thread / kPieces, piece = thread % kPieces;
        if (__builtin_expect(row_bytes == kRowBytes && row + kRows <= n, 1)) { // all offsets are constants
            const char *source = from + size_t(row) * kRowBytes + thread * 16;
            const int place = at(first, piece);
#pragma unroll
            for (int k = 0; k < kTimes; ++k)
                copy_async16(to + (place ^ k * kAtOnce % 8 * 16) + k * kAtOnce * kRowBytes, source + k * kThreads * 16);
            return;
        }
#pragma unroll 1
        for (int r = first; r < kRows; r += kAtOnce)
            if (piece * 16 < row_bytes)
                copy_async16(to + at(r, piece), from + size_t(min(row + r, n - 1)) * row_bytes + piece * 16,
                             row + r < n);
            else
                *reinterpret_cast<uint4 *>(to + at(r, piece)) = make_uint4(0, 0, 0, 0);
    }

    // Sanitise kRows rows in place. kThreads threads.
    template <typename Element, int kRows, int kThreads> static __device__ __forceinline__ void sanitize(char *rows) {
#pragma unroll
        for (int k = 0; k < kRows * kPieces / kThreads; ++k) {
            uint4 &x = reinterpret_cast<uint4 *>(rows)[k * kThreads + int(threadIdx.x % kThreads)];
            const uint4 y = x;
            if (is_wild<Element>(y.x) || is_wild<Element>(y.y) || is_wild<Element>(y.z) || is_wild<Element>(y.w))
                x = make_uint4(sanitize_pair<Element>(y.x), sanitize_pair<Element>(y.y), sanitize_pair<Element>(y.z),
                               sanitize_pair<Element>(y.w));
        }
    }
};

// A warp's 16 queries in shared memory, [terms][kWarpQueries][kDim].
template <typename Element, int kDim> struct WarpQueries {
    using Rows = NumberRows<kDim>;
    static constexpr int kTermBytes = kWarpQueries * Rows::kRowBytes;

    // What products of queries and rows must be multiplied by: logits are base-2. Those with codes have it already.
    static __device__ __forceinline__ float factor(const RetentiveAttentionParams &params, bool codes) {
        return codes ? 1.0f : params.scale * kLog2e;
    }

    // Start to copy queries query .. query + 15 of a head, `from` [GT, D]; those at or past GT are zeros.
    static __device__ __forceinline__ void send(const char *from, const Shape &s, int query, char *to) {
        Rows::template send<kWarpQueries, kWarpSize>(from, query, s.GT, s.D * int(sizeof(Element)), to);
    }
    // As the step's input has them.
    static __device__ __forceinline__ const char *input(const RetentiveAttentionParams &params, const Shape &s,
                                                        int bh) {
        return static_cast<const char *>(params.query) + size_t(bh) * s.GT * s.D * sizeof(Element);
    }
    // Where operands are kept in the workspace: term 0 for exact rows, 1 and 2 for codes.
    static __device__ __forceinline__ char *kept(void *workspace, const AttentionWorkspace &at, const Shape &s, int bh,
                                                 int term) {
        const size_t bytes = size_t(s.GT) * s.D * sizeof(Element);
        return static_cast<char *>(workspace) + at.kept_queries + size_t(bh) * s.GT * prefill_query_bytes(s) +
               term * bytes;
    }
    // One term of queries query .. query + 15, to `to` [GT, D].
    static __device__ __forceinline__ void keep(const char *queries, int term, const Shape &s, int query, char *to) {
#pragma unroll 1
        for (int i = threadIdx.x % kWarpSize; i < kWarpQueries * Rows::kPieces; i += kWarpSize) {
            const int row = i / Rows::kPieces, piece = i % Rows::kPieces;
            if (query + row < s.GT && 8 * piece < s.D)
                *reinterpret_cast<uint4 *>(to + size_t(query + row) * s.D * sizeof(Element) + 16 * piece) =
                    *reinterpret_cast<const uint4 *>(queries + term * kTermBytes + Rows::at(row, piece));
        }
    }

    // What was sent for becomes operands: of exact rows, or of codes, with a second term behind the first.
    static __device__ __forceinline__ void prepare(const RetentiveAttentionParams &params, const Shape &s, int bh,
                                                   bool codes, char *queries) {
        if (!codes) return Rows::template sanitize<Element, kWarpQueries, kWarpSize>(queries);
        const float *key_scale = params.key_scale + size_t(bh % s.Hkv) * s.D;
        const float scale = params.scale * kLog2e;
#pragma unroll 1
        for (int i = threadIdx.x % kWarpSize; i < kWarpQueries * Rows::kPieces; i += kWarpSize) {
            const int channel = i % Rows::kPieces * 8;
            uint4 *const at = reinterpret_cast<uint4 *>(queries + Rows::at(i / Rows::kPieces, i % Rows::kPieces));
            if (channel >= s.D) {
                at[kTermBytes / 16] = make_uint4(0, 0, 0, 0);
                continue;
            }
            Element x[8];
            memcpy(x, at, sizeof x);
            const float4 low = __ldg(reinterpret_cast<const float4 *>(key_scale + channel)),
                         high = __ldg(reinterpret_cast<const float4 *>(key_scale + channel + 4));
            const float scales[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            uint32_t rounded[4], errors[4];
#pragma unroll
            for (int e = 0; e < 8; e += 2) {
                const Pair<__nv_bfloat16> pair(sanitize(to_float(x[e])) * scale * scales[e],
                                               sanitize(to_float(x[e + 1])) * scale * scales[e + 1]);
                rounded[e / 2] = pair.rounded, errors[e / 2] = pair.error;
            }
            *at = make_uint4(rounded[0], rounded[1], rounded[2], rounded[3]);
            at[kTermBytes / 16] = make_uint4(errors[0], errors[1], errors[2], errors[3]);
        }
    }

    // The lane's place for the two functions that follow.
    static __device__ __forceinline__ unsigned place(const char *queries) {
        const int lane = threadIdx.x % kWarpSize;
        return Rows::place(queries, lane % 16, lane / 16);
    }
    // Operand A of the k step of channels 16 step .. + 15.
    static __device__ __forceinline__ void load(unsigned place, int term, int step, uint32_t (&a)[4]) {
        load_matrices(Rows::further(place, 2 * step) + term * kTermBytes, a);
    }
};

// Products of a warp's queries with kParts times 8 rows: x[part] of queries g and g + 8 with rows 2 t, 2 t + 1 each.
template <typename Element, typename Operand, int kDim, int kTerms, int kParts>
__device__ __forceinline__ void multiply(const char *queries, const char *keys, float (&x)[kParts][4]) {
    using Queries = WarpQueries<Element, kDim>;
    using Rows = NumberRows<kDim>;
    const int lane = threadIdx.x % kWarpSize;
    const unsigned query_place = Queries::place(queries), place = Rows::place(keys, lane % 8, lane / 8);
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int k = 0; k < 4; ++k) x[part][k] = 0.0f;
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
        uint32_t a[kTerms][2][4];
#pragma unroll
        for (int term = 0; term < kTerms; ++term)
#pragma unroll
            for (int step = 0; step < 2; ++step) Queries::load(query_place, term, 2 * i + step, a[term][step]);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            uint32_t b[4];
            load_matrices(Rows::further(place, 4 * i) + 8 * part * Rows::kRowBytes, b);
#pragma unroll
            for (int term = 0; term < kTerms; ++term) {
                mma<Operand>(x[part], a[term][0], b[0], b[1]);
                mma<Operand>(x[part], a[term][1], b[2], b[3]);
            }
        }
    }
}

// sums[j] of queries g and g + 8, channels 8 j + 2 t, + 1 each: += p v.
template <typename Operand, int kDim, int kParts>
__device__ __forceinline__ void add_values(const float (&p)[kParts][4], const char *values,
                                           float (&sums)[kDim / 8][4]) {
    using Rows = NumberRows<kDim>;
    const int lane = threadIdx.x % kWarpSize;
    const unsigned place = Rows::place(values, lane % 16, lane / 16);
#pragma unroll
    for (int part = 0; part < kParts; part += 2) {
        uint32_t a[2][4]; // rounded, errors
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Pair<Operand> pair(p[part + i / 2][i % 2 * 2], p[part + i / 2][i % 2 * 2 + 1]);
            a[0][i] = pair.rounded, a[1][i] = pair.error;
        }
#pragma unroll
        for (int j = 0; j < kDim / 8; j += 2) {
            uint32_t b[4];
            load_transposed(Rows::further(place, j) + 8 * part * Rows::kRowBytes, b);
#pragma unroll
            for (int term = 0; term < 2; ++term) {
                mma<Operand>(sums[j], a[term], b[0], b[1]);
                mma<Operand>(sums[j + 1], a[term], b[2], b[3]);
            }
        }
    }
}

// Rows of codes on their way to numbers of 16 bits: kRows rows of up to kDim channels, eight channels a piece, in the
// registers of kThreads threads.
template <int kDim, int kRows, int kThreads> struct CodePieces {
    static constexpr int kPieces = kDim / 8, kOfThread = kRows * kPieces / kThreads;

    uint2 codes[kOfThread];

    // Rows row .. row + kRows - 1 of `from` [n, D] int8 or [n, D / 2] packed int4; rows at or past n repeat row n - 1.
    __device__ __forceinline__ void load(const char *from, int row, int n, int dim, bool int8) {
        const int width = int8 ? dim : dim / 2;
        if (__builtin_expect(int8 || halves_fall_on_pieces(dim), 1)) {
#pragma unroll
            for (int k = 0; k < kOfThread; ++k) {
                const int channel = number(k) % kPieces * 8, at = channel < width ? channel : channel - width;
                codes[k] = load_word<uint2>(from + size_t(min(row + number(k) / kPieces, n - 1)) * width +
                                            (channel < dim ? at : 0));
            }
            return;
        }
#pragma unroll
        for (int k = 0; k < kOfThread; ++k)
            codes[k] =
                nibbles(from + size_t(min(row + number(k) / kPieces, n - 1)) * width, number(k) % kPieces * 8, dim);
    }

    // As bfloat16, which holds every code.
    __device__ __forceinline__ void store(char *to, int dim, bool int8) const {
        const auto widen = [&](auto eight) {
#pragma unroll
            for (int k = 0; k < kOfThread; ++k) {
                const int channel = number(k) % kPieces * 8;
                *reinterpret_cast<uint4 *>(to + NumberRows<kDim>::at(number(k) / kPieces, number(k) % kPieces)) =
                    channel < dim ? eight(codes[k], channel) : make_uint4(0, 0, 0, 0);
            }
        };
        if (int8)
            widen([](const uint2 &x, int) { return widen8(x); });
        else
            widen([dim](const uint2 &x, int channel) {
                return widen4(x, halves_fall_on_pieces(dim) && channel >= dim / 2);
            });
    }

  private:
    static __device__ __forceinline__ int number(int k) { return k * kThreads + int(threadIdx.x % kThreads); }
    // A byte of int4 holds channels c and c + D / 2.
    static __device__ __forceinline__ bool halves_fall_on_pieces(int dim) { return dim % 16 == 0; }

    // The int4 codes of channels channel .. + 7 of a row, a byte each.
    static __device__ __forceinline__ uint2 nibbles(const char *row, int channel, int dim) {
        const int half = dim / 2;
        uint2 words = make_uint2(0, 0);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const int c = min(channel + e, dim - 1);
            const unsigned byte = static_cast<unsigned char>(row[c < half ? c : c - half]),
                           code = (c < half ? byte & 15u : byte >> 4) << 8 * (e % 4);
            e < 4 ? words.x |= code : words.y |= code;
        }
        return words;
    }

    static __device__ __forceinline__ uint4 widen8(const uint2 &codes) {
        return make_uint4(int8_pair(codes.x, 0), int8_pair(codes.x, 2), int8_pair(codes.y, 0), int8_pair(codes.y, 2));
    }
    static __device__ __forceinline__ uint4 widen4(const uint2 &codes, bool high) {
        const uint32_t low_four = (high ? codes.x >> 4 : codes.x) & 0x0f0f0f0fu,
                       high_four = (high ? codes.y >> 4 : codes.y) & 0x0f0f0f0fu;
        return make_uint4(int4_pair(low_four, false), int4_pair(low_four, true), int4_pair(high_four, false),
                          int4_pair(high_four, true));
    }
};

} // namespace retentive
