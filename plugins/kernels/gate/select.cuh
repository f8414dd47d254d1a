// Second launch of the gate: the rows that leave. With one new token a minimum over many blocks; with more a radix
// selection of the T smallest, one block per tier and head.
#pragma once

#include "attention/norms.cuh"
#include "gate/update.cuh"

namespace retentive {

constexpr int kSelectThreads = 1024;
static_assert(kSelectThreads >= RETENTIVE_MAX_STEPS, "one thread per new token");

// One head of the gate's second launch.
struct GateHead {
    const RetentiveGateParams &params;
    const Shape &s;
    int bh;
    ScoreScale scale;
    const float *importance, *entropy; // [C + T], updated

    __device__ __forceinline__ GateHead(const RetentiveGateParams &p, const Shape &shape, int head,
                                        const SplitRows &sum, int newest)
        : params(p), s(shape), bh(head), scale(p.geometry, sum.importance, sum.entropy, sum.occupied, newest),
          importance(p.importance_next + size_t(head) * (shape.C + shape.T)),
          entropy(p.entropy_next + size_t(head) * (shape.C + shape.T)) {}

    __device__ __forceinline__ int position(int row) const {
        return params.state.row_meta[2 * (size_t(bh) * s.R + row)];
    }

    __device__ __forceinline__ unsigned long long key(int row) const {
        return key_of(leaving_order(params.geometry, params.gate, scale, position(row), importance[row], entropy[row]),
                      row);
    }

    // Token t of a tier gets `row`; what the last tier's victim weighs in the memory.
    __device__ __forceinline__ void leave(int tier, int t, int row) const {
        params.victims[(size_t(bh) * s.L + tier) * s.T + t] = row;
        if (tier != s.L - 1) return;
        params.absorption[size_t(bh) * s.T + t] =
            sigmoid(params.gate.absorption, scale.relative(importance[row], position(row)));
    }

    __device__ __forceinline__ void set_retention() const {
        params.retention[bh] = sigmoid(params.gate.retention, params.visual_entropy[bh]);
    }
};

// T = 1. Grid (blocks, B Hkv).
__global__ void __launch_bounds__(kFinishThreads)
    gate_select_one(const __grid_constant__ RetentiveGateParams params, const __grid_constant__ Shape s) {
    __shared__ float scratch[kFinishThreads / kWarpSize];
    const GateWorkspace at(s);
    char *workspace = static_cast<char *>(params.workspace);
    const int bh = blockIdx.y;

    let_next_kernel_start();
    wait_for_previous_kernel();
    const TokenCount tokens(params.token_meta + size_t(bh / s.Hkv) * s.T * 2, s.T, scratch);
    const SplitRows sum =
        sum_rows(reinterpret_cast<const SplitRows *>(workspace + at.sums) + size_t(bh) * at.blocks, at.blocks);
    const GateHead head(params, s, bh, sum, tokens.newest);
    unsigned long long least[kTiers] = {kNoKey, kNoKey};
    for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < s.C; row += gridDim.x * blockDim.x) {
        const int tier = s.tier_of(row);
        const unsigned long long key = head.key(row);
        if (tier == 0)
            least[0] = min(least[0], key);
        else
            least[1] = min(least[1], key);
    }
    BlockMinimum *minima = reinterpret_cast<BlockMinimum *>(workspace + at.minima) + size_t(bh) * at.blocks;
    int victims[kTiers];
    if (!choose_victims(least, s.L, minima, reinterpret_cast<unsigned *>(workspace + at.tickets) + bh, int(gridDim.x),
                        victims))
        return;
    if (threadIdx.x < unsigned(s.L)) head.leave(threadIdx.x, 0, threadIdx.x == 0 ? victims[0] : victims[1]);
    if (threadIdx.x == 0) head.set_retention();
}

// Number of threads before this one, and in all, for which `flag` holds; all threads of a kSelectThreads block.
struct Ranks {
    int before, all;

    __device__ __forceinline__ Ranks(bool flag, int *scratch) {
        const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
        const unsigned votes = __ballot_sync(kFullWarp, flag);
        if (lane == 0) scratch[warp] = __popc(votes);
        __syncthreads();
        before = __popc(votes & ((1u << lane) - 1u)), all = 0;
        for (int w = 0; w < kSelectThreads / kWarpSize; ++w) {
            if (w < warp) before += scratch[w];
            all += scratch[w];
        }
        __syncthreads();
    }
};

// Upper half of the count-th smallest key, from the most significant byte down, and how many keys lie below it.
struct Threshold {
    static constexpr int kDigits = 256, kAtOnce = 4; // rows of a thread
    unsigned order = 0;
    int below = 0;

