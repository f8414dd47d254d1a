// A running softmax with the sums that the entropy gate's statistics need, and how parts of it are joined.
#pragma once

#include "common/device.cuh"

namespace retentive {

// Probabilities are scaled before they become operands: small ones must not vanish in float16.
template <typename Element> constexpr float kProbabilityScale = 1.0f;
template <> inline constexpr float kProbabilityScale<__half> = 1024.0f;

// One query's columns so far: base-2 logits' maximum, and sums of e = 2^(s - maximum); see SplitStats for their
// meaning.
struct Running {
    float maximum = kNothing;
    float sum = 0, visual = 0, weighted = 0, local = 0, local_visual = 0, local_weighted = 0;

    // Raise the maximum; the factor that sums relative to the old one must be multiplied by.
    __device__ __forceinline__ float raise(float to) {
        const float gap = maximum - to;
        const float factor = power_of_2(gap);
        weighted = factor * (weighted + visual * gap * kLn2);
        local_weighted = factor * (local_weighted + local_visual * gap * kLn2);
        sum *= factor, visual *= factor, local *= factor, local_visual *= factor;
        maximum = to;
        return factor;
    }

    __device__ __forceinline__ void add(float e, float s, bool is_visual, bool is_local) {
        const float seen = is_visual ? e : 0.0f;
        const float term = seen * (s - maximum) * kLn2;
        sum += e, visual += seen, weighted += term;
        if (is_local) local += e, local_visual += seen, local_weighted += term;
    }

    // Add another part, whose maximum is at most this one's.
    __device__ __forceinline__ void add(const SplitStats &part) {
        const float gap = part.maximum - maximum, factor = power_of_2(gap);
        sum += factor * part.sum, visual += factor * part.visual, local += factor * part.local;
        local_visual += factor * part.local_visual;
        weighted += factor * (part.weighted + part.visual * gap * kLn2);
        local_weighted += factor * (part.local_weighted + part.local_visual * gap * kLn2);
    }

    // Sums over the lanes whose numbers differ in the bits of kLanes - 1; their maximum is the same.
    template <int kLanes> __device__ __forceinline__ void gather() {
        float *all[] = {&sum, &visual, &weighted, &local, &local_visual, &local_weighted};
#pragma unroll
        for (float *x : all) {
#pragma unroll
            for (int offset = kLanes / 2; offset > 0; offset /= 2) *x += __shfl_xor_sync(kFullWarp, *x, offset);
        }
    }

    __device__ __forceinline__ SplitStats stats() const {
        return SplitStats{maximum, sum, visual, weighted, local, local_visual, local_weighted, 0.0f};
    }
};

// All splits of one query together; the whole warp calls it and every lane gets the result.
__device__ __forceinline__ Running gather_splits(const SplitStats *stats, int splits) {
    const int lane = threadIdx.x % kWarpSize;
    Running all;
#pragma unroll 2
    for (int i = lane; i < splits; i += kWarpSize) {
        const SplitStats part = stats[i];
        if (part.maximum > all.maximum) all.raise(part.maximum);
        all.add(part);
    }
    all.raise(warp_max(all.maximum));
    all.gather<kWarpSize>();
    return all;
}

} // namespace retentive
