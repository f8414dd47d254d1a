// First launch of prefill's attention with rows of 16-bit numbers or codes: each block attends to a part of the rows
// ("split") for 64 queries of a head, 16 a warp. Rows come through shared memory once for all warps; codes are widened
// there to bfloat16. A warp keeps a running softmax of each query and the sums that the entropy gate's statistics need.
#pragma once

#include "attention/prefill_operands.cuh"
#include "attention/running.cuh"
#include "attention/stage_meta.cuh"

namespace retentive {

// Shared memory: the queries, in two terms where there are codes; then two stages of rows, one in use and one on its
// way, each keys and values.
template <int kDim, bool kCodes> struct PrefillShared {
    static constexpr int kRows = kPrefillRows<kDim>, kRowBytes = NumberRows<kDim>::kRowBytes;
    static constexpr int kWarpQueryBytes = (kCodes ? 2 : 1) * kWarpQueries * kRowBytes;
    static constexpr int kQueryBytes = kAttentionWarps * kWarpQueryBytes;
    static constexpr int kHalfBytes = kRows * kRowBytes, kStageBytes = 2 * kHalfBytes;
    static constexpr int kBytes = kQueryBytes + 2 * kStageBytes;
};

// What a warp knows of its queries; the lane has two, g and g + 8.
template <typename Element, int kDim> struct PrefillWarp {
    // As StagedExact::kRoom: how far logits may exceed the running maximum.
    static constexpr float kRoom = StagedExact<Element, kDim>::kRoom;

    const RetentiveGate &gate;
    int order[2]; // of the queries' tokens among the new ones
    RowCounts counts;
    Running running[2];
    float sums[kDim / 8][4] = {};

    __device__ __forceinline__ PrefillWarp(const RetentiveAttentionParams &params, const Shape &s, int query)
        : gate(params.gate) {
#pragma unroll
        for (int half = 0; half < 2; ++half) order[half] = min(query + 8 * half, s.GT - 1) % s.T;
    }

    // Products to probabilities, in place, scaled by the value scales where there are codes.
    template <bool kCodes, bool kPlain, int kParts>
    __device__ __forceinline__ void weigh(float (&x)[kParts][4], float factor, const StageMeta &meta,
                                          const Source &from, int first) {
        const int t = threadIdx.x % 4;
        const unsigned visual = meta.visual >> 2 * t, local = meta.local >> 2 * t;
        unsigned unseen[2] = {0, 0};
        if (!kPlain && from.kind == Source::fresh)
            unseen[0] = tokens_after(order[0], first), unseen[1] = tokens_after(order[1], first);
        float best[2] = {kNothing, kNothing};
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float bias = 0.0f;
                const int i = 8 * part + 2 * t + k;
                if constexpr (!kPlain) bias = __shfl_sync(kFullWarp, meta.bias, i);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float &logit = x[part][2 * half + k];
                    logit = clamp(logit * factor, -kLogitLimit, kLogitLimit);
                    if constexpr (!kPlain) {
                        const bool is_hidden =
                            (unseen[half] >> i & 1) && bias > kMasked; // a row that is not there stays so
                        logit += is_hidden ? kMasked * kLog2e : bias;
                    }
                    best[half] = fmaxf(best[half], logit);
                }
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            best[half] = fmaxf(best[half], __shfl_xor_sync(kFullWarp, best[half], 1));
            best[half] = fmaxf(best[half], __shfl_xor_sync(kFullWarp, best[half], 2));
        }
        if (__any_sync(kFullWarp, best[0] > running[0].maximum + kRoom || best[1] > running[1].maximum + kRoom))
            raise(best);
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float scale = kProbabilityScale<Element>;
                if constexpr (kCodes) scale *= __shfl_sync(kFullWarp, meta.scale, 8 * part + 2 * t + k);
                const bool is_visual = visual >> (8 * part + k) & 1, is_local = local >> (8 * part + k) & 1;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float &p = x[part][2 * half + k];
                    const float distance = p - running[half].maximum, e = power_of_2(distance);
                    if constexpr (kPlain)
                        Running::add(running[half].local, e, distance, is_visual);
                    else
                        running[half].add(e, distance, is_visual, is_local);
                    p = e * scale;
                }
            }
    }

    // Query number `query` of the head is the lane's first.
    __device__ __forceinline__ void store(const Shape &s, const AttentionPlan &plan, int bh, int query, int split,
                                          SplitStats *stats, float *partial) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            running[half].template gather<4>();
            const int number = query + 8 * half;
            if (number >= s.GT) continue;
            if (t == 0)
                stats[(size_t(bh) * plan.query_tiles * kTileQueries + number) * plan.splits + split] =
                    running[half].stats();
            float *to = partial + ((size_t(bh) * s.GT + number) * plan.splits + split) * s.D;
