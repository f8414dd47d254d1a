// Output and normalisers query by query: the second launch of prefill, a warp for each query; and of every step with the
// residual readout, a block for each.
#pragma once

#include "attention/decode.cuh"

namespace retentive {

// A query's token and how it stands among the step's T; one warp.
__device__ __forceinline__ QueryToken query_token(const RetentiveGate &gate, const int32_t *token_meta, int steps,
                                                  int order) {
    int later = 0, visual = 0;
#pragma unroll 4
    for (int first = 0; first < steps; first += kWarpSize) {
        const int t = first + int(threadIdx.x % kWarpSize);
        const int2 meta = t < steps ? load_meta(token_meta, size_t(t)) : make_int2(-1, -1);
        later += __popc(__ballot_sync(kFullWarp, t > order && meta.x >= 0));
        visual += __popc(__ballot_sync(kFullWarp, t <= order && meta.x >= 0 && meta.y >= 0));
    }
    const int2 own = load_meta(token_meta, size_t(order));
    QueryToken token;
    token.valid = own.x >= 0, token.text = own.x >= 0 && own.y < 0;
    token.visual = visual;
    token.importance_kept = powf(gate.importance_decay, float(later));
    token.entropy_kept = powf(gate.entropy_decay, float(later));
    return token;
}

// The normalisers of query number `query` of a head, kept in the workspace; one warp, every lane gets them.
__device__ __forceinline__ QueryNorm combine_norm(const RetentiveAttentionParams &params, const Shape &s,
                                                  const AttentionWorkspace &at, const SplitView &view, int bh,
                                                  int query) {
    const SplitStats *stats = view.stats + size_t(query) * view.splits;
    const QueryToken token =
        query_token(params.gate, params.token_meta + size_t(bh / s.Hkv) * s.T * 2, s.T, query % s.T);
    const SplitRows rows = sum_rows(view.rows, view.splits);
    const Running all = gather_splits(stats, stats, view.splits);
    QueryNorm norm = norm_of(all, token, params.gate, s.G);
    norm.entropy = entropy_share(norm.entropy, rows.visual + float(token.visual));
    if (threadIdx.x % kWarpSize == 0)
        reinterpret_cast<QueryNorm *>(static_cast<char *>(params.workspace) + at.norms)[size_t(bh) * s.GT + query] =
            norm;
    return norm;
}

// Grid (G T / 8, B Hkv), eight queries a block.
template <typename Element>
__global__ void __launch_bounds__(kFinishThreads)
    prefill_combine(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                    const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at) {
    constexpr int kChannels = 4; // of a lane at once
    const int query = blockIdx.x * (kFinishThreads / kWarpSize) + warp_index(), bh = blockIdx.y;
    const SplitView view(shape, plan, at, params.workspace, bh);

    let_next_kernel_start();
    wait_for_previous_kernel();
    if (query >= shape.GT) return;
    const QueryNorm norm = combine_norm(params, shape, at, view, bh, query);
    const size_t first = size_t(query) * view.splits;
    Element *output = static_cast<Element *>(params.output) + (size_t(bh) * shape.GT + query) * shape.D;
#pragma unroll 1
    for (int channel = threadIdx.x % kWarpSize * kChannels; channel < shape.D; channel += kWarpSize * kChannels) {
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
        for (int i = 0; i < view.splits; ++i) {
            const float factor = power_of_2(view.stats[first + i].maximum - norm.maximum);
            const float4 x = *reinterpret_cast<const float4 *>(view.partial + (first + i) * shape.D + channel);
            sum.x += factor * x.x, sum.y += factor * x.y, sum.z += factor * x.z, sum.w += factor * x.w;
        }
        const float scale = norm.inverse / kProbabilityScale<Element>;
        struct alignas(sizeof(Element) * kChannels) Channels {
            Element x[kChannels];
        };
        *reinterpret_cast<Channels *>(output + channel) = {
            from_float<Element>(sum.x * scale), from_float<Element>(sum.y * scale), from_float<Element>(sum.z * scale),
            from_float<Element>(sum.w * scale)};
    }
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

// The residual readout. Grid (G T, B Hkv), one thread per channel. `keep`: the new token (T = 1), for what follows of the step.
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
    const size_t first = size_t(query) * view.splits;
    if (threadIdx.x < kWarpSize) {
        const QueryNorm combined = combine_norm(params, shape, at, view, bh, query);
        if (threadIdx.x == 0) norm = combined;
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
    x += residual_readout<Element>(params, shape, bh, row, norm.entropy, scaled, scratch);
    if (channel < shape.D) static_cast<Element *>(params.output)[row * shape.D + channel] = from_float<Element>(x);
}

} // namespace retentive
