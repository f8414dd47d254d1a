// Output and normalisers query by query: the second launch of prefill, and of every step with the residual readout.
#pragma once

#include "attention/decode.cuh"

namespace retentive {

// A query's token and how it stands among the step's T; all threads of the block, `scratch` one float per warp.
__device__ __forceinline__ QueryToken query_token(const RetentiveGate &gate, const int32_t *token_meta, int steps,
                                                  int order, float *scratch) {
    float later = 0.0f, visual = 0.0f;
    for (int t = threadIdx.x; t < steps; t += blockDim.x) {
        const int2 meta = load_meta(token_meta, size_t(t));
        if (t > order && meta.x >= 0) later += 1.0f;
        if (t <= order && meta.x >= 0 && meta.y >= 0) visual += 1.0f;
    }
    const int2 own = load_meta(token_meta, size_t(order));
    QueryToken token;
    token.valid = own.x >= 0, token.text = own.x >= 0 && own.y < 0;
    later = block_sum(later, scratch), token.visual = int(block_sum(visual, scratch));
    token.importance_kept = powf(gate.importance_decay, later), token.entropy_kept = powf(gate.entropy_decay, later);
    return token;
}

// gamma RMSNorm(q (S_T + S_V)) of this thread's channel.
template <typename Element>
__device__ __forceinline__ float residual_readout(const RetentiveAttentionParams &params, const Shape &s, int bh,
                                                  size_t query, float entropy, float *scaled, float *scratch) {
    const Element *q = static_cast<const Element *>(params.query) + query * s.D;
    for (int d = threadIdx.x; d < s.D; d += blockDim.x) scaled[d] = sanitize(to_float(q[d])) * params.scale;
    __syncthreads();
    const int channel = threadIdx.x;
    float memory = 0.0f;
    if (channel < s.D) {
        const float *recall = params.state.recall_state + size_t(bh) * s.D * s.D + channel;
        const float *visual = params.state.visual_state + size_t(bh) * s.D * s.D + channel;
        for (int i = 0; i < s.D; ++i) memory += scaled[i] * (recall[size_t(i) * s.D] + visual[size_t(i) * s.D]);
    }
    const float square = block_sum(memory * memory, scratch);
    return memory * rsqrtf(square / float(s.D) + 1e-6f) * sigmoid(params.gate.readout, entropy);
}

// Grid (G T, B Hkv), one thread per channel. `keep`: the new token (T = 1), for what follows of the step.
template <typename Element>
__global__ void __launch_bounds__(RETENTIVE_MAX_HEAD_DIM)
    attention_combine(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                      const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                      const bool keep) {
    __shared__ QueryNorm norm;
    __shared__ float scratch[RETENTIVE_MAX_HEAD_DIM / kWarpSize];
    __shared__ float scaled[RETENTIVE_MAX_HEAD_DIM];
    const int query = blockIdx.x, bh = blockIdx.y, channel = threadIdx.x;
    const SplitView view(shape, plan, at, params.workspace, bh);

    let_next_kernel_start();
    wait_for_previous_kernel();
    if (keep && query == 0)
        KeptToken(shape, at, static_cast<char *>(params.workspace), bh)
            .put(shape, new_token<Element>(params.key, params.value, params.token_meta, shape, bh, 0));
    const QueryToken token = query_token(params.gate, params.token_meta + size_t(bh / shape.Hkv) * shape.T * 2, shape.T,
                                         query % shape.T, scratch);
    const size_t first = size_t(query) * view.splits;
    if (threadIdx.x < kWarpSize) {
        const SplitRows rows = sum_rows(view.rows, view.splits);
        const Running all = gather_splits(view.stats + first, view.stats + first, view.splits);
        if (threadIdx.x == 0) {
            norm = norm_of(all, token, rows.visual, params.gate, shape.G);
            reinterpret_cast<QueryNorm *>(static_cast<char *>(params.workspace) +
                                          at.norms)[size_t(bh) * shape.GT + query] = norm;
        }
    }
    __syncthreads();
    float x = 0.0f;
    if (channel < shape.D) {
        for (int i = 0; i < view.splits; ++i)
            x += power_of_2(view.stats[first + i].maximum - norm.maximum) *
                 view.partial[(first + i) * shape.D + channel];
        x *= norm.inverse / kProbabilityScale<Element>;
    }
    const size_t row = size_t(bh) * shape.GT + query;
    if (params.geometry.readout == RETENTIVE_READOUT_RESIDUAL)
        x += residual_readout<Element>(params, shape, bh, row, norm.entropy, scaled, scratch);
    if (channel < shape.D) static_cast<Element *>(params.output)[row * shape.D + channel] = from_float<Element>(x);
}

} // namespace retentive
