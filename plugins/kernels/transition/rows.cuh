// The rows of one KV head as a block reads and writes them: thread d has channel d. Quantisation as cache/rows.py.
#pragma once

#include <type_traits>

#include "common/token.cuh"

namespace retentive {

constexpr int kMoveThreads = RETENTIVE_MAX_HEAD_DIM;

// Shared memory of a block that moves rows.
struct MoveShared {
    float reduction[kMoveThreads / kWarpSize];
    unsigned nibbles[kMoveThreads / 2]; // of the upper half of the channels, key and value
    float scaled_key[kMoveThreads];
};

// Where the rows lie that a block reads and writes. Code for what is not there costs time even where it never runs.
enum class Stores { exact, coarse, both };

template <typename ElementOf, Stores kOf> struct HeadRows {
    using Element = ElementOf;
    static constexpr Stores kStores = kOf;

    const RetentiveGeometry &g;
    const RetentiveState &state;
    const Shape &s;
    const float *key_scale; // [D] or nullptr
    float own_key_scale;    // of this thread's channel
    int bh;
    MoveShared &shared;

    __device__ __forceinline__ HeadRows(const RetentiveGeometry &geometry, const RetentiveState &layer,
                                        const Shape &shape, const float *scales, int head, MoveShared &scratch)
        : g(geometry), state(layer), s(shape),
          key_scale(scales == nullptr ? nullptr : scales + size_t(head % shape.Hkv) * shape.D),
          own_key_scale(scales != nullptr && has_channel() ? key_scale[threadIdx.x] : 0.0f), bh(head), shared(scratch) {
    }

    __device__ __forceinline__ int tiers() const { return kStores == Stores::both ? s.L : 1; }
    __device__ __forceinline__ bool has_channel() const { return int(threadIdx.x) < s.D; }
    __device__ __forceinline__ int32_t *meta(int row) const { return state.row_meta + 2 * (size_t(bh) * s.R + row); }
    __device__ __forceinline__ float *mass(int memory) const { return state.memory_mass + size_t(bh) * s.M + memory; }

    // Whether row `row` (of the layer's row index space) is in the coarse store, and which of the store's rows it is.
    __device__ __forceinline__ bool coarse(int row) const {
        if constexpr (kStores != Stores::both) return kStores == Stores::coarse;
        return row < s.C ? row >= s.X : g.memory_store == RETENTIVE_STORE_COARSE;
    }
    __device__ __forceinline__ size_t place(int row) const {
        if (coarse(row))
            return size_t(bh) * s.F + row - s.X; // memory rows stand behind the local ones in both numberings
        return size_t(bh) * s.E + (row < s.C ? row : row - s.Y);
    }

    // Channel `d` of one row's codes: key and value.
    __device__ __forceinline__ float2 read_channel(int row, int d) const {
        const size_t at = place(row);
        if (!coarse(row)) {
            const size_t i = at * s.D + d;
            return make_float2(to_float(static_cast<const Element *>(state.key_rows)[i]),
                               to_float(static_cast<const Element *>(state.value_rows)[i]));
        }
        const float scale = state.value_scale[at];
        return make_float2(code(state.key_codes, at, d) * key_scale[d], code(state.value_codes, at, d) * scale);
    }

    // Eight channels of a row of the exact store as they are stored, and of the coarse store in units of the keys' scale.
    struct Eight {
        using Word = uint4;                            // a key is whole ones
        static constexpr int kBytes = sizeof(Element); // of a channel, at most
        uint4 words[sizeof(Element) / 2];

        __device__ __forceinline__ float element(int e) const {
            if constexpr (sizeof(Element) == 4) {
                const uint32_t bits[] = {words[0].x, words[0].y, words[0].z, words[0].w,
                                         words[1].x, words[1].y, words[1].z, words[1].w};
                return __uint_as_float(bits[e]);
            } else {
                const uint32_t pairs[] = {words[0].x, words[0].y, words[0].z, words[0].w};
                Element pair[2];
                memcpy(pair, &pairs[e / 2], sizeof pair);
                return to_float(pair[e % 2]);
            }
        }
    };

    struct EightCodes {
        using Word = uint32_t;
        static constexpr int kBytes = 1;
        uint32_t words[2]; // a code in each byte, or in the byte's `bits` from `shift` on
        int shift[2], bits;

        __device__ __forceinline__ float element(int e) const {
            const uint32_t byte = words[e / 4] >> (8 * (e % 4));
            return bits == 8 ? float(int8_t(byte)) : float(int(byte >> shift[e / 4] & 15) - 8);
        }
    };

    using StoredKeys = std::conditional_t<kStores == Stores::coarse, EightCodes, Eight>;

    // Where the key of a row is, in the store that Keys come from, and how many words it has.
    template <typename Keys> __device__ __forceinline__ const typename Keys::Word *key_row(int row) const {
        const void *store = std::is_same_v<Keys, EightCodes> ? state.key_codes : state.key_rows;
        return static_cast<const typename Keys::Word *>(store) + place(row) * key_words<Keys>();
    }
    template <typename Keys> __device__ __forceinline__ int key_words() const {
        const int bytes = !std::is_same_v<Keys, EightCodes> ? s.D * int(sizeof(Element)) : packed() ? s.D / 2 : s.D;
        return bytes / int(sizeof(typename Keys::Word));
    }

    // Of the key that begins at `row`, from `channel` on; zeros behind the last one.
    __device__ __forceinline__ void read_keys(const uint4 *row, int channel, Eight &keys) const {
        keys = {};
        if (channel >= s.D) return;
        const uint4 *from = row + channel * int(sizeof(Element)) / int(sizeof(uint4));
#pragma unroll
        for (int i = 0; i < int(sizeof(Element) / 2); ++i) keys.words[i] = from[i];
    }
    __device__ __forceinline__ void read_keys(const uint32_t *row, int channel, EightCodes &keys) const {
        const int bytes = packed() ? s.D / 2 : s.D;
        keys.bits = packed() ? 4 : 8;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int d = channel + 4 * i, half = d < bytes ? 0 : 1;
            keys.shift[i] = 4 * half;
            keys.words[i] = d < s.D ? row[(d - half * bytes) / 4] : 0;
        }
    }