#pragma unroll
            for (int j = 0; j < kDim / 8; ++j)
                if (8 * j < s.D)
                    *reinterpret_cast<float2 *>(to + 8 * j + 2 * t) =
                        make_float2(sums[j][2 * half], sums[j][2 * half + 1]);
        }
    }

  private:
    __device__ __forceinline__ void raise(const float (&best)[2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float by = running[half].raise(fmaxf(best[half], running[half].maximum));
#pragma unroll
            for (auto &of_channels : sums) of_channels[2 * half] *= by, of_channels[2 * half + 1] *= by;
        }
    }
};

// A block's way through rows of one kind; all threads.
template <typename Element, int kDim, bool kCodes> struct PrefillPass {
    using Operand = std::conditional_t<kCodes, __nv_bfloat16, Element>;
    using Shared = PrefillShared<kDim, kCodes>;
    using Rows = NumberRows<kDim>;
    using Pieces = CodePieces<kDim, Shared::kRows, kPrefillThreads>;
    static constexpr int kRows = Shared::kRows;

    const Source from;
    const bool int8; // codes, else int4
    char *const stages;
    Pieces keys, values; // codes on their way; numbers of 16 bits are copied to shared memory directly

    __device__ __forceinline__ PrefillPass(const Source &source, bool are_int8, char *shared)
        : from(source), int8(are_int8), stages(shared) {}

    // Tiles first, first + step, ... below last.
    __device__ __forceinline__ void attend(PrefillWarp<Element, kDim> &warp, const RowWordsOf &words_of,
                                           const char *queries, float factor, int first, int last, int step) {
        if (first >= last) return;
        __syncthreads(); // the stages are free
        RowWords words = load_stage_words<kRows>(words_of, first * kRows);
        send(first, stages);
        int turn = 0;
#pragma unroll 1
        for (int tile = first; tile < last; tile += step, turn ^= 1) {
            const int next = tile + step;
            char *const stage = stages + turn * Shared::kStageBytes;
            arrive(stage);
            if (next < last) send(next, stages + (turn ^ 1) * Shared::kStageBytes);
            const StageMeta meta = digest<kRows>(warp.gate, words, from, tile * kRows, warp.counts);
            if (next < last) words = load_stage_words<kRows>(words_of, next * kRows);
            float x[kRows / 8][4];
            multiply<Element, Operand, kDim, kCodes ? 2 : 1>(queries, stage, x);
            if (__builtin_expect(meta.plain, 1))
                warp.template weigh<kCodes, true>(x, factor, meta, from, tile * kRows);
            else
                warp.template weigh<kCodes, false>(x, factor, meta, from, tile * kRows);
            add_values<Operand, kDim>(x, stage + Shared::kHalfBytes, warp.sums);
        }
    }

  private:
    __device__ __forceinline__ void send(int tile, char *stage) {
        if constexpr (kCodes) {
            keys.load(from.keys, tile * kRows, from.rows, from.dim, int8);
            values.load(from.values, tile * kRows, from.rows, from.dim, int8);
        } else {
            Rows::template send<kRows, kPrefillThreads>(from.keys, tile * kRows, from.rows, from.row_bytes, stage);
            Rows::template send<kRows, kPrefillThreads>(from.values, tile * kRows, from.rows, from.row_bytes,
                                                        stage + Shared::kHalfBytes);
            commit_copies();
        }
    }

    // What was sent for last is there for all warps, and all are done with the stage before.
    __device__ __forceinline__ void arrive(char *stage) const {
        if constexpr (kCodes) {
            keys.store(stage, from.dim, int8), values.store(stage + Shared::kHalfBytes, from.dim, int8);
        } else {
            wait_for_copies<0>();
        }
        __syncthreads();
        if constexpr (!kCodes)
            if (from.kind == Source::fresh) {
                Rows::template sanitize<Element, 2 * kRows, kPrefillThreads>(stage);
                __syncthreads();
            }
    }
};

