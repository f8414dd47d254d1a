// The retention score and the order of leaving; retentive_export/cache/gate.py.
#pragma once

#include "common/device.cuh"

namespace retentive {

constexpr float kProtected = 1e30f;
constexpr float kEmpty = -1e30f;
constexpr float kScoreLimit = 1e29f;

// What one head's rows are scored with. Sums over the occupied local rows after this step's update.
struct ScoreScale {
    float importance, entropy; // their reciprocals, at most 1 / kTiny
    int occupied;
    int end; // position after the newest token

    __device__ __forceinline__ ScoreScale(float importance_sum, float entropy_sum, float rows, int newest)
        : importance(1.0f / fmaxf(importance_sum, kTiny)), entropy(1.0f / fmaxf(entropy_sum, kTiny)),
          occupied(int(rows)), end(newest + 1) {}

    // Importance of a row relative to the mean of the occupied ones.
    __device__ __forceinline__ float relative(float x, int position) const {
        return position >= 0 ? x * importance * float(occupied) : 0.0f;
    }
};

// The row with the smallest key leaves first: empty rows, then the lowest scores, sinks and the recent window last; the
// lower row number wins a tie.
__device__ __forceinline__ unsigned long long leaving_key(const RetentiveGeometry &g, const RetentiveGate &gate,
                                                          const ScoreScale &scale, int row, int position,
                                                          float importance, float entropy) {
    float order;
    if (position < 0) {
        order = kEmpty;
    } else if (position < g.sinks || int64_t(position) >= int64_t(scale.end) - g.window) {
        order = kProtected;
    } else {
        const float retention =
            gate.lambda_ * (importance * scale.importance) + (1.0f - gate.lambda_) * (entropy * scale.entropy);
        const float score = gate.score == RETENTIVE_SCORE_RECENCY ? float(position - scale.end) : retention;
        order = score != score ? 0.0f : clamp(score, -kScoreLimit, kScoreLimit) + 0.0f; // -0 is 0
    }
    return (unsigned long long)(ordered(order)) << 32 | unsigned(row);
}

__device__ __forceinline__ int row_of_key(unsigned long long key) { return int(unsigned(key)); }

constexpr unsigned long long kNoKey = ~0ull;

// Smallest key per tier over the block's threads, at `minima` for the other blocks to read; all threads.
__device__ __forceinline__ void store_minimum(unsigned long long (&least)[kTiers], int tiers, BlockMinimum *minima) {
    __shared__ unsigned long long scratch[kTiers][kFinishThreads / kWarpSize];
    const int warp = warp_index(), lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
        if (tier >= tiers) break;
        const unsigned long long key = warp_min(least[tier]);
        if (lane == 0) scratch[tier][warp] = key;
    }
    __syncthreads();
    if (warp >= tiers) return;
    const unsigned long long key = warp_min(lane < warps ? scratch[warp][lane] : kNoKey);
    if (lane == 0) minima->key[warp] = key;
}

// True in all threads of the block that comes here last of `blocks`: it then sees what the others wrote before.
__device__ __forceinline__ bool is_last_block(unsigned *ticket, unsigned blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(ticket, 1u) == blocks - 1;
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// The victim of each tier from all blocks' minima; every warp gets it.
__device__ __forceinline__ void load_victims(const BlockMinimum *minima, int blocks, int tiers,
                                             int (&victims)[kTiers]) {
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
        victims[tier] = -1;
        if (tier >= tiers) break;
        unsigned long long key = kNoKey;
#pragma unroll 1
        for (int i = threadIdx.x % kWarpSize; i < blocks; i += kWarpSize)
            key = min(key, *static_cast<const volatile unsigned long long *>(&minima[i].key[tier]));
        victims[tier] = row_of_key(warp_min(key));
    }
}

} // namespace retentive
