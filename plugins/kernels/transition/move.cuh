// New tokens take the victims' rows; what stood there goes on to the next tier.
#pragma once

#include "transition/memory.cuh"

namespace retentive {

// Importance and entropy of one head, updated: where they are read and where they go; nullptr where not tracked.
struct Statistics {
    const float *importance_next, *entropy_next; // [C + T]
    float *importance, *entropy;                 // [C]
    int local;                                   // C

    __device__ __forceinline__ float2 of_token(int t) const { return of_row(local + t); }
    __device__ __forceinline__ float2 of_row(int row) const {
        return make_float2(importance_next[row], entropy_next[row]);
    }
    __device__ __forceinline__ void set(int row, float2 x) const {
        if (importance != nullptr) importance[row] = x.x;
        if (entropy != nullptr) entropy[row] = x.y;
    }
};

// New token t through all tiers; what left the last one. `victims(tier)` is a row number, anything for padding: a row
// that is not of the tier is ignored, and the token dropped. `statistics` as in Statistics. kWanted: what leaves the
// last tier is used; else it is not read. All threads of the block.
template <bool kWanted, typename Rows, typename RowStatistics, typename Victims>
__device__ __forceinline__ Token demote(const Rows &rows, Token token, int t, const RowStatistics &statistics,
                                        Victims victims) {
    Token leaving[kTiers];
    float2 carried[kTiers + 1] = {statistics.of_token(t)};
    int row[kTiers] = {-1, -1};
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) { // all are read before the first is written
        if (tier >= rows.tiers()) break;
        const int64_t victim = victims(tier);
        const int first = rows.s.tier_first(tier);
        if (victim < first || victim >= int64_t(first) + rows.s.tier_rows(tier)) continue;
        row[tier] = int(victim);
        if (!kWanted && tier == rows.tiers() - 1) break;
        leaving[tier] = rows.read(row[tier]);
        carried[tier + 1] = statistics.of_row(row[tier]);
    }
    __syncthreads();
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
        if (tier >= rows.tiers() || !token.present()) return token;
        if (row[tier] < 0) return Token();
        rows.write(row[tier], token.key, token.value);
        if (threadIdx.x == 0) {
            *reinterpret_cast<int2 *>(rows.meta(row[tier])) = make_int2(token.position, token.cell);
            statistics.set(row[tier], carried[tier]);
        }
        token = leaving[tier];
    }
    return token;
}

// S = h S + a k^T v for one token; all threads of the block.
template <typename Rows>
__device__ __forceinline__ void absorb_residual(const Rows &rows, const Token &token, float absorption,
                                                float retention) {
    if (!token.present()) return;
    const int D = rows.s.D;
    rows.shared.scaled_key[threadIdx.x] = token.key * absorption;
    __syncthreads();
    if (int(threadIdx.x) < D) {
        float *state = (token.visual() ? rows.state.visual_state : rows.state.recall_state) + size_t(rows.bh) * D * D +
                       threadIdx.x;
        for (int i = 0; i < D; ++i)
            state[size_t(i) * D] = state[size_t(i) * D] * retention + rows.shared.scaled_key[i] * token.value;
    }
    __syncthreads();
}

// One token that left the last tier, into whatever memory there is.
template <typename Rows>
__device__ __forceinline__ void absorb(const Rows &rows, const Token &token, float absorption, float retention) {
    if (rows.g.readout == RETENTIVE_READOUT_RESIDUAL) absorb_residual(rows, token, absorption, retention);
    if (rows.g.readout != RETENTIVE_READOUT_MASS || !token.present()) return;
    const Memory<Rows> memory{rows};
    const int m = memory.template route<1>(token, 0); // the least code
    if (m != kDropped)
        memory.merge(m, absorption, absorption * token.key, absorption * token.value, token.position, retention);
}

} // namespace retentive
