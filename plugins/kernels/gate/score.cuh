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
    int end;    // position after the newest token
    int recent; // positions from here on are in the window

    __device__ __forceinline__ ScoreScale(const RetentiveGeometry &g, float importance_sum, float entropy_sum,
                                          float rows, int newest)
        : importance(1.0f / fmaxf(importance_sum, kTiny)), entropy(1.0f / fmaxf(entropy_sum, kTiny)),
          occupied(int(rows)), end(newest + 1), recent(int(max(int64_t(end) - g.window, int64_t(INT32_MIN)))) {
        asm("" : "+r"(recent)); // not to be worked out again for every row
    }

    // Importance of a row relative to the mean of the occupied ones.
    __device__ __forceinline__ float relative(float x, int position) const {
        return position >= 0 ? x * importance * float(occupied) : 0.0f;
    }
};

// The row with the smallest number leaves first: empty rows, then the lowest scores, sinks and the recent window last;
// the lower row wins a tie.
__device__ __forceinline__ float leaving_order(const RetentiveGeometry &g, const RetentiveGate &gate,
                                               const ScoreScale &scale, int position, float importance, float entropy) {
    const float retention =
        gate.lambda_ * (importance * scale.importance) + (1.0f - gate.lambda_) * (entropy * scale.entropy);
    const float score = gate.score == RETENTIVE_SCORE_RECENCY ? float(position - scale.end) : retention;
    const float order = score != score ? 0.0f : clamp(score, -kScoreLimit, kScoreLimit) + 0.0f; // -0 is 0
    return position < 0 ? kEmpty : position < g.sinks || position >= scale.recent ? kProtected : order;
}

// Who leaves first of the rows met so far, in ascending order of their numbers.
struct Leaving {
    float order = INFINITY;
    int row = -1;

    __device__ __forceinline__ void meet(float its_order, int its_row) {
        if (its_order < order) order = its_order, row = its_row;
    }
    __device__ __forceinline__ unsigned long long key() const { return row < 0 ? kNoKey : key_of(order, row); }
};

// Smallest key per tier over the block's threads; all threads, every one gets it.
__device__ __forceinline__ void block_minimum(unsigned long long (&least)[kTiers], int tiers) {
    __shared__ unsigned long long scratch[kTiers][kFinishThreads / kWarpSize];
    const int warp = warp_index(), lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
        if (tier >= tiers) break;
        const unsigned long long key = warp_min(least[tier]);
        if (lane == 0) scratch[tier][warp] = key;
    }
    __syncthreads();
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier)
        if (tier < tiers) least[tier] = warp_min(lane < warps ? scratch[tier][lane] : kNoKey);
}

// The victim of each tier over `blocks` blocks of a head, from each one's smallest keys. True in all threads of the one
// block that comes here last, and that alone gets the victims.
__device__ __forceinline__ bool choose_victims(unsigned long long (&least)[kTiers], int tiers, BlockMinimum *minima,
                                               unsigned *ticket, int blocks, int (&victims)[kTiers]) {
    block_minimum(least, tiers);
    if (blocks > 1) {
        if (threadIdx.x < unsigned(tiers)) minima[blockIdx.x].key[threadIdx.x] = threadIdx.x == 0 ? least[0] : least[1];
        if (!is_last_block(ticket, blocks)) return false;
        least[0] = least[1] = kNoKey;
#pragma unroll 1
        for (int i = threadIdx.x % kWarpSize; i < blocks; i += kWarpSize) { // both tiers' on their way at once
            const volatile unsigned long long *keys = minima[i].key;
            const unsigned long long first = keys[0], second = tiers > 1 ? keys[1] : kNoKey;
            least[0] = min(least[0], first), least[1] = min(least[1], second);
        }
#pragma unroll
        for (int tier = 0; tier < kTiers; ++tier)
            if (tier < tiers) least[tier] = warp_min(least[tier]);
    }
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) victims[tier] = tier < tiers ? row_of_key(least[tier]) : -1;
    return true;
}

} // namespace retentive
