// What the splits of a query add up to, and what follows for a column: its probability and its part of the entropy.
#pragma once

#include "attention/running.cuh"

namespace retentive {

constexpr float kLogTiny = -69.07755278982137f; // ln kTiny

// A query's own token. The kept shares are decay^(valid tokens after it).
struct QueryToken {
    bool valid, text;
    int visual; // new visual tokens up to it
    float importance_kept, entropy_kept;
};

// All but the entropy's share of its maximum: that one is in nats.
__device__ __forceinline__ QueryNorm norm_of(const Running &all, const QueryToken &token, const RetentiveGate &gate,
                                             int groups) {
    QueryNorm norm;
    norm.maximum = all.maximum;
    norm.inverse = 1.0f / (all.local.sum + all.rest.sum);
    const float visual = all.local.visual + all.rest.visual;
    const float inverse_visual = norm.inverse / fmaxf(visual * norm.inverse, kTiny);
    norm.log_visual = logf(inverse_visual);
    const float received = token.valid ? gate.importance_gain * token.importance_kept / float(groups) : 0.0f;
    const float surprise = token.text ? gate.entropy_gain * token.entropy_kept / float(groups) : 0.0f;
    norm.received_factor = received * norm.inverse, norm.surprise_factor = surprise * inverse_visual;
    norm.text = token.text ? 1.0f : 0.0f;
    const float entropy =
        -inverse_visual * ((all.local.weighted + all.rest.weighted) * kLn2 + visual * norm.log_visual);
    norm.entropy = fmaxf(entropy, 0.0f);
    norm.local_received = norm.received_factor * all.local.sum;
    const float local = -inverse_visual * (all.local.weighted * kLn2 + all.local.visual * norm.log_visual);
    norm.local_surprise = surprise * fmaxf(local, 0.0f);
    return norm;
}

// An entropy in nats over the most that so many columns can have.
__device__ __forceinline__ float entropy_share(float entropy, float columns) {
    return entropy / logf(fmaxf(columns, 2.0f));
}

// What a query gives to a column with the base-2 logit `s`; `norm`: QueryNorm, or what a column needs of it.
template <typename Norm>
__device__ __forceinline__ void add_column(const Norm &norm, float s, bool visual, float &received, float &surprise) {
    const float distance = s - norm.maximum, e = power_of_2(distance);
    received += norm.received_factor * e;
    const float log_share = fmaxf(distance * kLn2 + norm.log_visual, kLogTiny);
    if (visual) surprise -= norm.surprise_factor * e * log_share;
}

// Mean over the text queries' heads of their entropy; all threads of one block.
__device__ __forceinline__ float mean_entropy(const QueryNorm *norms, const Shape &s, float *scratch) {
    float sum = 0.0f, count = 0.0f;
    for (int i = threadIdx.x; i < s.GT; i += blockDim.x)
        sum += norms[i].text * norms[i].entropy, count += norms[i].text;
    sum = block_sum(sum, scratch), count = block_sum(count, scratch);
    return sum / fmaxf(count, float(s.G));
}

// Sum over a head's splits, in order; every lane of the warp gets it. `ahead` [kAhead] has the first ones.
__device__ __forceinline__ SplitRows sum_rows(const SplitRows *ahead, const SplitRows *splits, int count) {
    SplitRows sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (int i = threadIdx.x % kWarpSize; i < count; i += kWarpSize) {
        const SplitRows rows = i < kAhead ? ahead[i] : splits[i];
        sum.importance += rows.importance, sum.entropy += rows.entropy;
        sum.occupied += rows.occupied, sum.visual += rows.visual;
    }
    return SplitRows{warp_sum(sum.importance), warp_sum(sum.entropy), warp_sum(sum.occupied), warp_sum(sum.visual)};
}
__device__ __forceinline__ SplitRows sum_rows(const SplitRows *splits, int count) {
    return sum_rows(splits, splits, count);
}

} // namespace retentive