    // histogram: [kDigits]. All threads of a kSelectThreads block.
    __device__ __forceinline__ Threshold(const GateHead &head, int first, int rows, int count, int *histogram) {
        __shared__ unsigned digit;
        __shared__ int passed;
        const int lane = threadIdx.x % kWarpSize;
#pragma unroll 1
        for (int shift = 24; shift >= 0; shift -= 8) {
            if (threadIdx.x < kDigits) histogram[threadIdx.x] = 0;
            __syncthreads();
#pragma unroll 1
            for (int base = 0; base < rows; base += kAtOnce * kSelectThreads) {
                unsigned x[kAtOnce];
#pragma unroll
                for (int k = 0; k < kAtOnce; ++k) // all under way before the first is waited for
                    x[k] =
                        unsigned(head.key(first + min(base + k * kSelectThreads + int(threadIdx.x), rows - 1)) >> 32);
#pragma unroll
                for (int k = 0; k < kAtOnce; ++k) {
                    const bool counts = base + k * kSelectThreads + int(threadIdx.x) < rows &&
                                        (shift == 24 || x[k] >> (shift + 8) == order >> (shift + 8));
                    const unsigned its_digit = counts ? x[k] >> shift & 255u : kDigits;
                    const unsigned same = __match_any_sync(kFullWarp, its_digit); // scores are alike: added up at once
                    if (counts && lane == __ffs(int(same)) - 1) atomicAdd(&histogram[its_digit], __popc(same));
                }
            }
            __syncthreads();
            if (threadIdx.x < kWarpSize) find(histogram, count, digit, passed);
            __syncthreads();
            order |= digit << shift, below = passed;
        }
    }

  private:
    // The first digit up to which there are `count` keys, or the last one, and how many keys lie below it. One warp.
    __device__ __forceinline__ void find(const int *histogram, int count, unsigned &digit, int &passed) const {
        constexpr int kOfLane = kDigits / kWarpSize;
        const int lane = threadIdx.x % kWarpSize;
        int mine = 0;
#pragma unroll
        for (int i = 0; i < kOfLane; ++i) mine += histogram[kOfLane * lane + i];
        int sum = mine; // of the lanes up to this one
#pragma unroll
        for (int offset = 1; offset < kWarpSize; offset *= 2) {
            const int other = __shfl_up_sync(kFullWarp, sum, offset);
            if (lane >= offset) sum += other;
        }
        sum += below;
        const unsigned there = __ballot_sync(kFullWarp, sum >= count);
        if (lane != (there != 0 ? __ffs(int(there)) - 1 : kWarpSize - 1)) return;
        int d = kOfLane * lane, before = sum - mine;
        while (d < kOfLane * lane + kOfLane - 1 && before + histogram[d] < count) before += histogram[d++];
        digit = unsigned(d), passed = before;
    }
};

// Ascending, in shared memory, `size` a power of two.
__device__ __forceinline__ void bitonic_sort(unsigned long long *keys, int size) {
    for (int span = 2; span <= size; span *= 2)
        for (int step = span / 2; step > 0; step /= 2) {
            __syncthreads();
            const int i = threadIdx.x, other = i ^ step;
            if (i >= size || other <= i) continue;
            const unsigned long long a = keys[i], b = keys[other];
            if ((a > b) == ((i & span) == 0)) keys[i] = b, keys[other] = a;
        }
    __syncthreads();
}

// T > 1. Grid (tiers, B Hkv).
__global__ void __launch_bounds__(kSelectThreads)
    gate_select_many(const __grid_constant__ RetentiveGateParams params, const __grid_constant__ Shape s) {
    __shared__ float scratch[kSelectThreads / kWarpSize];
    __shared__ int counts[256];
    __shared__ unsigned long long chosen[RETENTIVE_MAX_STEPS];
    const GateWorkspace at(s);
    const int tier = blockIdx.x, bh = blockIdx.y, first = s.tier_first(tier), rows = s.tier_rows(tier);

    let_next_kernel_start();
    wait_for_previous_kernel();
    const int32_t *token_meta = params.token_meta + size_t(bh / s.Hkv) * s.T * 2;
    const TokenCount tokens(token_meta, s.T, scratch);
    const char *workspace = static_cast<const char *>(params.workspace);
    const SplitRows sum =
        sum_rows(reinterpret_cast<const SplitRows *>(workspace + at.sums) + size_t(bh) * at.blocks, at.blocks);
    const GateHead head(params, s, bh, sum, tokens.newest);

    const Threshold threshold(head, first, rows, s.T, counts);
    chosen[threadIdx.x] = kNoKey;
    __syncthreads();
    int lower = 0, tied = 0; // of the rows before this chunk
    for (int base = 0; base < rows; base += kSelectThreads) {
        const int i = base + int(threadIdx.x);
        const unsigned long long key = i < rows ? head.key(first + i) : kNoKey;
        const unsigned order = unsigned(key >> 32);
        const bool is_lower = i < rows && order < threshold.order, is_tied = i < rows && order == threshold.order;
        const Ranks low(is_lower, counts), tie(is_tied, counts);
        if (is_lower) chosen[lower + low.before] = key;
        const int place = threshold.below + tied + tie.before;
        if (is_tied && place < s.T) chosen[place] = key;
        lower += low.all, tied += tie.all;
    }
    int size = 2;
    while (size < s.T) size *= 2;
    bitonic_sort(chosen, size);

    const int t = threadIdx.x;
    const bool there = t < s.T, real = there && token_meta[2 * t] >= 0;
    const Ranks turn(real, counts);
    if (there) head.leave(tier, t, row_of_key(chosen[real ? turn.before : tokens.valid + t - turn.before]));
    if (tier == 0 && threadIdx.x == 0) head.set_retention();
}

} // namespace retentive
