// Second launch with one new token: the logits that the first launch kept become outputs and statistics. The attention
// alone ends here; the whole step (step/finish.cuh) goes on with the same pieces.
#pragma once

#include "attention/norms.cuh"
#include "attention/staging.cuh"
#include "common/token.cuh"

namespace retentive {

constexpr int kMaxGroups = 64; // query heads of a KV head, as checked on the host

// Views into the attention's workspace for one KV head.
struct SplitView {
    const SplitStats *stats; // [queries of whole tiles, splits]
    const SplitRows *rows;   // [splits]
    const float *partial;    // [G T, splits, D]
    const float *logits;     // as Shape::logit_at, T = 1 only
    int splits;

    __device__ __forceinline__ SplitView(const Shape &s, const AttentionPlan &plan, const AttentionWorkspace &at,
                                         const void *workspace, int bh)
        : splits(plan.splits) {
        const char *base = static_cast<const char *>(workspace);
        stats = reinterpret_cast<const SplitStats *>(base + at.stats) +
                size_t(bh) * plan.query_tiles * kTileQueries * splits;
        rows = reinterpret_cast<const SplitRows *>(base + at.rows) + size_t(bh) * splits;
        partial = reinterpret_cast<const float *>(base + at.partial) + size_t(bh) * s.GT * splits * s.D;
        logits = reinterpret_cast<const float *>(base + at.logits) + size_t(bh) * s.GT * s.logits();
    }

    // Of the new token.
    __device__ __forceinline__ const float *fresh_logit(const Shape &s, int g) const {
        return logits + s.logit_at(s.fresh_logits()) + g * kStageRows;
    }

    // A split's sums of four channels: number `item` of the G D / 4 of T = 1.
    __device__ __forceinline__ float4 part(const Shape &s, int item, int split) const {
        const int quads = s.D / 4;
        return *reinterpret_cast<const float4 *>(partial + (size_t(item / quads) * splits + split) * s.D +
                                                 item % quads * 4);
    }
    // Of the logits that the split's sums of this item are relative to.
    __device__ __forceinline__ float maximum(const Shape &s, int item, int split) const {
        return stats[size_t(item / (s.D / 4)) * splits + split].maximum;
    }
};

// What a block needs of its head before anything else, on its way through shared memory: a load would have to wait for
// those that come after it.
struct HeadAhead {
    static constexpr int kQueries = kFinishThreads / kWarpSize; // the first ones, one a warp

    SplitStats stats[kQueries][kAhead];
    SplitRows rows[kAhead];
    float logits[kQueries]; // of the new token
    int2 token;

    // All threads of the block.
    __device__ __forceinline__ void send(const Shape &s, const SplitView &view, const int32_t *token_meta) {
        const int warp = warp_index(), lane = threadIdx.x % kWarpSize, splits = min(view.splits, kAhead);
        if (warp < s.G) {
            const char *from = reinterpret_cast<const char *>(view.stats + size_t(warp) * view.splits);
            for (int i = lane; i < 2 * splits; i += kWarpSize)
                copy_async16(reinterpret_cast<char *>(stats[warp]) + 16 * i, from + 16 * i);
            if (lane == 0) copy_async<4>(&logits[warp], view.fresh_logit(s, warp));
        }
        if (int(threadIdx.x) < splits) copy_async16(&rows[threadIdx.x], view.rows + threadIdx.x);
        if (threadIdx.x == 0) copy_async<8>(&token, token_meta);
        commit_copies();
    }

    // All threads of the block; synchronises.
    __device__ __forceinline__ void arrive() const {
        wait_for_copies<0>();
        __syncthreads();
    }
};

// What a block knows of its head: shared memory, filled by load().
struct DecodeHead {
    QueryNorm norms[kMaxGroups];
    float2 fresh[kMaxGroups]; // what each query gives to the new token: received, surprise
    SplitRows rows;

