// The transition's launches: what is only copied, then one block per new token, then the memory.
#pragma once

#include "transition/leaving.cuh"
#include "transition/move.cuh"

namespace retentive {

// Tensors of the state that are not written in place. Rows have a multiple of 8 channels, so all are whole 4-byte
// words.
struct StateCopies {
    static constexpr int kMost = 9;
    struct {
        const uint32_t *from;
        uint32_t *to;
        size_t words;
    } tensors[kMost];
    int count;
};

// Of kernels that are the same for every geometry.
template <typename Element> using AllRows = HeadRows<Element, Stores::both>;

// The state's statistics are the updated ones (the victims' are put right afterwards); the rest is copied. Grid
// (blocks).
__global__ void __launch_bounds__(kMoveThreads)
    transition_copy(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s,
                    const __grid_constant__ StateCopies copies) {
    let_next_kernel_start();
    wait_for_previous_kernel();
    const size_t first = blockIdx.x * size_t(blockDim.x) + threadIdx.x, stride = gridDim.x * size_t(blockDim.x);
    const size_t width = s.C + s.T;
    for (size_t i = first; i < size_t(s.BH) * s.C; i += stride) {
        const size_t from = i / s.C * width + i % s.C;
        if (params.geometry.track_importance) params.after.importance[i] = params.importance_next[from];
        if (params.geometry.track_entropy) params.after.entropy[i] = params.entropy_next[from];
    }
    for (int tensor = 0; tensor < copies.count; ++tensor) {
        const auto &copy = copies.tensors[tensor];
        for (size_t i = first; i < copy.words; i += stride) copy.to[i] = copy.from[i];
    }
}

__device__ __forceinline__ Statistics statistics_of(const RetentiveTransitionParams &p, const Shape &s, int bh) {
    const size_t next = size_t(bh) * (s.C + s.T), now = size_t(bh) * s.C;
    return Statistics{p.importance_next + next, p.entropy_next + next,
                      p.geometry.track_importance ? p.after.importance + now : nullptr,
                      p.geometry.track_entropy ? p.after.entropy + now : nullptr, s.C};
}

// Grid (T, B Hkv). With one token the memory follows at once; else what leaves waits in the workspace.
template <typename Element>
__global__ void __launch_bounds__(kMoveThreads)
    transition_move(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s) {
    __shared__ MoveShared shared;
    const int t = blockIdx.x, bh = blockIdx.y;
    let_next_kernel_start();
    wait_for_previous_kernel();
    const AllRows<Element> rows(params.geometry, params.after, s, params.key_scale, bh, shared);
    const int64_t *victims = params.victims + size_t(bh) * s.L * s.T + t;
    const Token token =
        demote<true>(rows, new_token<Element>(params.key, params.value, params.token_meta, s, bh, t), t,
                     statistics_of(params, s, bh), [&](int tier) { return victims[size_t(tier) * s.T]; });
    if (s.T == 1 && recall_blocks(s) == 0) return absorb(rows, token, params.absorption[bh], params.retention[bh]);
    const LeavingTokens to(s, static_cast<char *>(params.workspace), bh);
    to.put(rows, t, token);
    if (t == 0 && recall_blocks(s) > 0) to.begin();
}

// Memory row of each token, from the memory before the step. Grid (T, B Hkv).
template <typename Element>
__global__ void __launch_bounds__(kMoveThreads)
    transition_route(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s) {
    __shared__ MoveShared shared;
    const int t = blockIdx.x, bh = blockIdx.y;
    let_next_kernel_start();
    wait_for_previous_kernel();
    const AllRows<Element> rows(params.geometry, params.after, s, params.key_scale, bh, shared);
    const Memory<AllRows<Element>> memory{rows};
    const LeavingTokens tokens(s, static_cast<char *>(params.workspace), bh);
    const Token token = tokens.get(rows, t);
    float before = 0.0f;
    for (int i = threadIdx.x; i < t; i += blockDim.x) {
        const int2 other = tokens.meta[i];
        before += memory.recalls(other.x, other.y) ? 1.0f : 0.0f;
    }
    const int target = memory.template route<4>(token, int(block_sum(before, shared.reduction)));
    if (threadIdx.x == 0) tokens.targets[t] = target;
}

// T = 1 with many recall rows: each block looks at some of them, the last one merges. kStores: of the memory.
// `untouched`: no kernel ahead that may still run writes the memory, so that a block reads its part before it waits.
// Grid (recall blocks, B Hkv).
template <typename Element, Stores kStores>
__global__ void __launch_bounds__(kMoveThreads)
    transition_absorb(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s,
                      const bool untouched) {
    using Rows = HeadRows<Element, kStores>;
    __shared__ MoveShared shared;
    __shared__ RecallShared<typename Rows::StoredKeys> kept;
    const int bh = blockIdx.y, parts = gridDim.x;
    let_next_kernel_start();
    if (!untouched) wait_for_previous_kernel();
    const Rows rows(params.geometry, params.after, s, params.key_scale, bh, shared);
    const Memory<Rows> memory{rows};
    const int first = blockIdx.x * recall_part(s), last = min(first + recall_part(s), memory.recall_rows());
    const KeptRecall<Rows> part{rows, kept, first};
    part.bring(last);
    wait_for_previous_kernel();
    const LeavingTokens tokens(s, static_cast<char *>(params.workspace), bh);
    const Token token = tokens.get(rows, 0);
    const float weight = params.absorption[bh], retention = params.retention[bh];
    int m = kDropped;
    if (memory.recalls(token.position, token.cell)) {
        const Recall found = memory.template recall<1>(part, token.key, first, last);
        if (threadIdx.x == 0) tokens.found[blockIdx.x] = found;
        if (!is_last_block(tokens.ticket, parts)) return;
        m = memory.recalled_row(tokens.all_found(parts), 0);
    } else if (blockIdx.x == 0) {
        m = memory.patch(token);
    }
    if (m == kDropped) return;
    memory.merge(m, weight, weight * token.key, weight * token.value, token.position, retention);
}

// Each memory row takes in its tokens in their order. Grid (M, B Hkv).
template <typename Element>
__global__ void __launch_bounds__(kMoveThreads)
    transition_merge(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s) {
    __shared__ MoveShared shared;
    __shared__ int targets[kMoveThreads];
    const int m = blockIdx.x, bh = blockIdx.y;
    let_next_kernel_start();
    wait_for_previous_kernel();
    const AllRows<Element> rows(params.geometry, params.after, s, params.key_scale, bh, shared);
    const LeavingTokens tokens(s, static_cast<char *>(params.workspace), bh);
    float added = 0.0f, key = 0.0f, value = 0.0f;
    int newest = -1;
    for (int base = 0; base < s.T; base += kMoveThreads) {
        const int own = base + int(threadIdx.x);
        targets[threadIdx.x] = own < s.T ? tokens.targets[own] : kDropped;
        if (!__syncthreads_or(targets[threadIdx.x] == m)) continue;
        for (int i = 0; i < min(kMoveThreads, s.T - base); ++i) {
            if (targets[i] != m) continue;
            const int t = base + i;
            const float weight = params.absorption[size_t(bh) * s.T + t];
            added += weight, newest = max(newest, tokens.meta[t].x);
            if (!rows.has_channel()) continue;
            key += weight * tokens.keys[size_t(t) * s.D + threadIdx.x];
            value += weight * tokens.values[size_t(t) * s.D + threadIdx.x];
        }
        __syncthreads();
    }
    Memory<AllRows<Element>>{rows}.merge(m, added, key, value, newest, params.retention[bh]);
}

// Whether token j comes after token i in a scan order.
__device__ __forceinline__ bool comes_after(int64_t other, int64_t mine, int j, int i) {
    return other > mine || (other == mine && j > i);
}

// a_i h^(tokens of its kind after this one): text by position, visual the mean of row and column order. Grid (T, B
// Hkv).
__global__ void __launch_bounds__(kMoveThreads)
    transition_weights(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s) {
    __shared__ float scratch[kMoveThreads / kWarpSize];
    const int t = blockIdx.x, bh = blockIdx.y;
    let_next_kernel_start();
    wait_for_previous_kernel();
    const LeavingTokens tokens(s, static_cast<char *>(params.workspace), bh);
    const int2 own = tokens.meta[t];
    const auto by_column = [](int cell) {
        return int64_t(cell % RETENTIVE_CELL_STRIDE) * RETENTIVE_CELL_STRIDE + cell / RETENTIVE_CELL_STRIDE;
    };
    const bool visual = own.y >= 0;
    float first = 0.0f, second = 0.0f;
    for (int j = threadIdx.x; j < s.T; j += blockDim.x) {
        const int2 other = tokens.meta[j];
        if (other.x < 0 || (other.y >= 0) != visual) continue;
        if (comes_after(visual ? other.y : other.x, visual ? own.y : own.x, j, t)) first += 1.0f;
        if (visual && comes_after(by_column(other.y), by_column(own.y), j, t)) second += 1.0f;
    }
    first = block_sum(first, scratch), second = block_sum(second, scratch);
    if (threadIdx.x != 0) return;
    const float h = params.retention[bh];
    const float weight = visual ? 0.5f * (powf(h, first) + powf(h, second)) : powf(h, first);
    tokens.weights[t] = own.x >= 0 ? weight * params.absorption[size_t(bh) * s.T + t] : 0.0f;
}

// S = h^n S + sum w k^T v. Grid (D, B Hkv, 2): one block a row of S_T (z = 0) or S_V.
__global__ void __launch_bounds__(kMoveThreads)
    transition_residual(const __grid_constant__ RetentiveTransitionParams params, const __grid_constant__ Shape s) {
    __shared__ float scratch[kMoveThreads / kWarpSize];
    const int row = blockIdx.x, bh = blockIdx.y, channel = threadIdx.x;
    const bool visual = blockIdx.z == 1;
    let_next_kernel_start();
    wait_for_previous_kernel();
    const LeavingTokens tokens(s, static_cast<char *>(params.workspace), bh);
    const auto chosen = [&](int t) {
        const int2 meta = tokens.meta[t];
        return meta.x >= 0 && (meta.y >= 0) == visual;
    };
    float mine = 0.0f;
    for (int t = threadIdx.x; t < s.T; t += blockDim.x) mine += chosen(t) ? 1.0f : 0.0f;
    const float count = block_sum(mine, scratch);
    if (count == 0.0f || channel >= s.D) return;
    float *state =
        (visual ? params.after.visual_state : params.after.recall_state) + (size_t(bh) * s.D + row) * s.D + channel;
    float x = *state * powf(params.retention[bh], count);
    for (int t = 0; t < s.T; ++t)
        if (chosen(t))
            x += tokens.weights[t] * tokens.keys[size_t(t) * s.D + row] * tokens.values[size_t(t) * s.D + channel];
    *state = x;
}

} // namespace retentive
