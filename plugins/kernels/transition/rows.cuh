// The rows of one KV head as a block reads and writes them: thread d has channel d. Quantisation as cache/rows.py.
#pragma once

#include "common/token.cuh"

namespace retentive {

constexpr int kMoveThreads = RETENTIVE_MAX_HEAD_DIM;

// Shared memory of a block that moves rows.
struct MoveShared {
    float reduction[kMoveThreads / kWarpSize];
    unsigned nibbles[kMoveThreads / 2]; // of the upper half of the channels, key and value
    float scaled_key[kMoveThreads];
};

template <typename Element> struct HeadRows {
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

    __device__ __forceinline__ bool has_channel() const { return int(threadIdx.x) < s.D; }
    __device__ __forceinline__ int32_t *meta(int row) const { return state.row_meta + 2 * (size_t(bh) * s.R + row); }
    __device__ __forceinline__ float *mass(int memory) const { return state.memory_mass + size_t(bh) * s.M + memory; }

    // Whether row `row` (of the layer's row index space) is in the coarse store, and which of the store's rows it is.
    __device__ __forceinline__ bool coarse(int row) const {
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
        uint32_t words[2]; // a code in each byte, or in the byte's `bits` from `shift` on
        int shift[2], bits;

        __device__ __forceinline__ float element(int e) const {
            const uint32_t byte = words[e / 4] >> (8 * (e % 4));
            return bits == 8 ? float(int8_t(byte)) : float(int(byte >> shift[e / 4] & 15) - 8);
        }
    };

    // Of a row's key, from `channel` on; zeros behind the last one.
    __device__ __forceinline__ void read_keys(int row, int channel, Eight &keys) const {
        keys = {};
        if (channel >= s.D) return;
        const uint4 *from =
            reinterpret_cast<const uint4 *>(static_cast<const Element *>(state.key_rows) + place(row) * s.D + channel);
#pragma unroll
        for (int i = 0; i < int(sizeof(Element) / 2); ++i) keys.words[i] = from[i];
    }
    __device__ __forceinline__ void read_keys(int row, int channel, EightCodes &keys) const {
        const bool packed = g.coarse_dtype == RETENTIVE_INT4;
        const int bytes = packed ? s.D / 2 : s.D; // of a row: a multiple of 4, so that four channels are one word
        const char *from = static_cast<const char *>(state.key_codes) + place(row) * bytes;
        keys.bits = packed ? 4 : 8;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int d = channel + 4 * i, half = d < bytes ? 0 : 1;
            keys.shift[i] = 4 * half;
            keys.words[i] = d < s.D ? *reinterpret_cast<const uint32_t *>(from + d - half * bytes) : 0;
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
        write_coarse(at, key, value);
    }

  private:
    __device__ __forceinline__ void write_coarse(size_t at, float key, float value) const {
        const int warp = warp_index(), lane = threadIdx.x % kWarpSize;
        const float largest = warp_max(has_channel() ? fabsf(value) : 0.0f);
        if (lane == 0) shared.reduction[warp] = largest;
        __syncthreads();
        const float scale =
            __fdiv_rn(warp_max(lane < kMoveThreads / kWarpSize ? shared.reduction[lane] : 0.0f), level());
        if (threadIdx.x == 0) state.value_scale[at] = scale;
        const int d = threadIdx.x;
        const float key_code = has_channel() ? quantise(key, own_key_scale) : 0.0f,
                    value_code = has_channel() ? quantise(value, scale) : 0.0f;
        if (g.coarse_dtype == RETENTIVE_INT8) {
            __syncthreads(); // the scratch is free again
            if (!has_channel()) return;
            static_cast<int8_t *>(state.key_codes)[at * s.D + d] = int8_t(key_code);
            static_cast<int8_t *>(state.value_codes)[at * s.D + d] = int8_t(value_code);
            return;
        }
        // the upper half of the channels hands its codes to the lower one
        const int half = s.D / 2;
        const unsigned both = unsigned(int(key_code) + 8) | unsigned(int(value_code) + 8) << 4;
        if (d >= half && d < s.D) shared.nibbles[d - half] = both;
        __syncthreads();
        if (d >= half) return;
        const unsigned upper = shared.nibbles[d];
        static_cast<unsigned char *>(state.key_codes)[at * half + d] = (unsigned char)((both & 15) | (upper & 15) << 4);
        static_cast<unsigned char *>(state.value_codes)[at * half + d] =
            (unsigned char)((both >> 4) | (upper >> 4) << 4);
    }

    __device__ __forceinline__ float level() const { return g.coarse_dtype == RETENTIVE_INT4 ? 7.0f : 127.0f; }

    __device__ __forceinline__ float quantise(float x, float scale) const {
        return scale > 0.0f ? clamp(rintf(__fdiv_rn(x, scale)), -level(), level()) : 0.0f;
    }

    __device__ __forceinline__ float code(const void *codes, size_t at, int d) const {
        if (g.coarse_dtype == RETENTIVE_INT8) return float(static_cast<const int8_t *>(codes)[at * s.D + d]);
        const int half = s.D / 2;
        const unsigned char *packed = static_cast<const unsigned char *>(codes) + at * half;
        return float(d < half ? packed[d] & 15 : packed[d - half] >> 4) - 8.0f;
    }
};

} // namespace retentive