    // `ahead` has arrived. All threads of the block; synchronises.
    __device__ __forceinline__ void load(const Shape &s, const SplitView &view, const HeadAhead &ahead,
                                         const RetentiveGate &gate) {
        const int warp = warp_index(), warps = blockDim.x / kWarpSize;
        const SplitRows sum = sum_rows(ahead.rows, view.rows, view.splits);
#pragma unroll 1
        for (int g = warp; g < s.G; g += warps) {
            const bool sent = g == warp; // one piece of code for the first ones and for the others
            set(g, s, view, sent ? ahead.stats[warp] : view.stats + size_t(g) * view.splits,
                sent ? &ahead.logits[warp] : view.fresh_logit(s, g), sum.visual, gate, ahead.token);
        }
        if (threadIdx.x == 0) rows = sum;
        __syncthreads();
    }

    // Of the new token.
    __device__ __forceinline__ float2 fresh_statistics(int groups) const {
        float2 sum = make_float2(0, 0);
#pragma unroll 1
        for (int g = 0; g < groups; ++g) sum.x += fresh[g].x, sum.y += fresh[g].y;
        return sum;
    }

    // Mean over text queries, of which there is the group's or none.
    __device__ __forceinline__ float visual_entropy(int groups) const {
        float sum = 0.0f;
#pragma unroll 1
        for (int g = 0; g < groups; ++g) sum += norms[g].text * norms[g].entropy;
        return sum / float(groups);
    }

    __device__ __forceinline__ void column(const SplitView &view, int groups, int logit, bool visual, float &received,
                                           float &surprise) const {
        received = surprise = 0.0f;
#pragma unroll 2
        for (int g = 0; g < groups; ++g)
            add_column(norms[g], view.logits[logit + g * kStageRows], visual, received, surprise);
    }

  private:
    // Query head g; `first`: its first splits.
    __device__ __forceinline__ void set(int g, const Shape &s, const SplitView &view, const SplitStats *first,
                                        const float *logit, float rows_visual, const RetentiveGate &gate, int2 token) {
        const Running all = gather_splits(first, view.stats + size_t(g) * view.splits, view.splits);
        if (threadIdx.x % kWarpSize != 0) return;
        const bool valid = token.x >= 0, text = valid && token.y < 0;
        const QueryNorm norm = norm_of(all, {valid, text, valid && !text, 1.0f, 1.0f}, rows_visual, gate, s.G);
        float2 own = make_float2(0, 0);
        add_column(norm, *logit, valid && !text, own.x, own.y);
        norms[g] = norm, fresh[g] = own;
    }
};

// How the outputs of a head are dealt out: four adjacent channels are an item, for as many lanes of a warp as it takes to
// have half of its splits each.
struct OutputTurn {
    int lanes; // of an item: 4, 8, 16 or 32
    int first; // item of this lane, of the G D / 4
    int split; // first of this lane

    __device__ __forceinline__ OutputTurn(int splits, int block) {
        const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
        lanes = splits > 32 ? 32 : splits > 16 ? 16 : splits > 8 ? 8 : 4;
        first = (block * warps + warp_index()) * (kWarpSize / lanes) + lane / lanes;
        split = lane % lanes;
    }
    __device__ __forceinline__ int step(int blocks) const { return blocks * int(blockDim.x) / lanes; }
};

// What a lane reads of the splits' outputs for its first item, sent for early.
struct OutputAhead {
    static constexpr int kLoads = 2;
    float4 part[kLoads];
    float maximum[kLoads];

