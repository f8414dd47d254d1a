// Tokens that left the last tier, on their way from the launch that moves the rows to those that absorb them.
#pragma once

#include "transition/memory.cuh"

namespace retentive {

// Of one head.
struct LeavingTokens {
    float *keys, *values; // [T, D]
    int2 *meta;           // [T], position < 0: nobody left
    int *targets;         // [T]
    float *weights;       // [T]
    Recall *found;        // [recall blocks]
    unsigned *ticket;

    // `base`: where the TransitionWorkspace is.
    __device__ __forceinline__ LeavingTokens(const Shape &s, char *base, int bh) {
        const TransitionWorkspace at(s);
        const size_t first = size_t(bh) * s.T;
        keys = reinterpret_cast<float *>(base + at.keys) + first * s.D;
        values = reinterpret_cast<float *>(base + at.values) + first * s.D;
        meta = reinterpret_cast<int2 *>(base + at.meta) + first;
        targets = reinterpret_cast<int *>(base + at.targets) + first;
        weights = reinterpret_cast<float *>(base + at.weights) + first;
        found = reinterpret_cast<Recall *>(base + at.found) + size_t(bh) * recall_blocks(s);
        ticket = reinterpret_cast<unsigned *>(base + at.tickets) + bh;
    }

    // Token t; all threads of a block.
    template <typename Rows> __device__ __forceinline__ void put(const Rows &rows, int t, const Token &token) const {
        if (threadIdx.x == 0) meta[t] = make_int2(token.position, token.cell);
        if (!rows.has_channel()) return;
        keys[size_t(t) * rows.s.D + threadIdx.x] = token.key, values[size_t(t) * rows.s.D + threadIdx.x] = token.value;
    }
    template <typename Rows> __device__ __forceinline__ Token get(const Rows &rows, int t) const {
        Token token;
        token.position = meta[t].x, token.cell = meta[t].y;
        if (!rows.has_channel()) return token;
        token.key = keys[size_t(t) * rows.s.D + threadIdx.x], token.value = values[size_t(t) * rows.s.D + threadIdx.x];
        return token;
    }

    // Before the launch of transition_absorb.
    __device__ __forceinline__ void begin() const {
        if (threadIdx.x == 0) *ticket = 0;
    }

    // What all blocks found, in the last one; every lane of a warp gets it.
    __device__ __forceinline__ Recall all_found(int parts) const {
        Recall all = {kNoKey, 0};
        for (int i = threadIdx.x % kWarpSize; i < parts; i += kWarpSize) {
            const volatile Recall &part = found[i];
            const unsigned long long nearest = part.nearest;
            all.nearest = min(all.nearest, nearest), all.used += part.used;
        }
        return Recall{warp_min(all.nearest), __reduce_add_sync(kFullWarp, all.used)};
    }
};

} // namespace retentive
