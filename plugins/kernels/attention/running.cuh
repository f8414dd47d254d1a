// A running softmax with the sums that the entropy gate's statistics need, and how parts of it are joined.
#pragma once

#include "common/device.cuh"

namespace retentive {

// Probabilities are scaled before they become operands: small ones must not vanish in float16.
template <typename Element> constexpr float kProbabilityScale = 1.0f;
template <> inline constexpr float kProbabilityScale<__half> = 1024.0f;

// One query's columns so far: base-2 logits' maximum, and sums of e = 2^(s - maximum) as in SplitStats.
struct Running {
    float maximum = kNothing;
    ColumnSums local, rest;

    // Raise the maximum; the factor that sums relative to the old one must be multiplied by.
    __device__ __forceinline__ float raise(float to) {
        const float gap = maximum - to, factor = power_of_2(gap);
        rebase(local, gap, factor), rebase(rest, gap, factor);
        maximum = to;
        return factor;
    }

    // A column; `distance`: its logit less the maximum.
    static __device__ __forceinline__ void add(ColumnSums &to, float e, float distance, bool is_visual) {
        const float seen = is_visual ? e : 0.0f;
        to.sum += e, to.visual += seen, to.weighted += seen * distance;
    }
    __device__ __forceinline__ void add(float e, float distance, bool is_visual, bool is_local) {
        add(local, is_local ? e : 0.0f, distance, is_visual);
        add(rest, is_local ? 0.0f : e, distance, is_visual);
    }

    // Another part, whose maximum is at most this one's.
    __device__ __forceinline__ void add(const SplitStats &part) {
        const float gap = part.maximum - maximum, factor = power_of_2(gap);
        add(local, part.local, gap, factor), add(rest, part.rest, gap, factor);
    }

    // Sums over kLanes lanes that are kStride apart; their maximum is the same.
    template <int kLanes, int kStride = 1> __device__ __forceinline__ void gather() {
        float *all[] = {&local.sum, &local.visual, &local.weighted, &rest.sum, &rest.visual, &rest.weighted};
#pragma unroll
        for (int offset = kLanes / 2 * kStride; offset >= kStride; offset /= 2)
#pragma unroll
            for (float *x : all) *x += __shfl_xor_sync(kFullWarp, *x, offset);
    }

    __device__ __forceinline__ SplitStats stats() const {
        return SplitStats{maximum, local.sum + rest.sum, local, rest};
    }

  private:
    static __device__ __forceinline__ void rebase(ColumnSums &sums, float gap, float factor) {
        sums.weighted = factor * (sums.weighted + sums.visual * gap);
        sums.sum *= factor, sums.visual *= factor;
    }
    static __device__ __forceinline__ void add(ColumnSums &to, const ColumnSums &part, float gap, float factor) {
        to.sum += factor * part.sum, to.visual += factor * part.visual;
        to.weighted += factor * (part.weighted + part.visual * gap);
    }
};

// All splits of one query together; the whole warp calls it and every lane gets the result. `ahead` [kAhead] has the
// first ones.
constexpr int kAhead = 2 * kWarpSize;
__device__ __forceinline__ Running gather_splits(const SplitStats *ahead, const SplitStats *stats, int splits) {
    const int lane = threadIdx.x % kWarpSize;
    Running all;
    SplitStats first[2] = {{kNothing, 0.0f, {}, {}}, {kNothing, 0.0f, {}, {}}};
#pragma unroll
    for (int k = 0; k < 2; ++k)
        if (lane + k * kWarpSize < splits) first[k] = ahead[lane + k * kWarpSize];
    all.maximum = fmaxf(first[0].maximum, first[1].maximum);
    all.add(first[0]), all.add(first[1]);
#pragma unroll 1
    for (int i = lane + kAhead; i < splits; i += kWarpSize) {
        const SplitStats part = stats[i];
        if (part.maximum > all.maximum) all.raise(part.maximum);
        all.add(part);
    }
    all.raise(warp_max(all.maximum));
    all.gather<kWarpSize>();
    return all;
}

} // namespace retentive