    __device__ __forceinline__ void load(const Shape &s, const SplitView &view, int block) {
        const OutputTurn turn(view.splits, block);
        if (turn.first >= s.G * (s.D / 4)) return;
#pragma unroll
        for (int k = 0; k < kLoads; ++k) {
            const int split = turn.split + k * turn.lanes;
            if (split >= view.splits) break;
            part[k] = view.part(s, turn.first, split), maximum[k] = view.maximum(s, turn.first, split);
        }
    }
};

// One head's outputs, spread over `blocks` blocks.
template <typename Element>
__device__ __forceinline__ void decode_output(const Shape &s, const SplitView &view, const DecodeHead &head,
                                              const OutputAhead &ahead, int block, int blocks, Element *output) {
    const OutputTurn turn(view.splits, block);
    const int items = s.G * (s.D / 4), step = turn.step(blocks);
#pragma unroll 1
    for (int item = turn.first; __any_sync(kFullWarp, item < items); item += step) {
        const bool there = item < items;
        const QueryNorm &norm = head.norms[there ? item * 4 / s.D : 0];
        float sum[4] = {};
        const auto add = [&](const float4 &part, float maximum) {
            const float factor = power_of_2(maximum - norm.maximum);
            sum[0] += factor * part.x, sum[1] += factor * part.y, sum[2] += factor * part.z, sum[3] += factor * part.w;
        };
        int split = there ? turn.split : view.splits;
        if (item == turn.first) {
#pragma unroll
            for (int k = 0; k < OutputAhead::kLoads; ++k, split += turn.lanes)
                if (split < view.splits) add(ahead.part[k], ahead.maximum[k]);
        }
#pragma unroll 2
        for (; split < view.splits; split += turn.lanes) add(view.part(s, item, split), view.maximum(s, item, split));
#pragma unroll 1
        for (int offset = turn.lanes / 2; offset > 0; offset /= 2)
#pragma unroll
            for (float &x : sum) x += __shfl_xor_sync(kFullWarp, x, offset);
        const float x = turn.split == 0 ? sum[0] : turn.split == 1 ? sum[1] : turn.split == 2 ? sum[2] : sum[3];
        if (there && turn.split < 4)
            output[size_t(item) * 4 + turn.split] =
                from_float<Element>(x * (norm.inverse / kProbabilityScale<Element>));
    }
}

// Grid (column blocks and, unless the residual readout wrote the output already, output blocks; B Hkv). `keep`: the new
// token, for what follows of the step.
template <typename Element>
__global__ void __launch_bounds__(kFinishThreads)
    attention_decode(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                     const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                     const bool keep) {
    __shared__ HeadAhead ahead;
    __shared__ DecodeHead head;
    const SplitView view(shape, plan, at, params.workspace, int(blockIdx.y));
    const int bh = blockIdx.y;

    let_next_kernel_start();
    wait_for_previous_kernel();
    ahead.send(shape, view, params.token_meta + 2 * (bh / shape.Hkv));
    const int output_block = int(blockIdx.x) - at.column_blocks;
    OutputAhead parts;
    if (output_block >= 0) parts.load(shape, view, output_block);
    ahead.arrive();
    const int2 token = ahead.token;
    if (keep && blockIdx.x == 0)
        KeptToken(shape, at, static_cast<char *>(params.workspace), bh)
            .put(shape, new_token<Element>(params.key, params.value, params.token_meta, shape, bh, 0));
    head.load(shape, view, ahead, params.gate);
    if (output_block >= 0)
        return decode_output(shape, view, head, parts, output_block, at.output_blocks,
                             static_cast<Element *>(params.output) + size_t(bh) * shape.G * shape.D);
    for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < shape.columns; c += at.column_blocks * blockDim.x) {
        const int2 meta = c < shape.R ? load_meta(params.state.row_meta, size_t(bh) * shape.R + c) : token;
        float received, surprise;
        head.column(view, shape.G, shape.logit_at(shape.place_of(c)), meta.x >= 0 && meta.y >= 0, received, surprise);
        params.received[size_t(bh) * shape.columns + c] = received;
        params.surprise[size_t(bh) * shape.columns + c] = surprise;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) params.visual_entropy[bh] = head.visual_entropy(shape.G);
}

} // namespace retentive
