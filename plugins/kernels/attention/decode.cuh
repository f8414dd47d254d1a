// Second launch with one new token: the splits' parts become outputs, the logits that they kept statistics. The attention
// alone ends here; the whole step (step/finish.cuh) goes on with the same pieces.
#pragma once

#include "attention/norms.cuh"
#include "attention/staging.cuh"
#include "common/token.cuh"

namespace retentive {

constexpr int kMaxGroups = 64; // query heads of a KV head, as checked on the host

// What a split has of four channels of a query's output.
struct OutputPart {
    float2 of_columns = {kNothing, 0.0f}; // the columns' maximum and the sum of e over them
    float4 channels = {0.0f, 0.0f, 0.0f, 0.0f};
};

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

    // A split's part of four channels: number `item` of the G D / 4 of T = 1.
    __device__ __forceinline__ OutputPart output_part(const Shape &s, int item, int split) const {
        const int quads = s.D / 4;
        const size_t row = size_t(item / quads) * splits + split;
        return {*reinterpret_cast<const float2 *>(&stats[row].maximum),
                *reinterpret_cast<const float4 *>(partial + row * s.D + item % quads * 4)};
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
    QueryNorm norms[kMaxGroups]; // entropies in nats
    float2 fresh[kMaxGroups];    // what each query gives to the new token: received, surprise
    SplitRows rows;

    // `ahead` has arrived. All threads of the block; synchronises.
    __device__ __forceinline__ void load(const Shape &s, const SplitView &view, const HeadAhead &ahead,
                                         const RetentiveGate &gate) {
        const int warp = warp_index(), warps = blockDim.x / kWarpSize;
        if (warp == warps - 1) { // which seldom has a query head
            const SplitRows sum = sum_rows(ahead.rows, view.rows, view.splits);
            if (threadIdx.x % kWarpSize == 0) rows = sum;
        }
#pragma unroll 1
        for (int g = warp; g < s.G; g += warps) {
            const bool sent = g == warp; // one piece of code for the first ones and for the others
            set(g, s, view, sent ? ahead.stats[warp] : view.stats + size_t(g) * view.splits,
                sent ? ahead.logits[warp] : *view.fresh_logit(s, g), gate, ahead.token);
        }
        __syncthreads();
    }

    // Of the new token.
    __device__ __forceinline__ float2 fresh_statistics(int groups) const {
        float2 sum = make_float2(0, 0);
#pragma unroll 1
        for (int g = 0; g < groups; ++g) sum.x += fresh[g].x, sum.y += fresh[g].y;
        return sum;
    }

    // Mean over text queries, of which there is the group's or none: the state's visual rows are all that they see.
    __device__ __forceinline__ float visual_entropy(int groups) const {
        float sum = 0.0f;
#pragma unroll 1
        for (int g = 0; g < groups; ++g) sum += norms[g].text * norms[g].entropy;
        return entropy_share(sum / float(groups), rows.visual);
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
                                        float logit, const RetentiveGate &gate, int2 token) {
        const Running all = gather_splits(first, view.stats + size_t(g) * view.splits, view.splits);
        if (threadIdx.x % kWarpSize != 0) return;
        const bool valid = token.x >= 0, text = valid && token.y < 0;
        const QueryNorm norm = norm_of(all, {valid, text, valid && !text, 1.0f, 1.0f}, gate, s.G);
        float2 own = make_float2(0, 0);
        add_column(norm, logit, valid && !text, own.x, own.y);
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

// Parts of an output added up, relative to the largest maximum so far.
struct OutputSum {
    float maximum = kNothing, sum = 0.0f, channels[4] = {};

    __device__ __forceinline__ void add(const OutputPart &part) {
        const float top = fmaxf(maximum, part.of_columns.x), kept = power_of_2(maximum - top),
                    factor = power_of_2(part.of_columns.x - top);
        const float its[4] = {part.channels.x, part.channels.y, part.channels.z, part.channels.w};
        maximum = top, sum = kept * sum + factor * part.of_columns.y;
#pragma unroll
        for (int i = 0; i < 4; ++i) channels[i] = kept * channels[i] + factor * its[i];
    }

    // Over groups of neighbouring lanes; `lanes`: a power of two.
    __device__ __forceinline__ void gather(int lanes) {
        float top = maximum;
#pragma unroll 1
        for (int offset = lanes / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, offset));
        const float kept = power_of_2(maximum - top);
        maximum = top, sum *= kept;
#pragma unroll
        for (float &x : channels) x *= kept;
#pragma unroll 1
        for (int offset = lanes / 2; offset > 0; offset /= 2) {
            sum += __shfl_xor_sync(kFullWarp, sum, offset);
#pragma unroll
            for (float &x : channels) x += __shfl_xor_sync(kFullWarp, x, offset);
        }
    }

    __device__ __forceinline__ float channel(int i) const {
        return i == 0 ? channels[0] : i == 1 ? channels[1] : i == 2 ? channels[2] : channels[3];
    }
};

// One head's outputs, spread over `blocks` blocks. They wait for nothing but the splits.
template <typename Element>
__device__ __forceinline__ void decode_output(const Shape &s, const SplitView &view, int block, int blocks,
                                              Element *output) {
    constexpr int kLoads = 2; // of a lane under way
    const OutputTurn turn(view.splits, block);
    const int items = s.G * (s.D / 4), step = turn.step(blocks);
#pragma unroll 1
    for (int item = turn.first; __any_sync(kFullWarp, item < items); item += step) {
        const bool there = item < items;
        OutputSum sum;
#pragma unroll 1
        for (int split = turn.split; there && split < view.splits; split += kLoads * turn.lanes) {
            OutputPart parts[kLoads];
#pragma unroll
            for (int k = 0; k < kLoads; ++k)
                if (split + k * turn.lanes < view.splits) parts[k] = view.output_part(s, item, split + k * turn.lanes);
#pragma unroll
            for (int k = 0; k < kLoads; ++k) sum.add(parts[k]);
        }
        sum.gather(turn.lanes);
        if (there && turn.split < 4)
            output[size_t(item) * 4 + turn.split] =
                from_float<Element>(sum.channel(turn.split) / (sum.sum * kProbabilityScale<Element>));
    }
}

// Grid (column blocks and, unless the residual readout wrote the output already, output blocks; B Hkv). `keep`: one block
// more keeps the new token, for what follows of the step.
template <typename Element>
__global__ void __launch_bounds__(kFinishThreads)
    attention_decode(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                     const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                     const bool keep) {
    __shared__ HeadAhead ahead;
    __shared__ DecodeHead head;
    const int bh = blockIdx.y, output_block = int(blockIdx.x) - at.column_blocks;
    const SplitView view(shape, plan, at, params.workspace, bh);

    let_next_kernel_start();
    wait_for_previous_kernel();
    if (keep && output_block == at.output_blocks)
        return KeptToken(shape, at, static_cast<char *>(params.workspace), bh)
            .put(shape, new_token<Element>(params.key, params.value, params.token_meta, shape, bh, 0));
    if (output_block >= 0)
        return decode_output(shape, view, output_block, at.output_blocks,
                             static_cast<Element *>(params.output) + size_t(bh) * shape.G * shape.D);
    ahead.send(shape, view, params.token_meta + 2 * (bh / shape.Hkv));
    ahead.arrive();
    const int2 token = ahead.token;
    head.load(shape, view, ahead, params.gate);
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