    // Nothing of it may be overwritten before the block's next barrier.
    __device__ __forceinline__ Token read(int row) const {
        Token token;
        if (has_channel()) {
            const float2 both = read_channel(row, threadIdx.x);
            token.key = both.x, token.value = both.y;
        }
        const int2 where = *reinterpret_cast<const int2 *>(meta(row));
        token.position = where.x, token.cell = where.y;
        return token;
    }

    // Key and value alone; all threads. Other threads see it after the next barrier.
    __device__ __forceinline__ void write(int row, float key, float value) const {
        const size_t at = place(row);
        if (!coarse(row)) {
            if (!has_channel()) return;
            const size_t i = at * s.D + threadIdx.x;
            static_cast<Element *>(state.key_rows)[i] = from_float<Element>(key);
            static_cast<Element *>(state.value_rows)[i] = from_float<Element>(value);
            return;
        }
        write_codes(state.key_codes, state.value_codes, state.value_scale, at, s.D, packed(), key, value, own_key_scale,
                    shared);
    }

  private:
    // Quantised, as row `at` of the coarse store. Not inlined: a kernel writes in several places, and needs it once.
    static __device__ __noinline__ void write_codes(void *key_codes, void *value_codes, float *value_scale, size_t at,
                                                    int D, bool packed, float key, float value, float key_scale,
                                                    MoveShared &shared) {
        const float level = packed ? 7.0f : 127.0f;
        const auto quantise = [level](float x, float scale) {
            return scale > 0.0f ? clamp(rintf(__fdiv_rn(x, scale)), -level, level) : 0.0f;
        };
        const int d = threadIdx.x, warp = d / kWarpSize, lane = d % kWarpSize;
        const float largest = warp_max(d < D ? fabsf(value) : 0.0f);
        if (lane == 0) shared.reduction[warp] = largest;
        __syncthreads();
        const float scale = __fdiv_rn(warp_max(lane < kMoveThreads / kWarpSize ? shared.reduction[lane] : 0.0f), level);
        if (d == 0) value_scale[at] = scale;
        const float key_code = d < D ? quantise(key, key_scale) : 0.0f,
                    value_code = d < D ? quantise(value, scale) : 0.0f;
        if (!packed) {
            __syncthreads(); // the scratch is free again
            if (d >= D) return;
            static_cast<int8_t *>(key_codes)[at * D + d] = int8_t(key_code);
            static_cast<int8_t *>(value_codes)[at * D + d] = int8_t(value_code);
            return;
        }
        // the upper half of the channels hands its codes to the lower one
        const int half = D / 2;
        const unsigned both = unsigned(int(key_code) + 8) | unsigned(int(value_code) + 8) << 4;
        if (d >= half && d < D) shared.nibbles[d - half] = both;
        __syncthreads();
        if (d >= half) return;
        const unsigned upper = shared.nibbles[d];
        static_cast<unsigned char *>(key_codes)[at * half + d] = (unsigned char)((both & 15) | (upper & 15) << 4);
        static_cast<unsigned char *>(value_codes)[at * half + d] = (unsigned char)((both >> 4) | (upper >> 4) << 4);
    }

    __device__ __forceinline__ bool packed() const { return g.coarse_dtype == RETENTIVE_INT4; }
    __device__ __forceinline__ float code(const void *codes, size_t at, int d) const {
        if (g.coarse_dtype == RETENTIVE_INT8) return float(static_cast<const int8_t *>(codes)[at * s.D + d]);
        const int half = s.D / 2;
        const unsigned char *packed = static_cast<const unsigned char *>(codes) + at * half;
        return float(d < half ? packed[d] & 15 : packed[d - half] >> 4) - 8.0f;
    }
};

} // namespace retentive