// Blocks on a multiprocessor: what the registers allow without spilling, as AttentionPlan counts on.
template <int kDim, bool kCodes> constexpr int kPrefillBlocks = kDim > 128 || kCodes ? 2 : 3;

// Grid (splits, blocks of queries, B Hkv).
template <typename Element, int kDim, bool kCodes>
__global__ void __launch_bounds__(kPrefillThreads, (kPrefillBlocks<kDim, kCodes>))
    attention_prefill(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                      const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                      const bool) {
    using Shared = PrefillShared<kDim, kCodes>;
    using Queries = WarpQueries<Element, kDim>;
    extern __shared__ __align__(1024) char rows_and_queries[];
    const int warp = warp_index(), lane = threadIdx.x % kWarpSize, split = blockIdx.x, bh = blockIdx.z;
    const int first_query = blockIdx.y * kBlockQueries + warp * kWarpQueries; // of the warp
    char *queries = rows_and_queries + warp * Shared::kWarpQueryBytes, *stages = rows_and_queries + Shared::kQueryBytes;
    const HeadSources head{params, shape, bh};
    const TileTurn turn = {split, plan.splits};

    let_next_kernel_start();
    wait_for_previous_kernel();
    PrefillWarp<Element, kDim> mine(params, shape, first_query + lane / 4);
    const auto take_queries = [&](bool codes) { // whose turn has come
        __syncwarp();
        Queries::send(Queries::input(params, shape, bh), shape, first_query, queries);
        commit_copies(), wait_for_copies<0>();
        Queries::prepare(params, shape, bh, codes, queries);
        __syncwarp();
        if (split > 0) return;
#pragma unroll 1
        for (int term = 0; term < (codes ? 2 : 1); ++term)
            Queries::keep(queries, term, shape, first_query,
                          Queries::kept(params.workspace, at, shape, bh, codes ? 1 + term : 0));
    };
    if constexpr (kCodes) {
        const Source from = head.coarse();
        take_queries(true);
        PrefillPass<Element, kDim, true> pass(from, params.geometry.coarse_dtype == RETENTIVE_INT8, stages);
        pass.attend(mine, RowWordsOf(head, from, false), queries, Queries::factor(params, true),
                    turn.first(plan.exact_tiles), plan.coarse_tiles, turn.readers);
    }
    take_queries(false);
#pragma unroll 1
    for (int part = 0; part < 2; ++part) { // one piece of code for exact rows and for new tokens
        const Source from = part == 0 ? head.exact<Element>() : head.fresh<Element>();
        PrefillPass<Element, kDim, false> pass(from, false, stages);
        pass.attend(mine, RowWordsOf(head, from, false), queries, Queries::factor(params, false),
                    turn.first(part == 0 ? 0 : plan.exact_tiles + plan.coarse_tiles),
                    part == 0 ? plan.exact_tiles : plan.fresh_tiles, turn.readers);
    }

    char *workspace = static_cast<char *>(params.workspace);
    if (first_query < shape.GT)
        mine.store(shape, plan, bh, first_query + lane / 4, split, reinterpret_cast<SplitStats *>(workspace + at.stats),
                   reinterpret_cast<float *>(workspace + at.partial));
    if (blockIdx.y == 0 && threadIdx.x == 0) // every warp saw the same rows
        reinterpret_cast<SplitRows *>(workspace + at.rows)[size_t(bh) * plan.splits + split] =
            SplitRows{0.0f, 0.0f, float(mine.counts.occupied), float(mine.counts.visual)};
}

} // namespace retentive
