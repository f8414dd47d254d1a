// First launch of the gate: both statistics decayed and added to, and their sums over the occupied local rows.
#pragma once

#include "gate/score.cuh"

namespace retentive {

// Of one batch element's new tokens: how many are real, and the newest position. All threads of the block.
struct TokenCount {
    int valid, newest;

    __device__ __forceinline__ TokenCount(const int32_t *token_meta, int steps, float *scratch) {
        float count = 0.0f;
        int latest = -2147483647 - 1;
        for (int t = threadIdx.x; t < steps; t += blockDim.x) {
            const int position = token_meta[2 * t];
            count += position >= 0 ? 1.0f : 0.0f;
            latest = max(latest, position);
        }
        valid = int(block_sum(count, scratch));
        newest = block_max(latest, scratch);
    }
};

// Grid (blocks, B Hkv).
__global__ void __launch_bounds__(kFinishThreads)
    gate_update(const __grid_constant__ RetentiveGateParams params, const __grid_constant__ Shape s) {
    __shared__ float scratch[kFinishThreads / kWarpSize];
    const GateWorkspace at(s);
    const int bh = blockIdx.y, width = s.C + s.T;

    let_next_kernel_start();
    wait_for_previous_kernel();
    const TokenCount tokens(params.token_meta + size_t(bh / s.Hkv) * s.T * 2, s.T, scratch);
    const float importance_kept = powf(params.gate.importance_decay, float(tokens.valid));
    const float entropy_kept = powf(params.gate.entropy_decay, float(tokens.valid));
    const bool importance_there = params.geometry.track_importance != 0,
               entropy_there = params.geometry.track_entropy != 0;
    const float *received = params.received + size_t(bh) * s.columns,
                *surprise = params.surprise + size_t(bh) * s.columns;
    SplitRows sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < width; c += gridDim.x * blockDim.x) {
        const int column = c < s.C ? c : s.R + c - s.C;
        float importance = importance_there ? received[column] : 0.0f,
              entropy = entropy_there ? surprise[column] : 0.0f;
        if (c < s.C) {
            const size_t row = size_t(bh) * s.C + c;
            if (importance_there) importance += params.state.importance[row] * importance_kept;
            if (entropy_there) entropy += params.state.entropy[row] * entropy_kept;
            if (load_meta(params.state.row_meta, size_t(bh) * s.R + c).x >= 0)
                sum.importance += importance, sum.entropy += entropy, sum.occupied += 1.0f;
        }
        params.importance_next[size_t(bh) * width + c] = importance;
        params.entropy_next[size_t(bh) * width + c] = entropy;
    }
    sum.importance = block_sum(sum.importance, scratch), sum.entropy = block_sum(sum.entropy, scratch);
    sum.occupied = block_sum(sum.occupied, scratch);
    if (threadIdx.x != 0) return;
    char *workspace = static_cast<char *>(params.workspace);
    reinterpret_cast<SplitRows *>(workspace + at.sums)[size_t(bh) * at.blocks + blockIdx.x] = sum;
    if (blockIdx.x == 0) reinterpret_cast<unsigned *>(workspace + at.tickets)[bh] = 0;
}

} // namespace retentive
