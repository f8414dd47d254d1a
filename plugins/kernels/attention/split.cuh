// First launch of decode's attention, with rows of 16-bit numbers or codes: each block attends to a part of the rows
// ("split") for a tile of 8 queries. Its warps take stages of rows in turn, each with a softmax of its own, and add up
// at the end; exact rows (with the new tokens) and codes are two sums, joined like those of two warps.
#pragma once

#include "attention/split_pass.cuh"

namespace retentive {

// Shared memory: operands of the exact queries and, where there are codes, of those for codes; then per warp the rows
// on their way, and in their place what it summed up. kBits: of the codes, 0 where there are none.
template <typename Element, int kDim, int kRows, int kBits> struct SplitShared {
    static constexpr int kCodeBits = kBits == 0 ? 8 : kBits; // what is not there has a type all the same
    static constexpr int kSumCount = kBits == 0 ? 1 : 2;     // of a warp
    static constexpr int kStride = kDim + 8;                 // floats; spreads the queries over the banks
    static constexpr int kSumBytes = kTileQueries * kStride * int(sizeof(float));
    static constexpr int kQueryBytes = kFragmentBytes<kDim, false> + (kBits == 0 ? 0 : kFragmentBytes<kDim, true>);
    static constexpr int kExactRows = kBits == 0 ? kRows : kTileRows;                       // that a warp takes at once
    static constexpr int kStages = kBits == 0 && kRows == kTileRows && kDim <= 128 ? 2 : 1; // of exact rows
    using ExactPass = SplitPass<Element, kDim, kExactRows, StagedExact<Element, kDim>, kStages>;
    static constexpr int kExactBytes = ExactPass::kBytes;
    static constexpr int kCodeBytes = SplitPass<Element, kDim, kRows, StagedCodes<kDim, kCodeBits>>::kBytes;
    static constexpr int most(int a, int b) { return a > b ? a : b; }
    static constexpr int kWarpBytes =
        most(kExactBytes, kBits == 0 ? kSumBytes : most(kCodeBytes, kSumBytes) + kSumBytes);
    static constexpr int kBytes = kQueryBytes + kAttentionWarps * kWarpBytes;

    // Of a warp's sums; the first one's are there while codes are on their way.
    static __device__ __forceinline__ float *sums(char *memory, int warp, int number) {
        const int at = warp * kWarpBytes + (number + 1 < kSumCount ? kWarpBytes - kSumBytes : 0);
        return reinterpret_cast<float *>(memory + at);
    }
};

// The warps' sums of a query tile become the split's.
template <typename Shared>
__device__ __forceinline__ void
join_sums(const Shape &s, const AttentionPlan &plan, int bh, int query_tile, int split,
          const SplitStats (&warp_stats)[Shared::kSumCount][kAttentionWarps][kTileQueries], char *memory,
          SplitStats *stats, float *partial) {
    constexpr int kCount = Shared::kSumCount;
    const int first = query_tile * kTileQueries, queries = min(kTileQueries, s.GT - first), quads = s.D / 4;
#pragma unroll 1
    for (int i = threadIdx.x; i < queries * quads; i += kAttentionWarps * kWarpSize) {
        const int q = i / quads, channel = i % quads * 4;
        float top = kNothing;
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int n = 0; n < kCount; ++n)
#pragma unroll
            for (int w = 0; w < kAttentionWarps; ++w) top = fmaxf(top, warp_stats[n][w][q].maximum);
#pragma unroll
        for (int n = 0; n < kCount; ++n)
#pragma unroll
            for (int w = 0; w < kAttentionWarps; ++w) {
                const float factor = power_of_2(warp_stats[n][w][q].maximum - top);
                const float4 x =
                    *reinterpret_cast<const float4 *>(Shared::sums(memory, w, n) + q * Shared::kStride + channel);
                sum.x += factor * x.x, sum.y += factor * x.y, sum.z += factor * x.z, sum.w += factor * x.w;
            }
        *reinterpret_cast<float4 *>(partial + ((size_t(bh) * s.GT + first + q) * plan.splits + split) * s.D + channel) =
            sum;
    }
    if (threadIdx.x >= queries) return;
    Running all;
#pragma unroll
    for (int n = 0; n < kCount; ++n)
#pragma unroll
        for (int w = 0; w < kAttentionWarps; ++w)
            all.maximum = fmaxf(all.maximum, warp_stats[n][w][threadIdx.x].maximum);
#pragma unroll
    for (int n = 0; n < kCount; ++n)
#pragma unroll
        for (int w = 0; w < kAttentionWarps; ++w) all.add(warp_stats[n][w][threadIdx.x]);
    stats[((size_t(bh) * plan.query_tiles + query_tile) * kTileQueries + threadIdx.x) * plan.splits + split] =
        all.stats();
}

// Blocks on a multiprocessor, as AttentionPlan counts on.
template <int kDim> constexpr int kSplitBlocks = kDim > 128 ? 2 : 3;

// Grid (splits, query tiles, B Hkv). kRows: rows that a warp takes at once. kFew: there are up to kFewQueries queries.
// `statistics`: also sum importance and entropy over the rows, for the whole step.
template <typename Element, int kDim, int kRows, int kBits, bool kFew>
__global__ void __launch_bounds__(kAttentionWarps *kWarpSize, kSplitBlocks<kDim>)
    attention_split(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                    const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                    const bool statistics) {
    using Shared = SplitShared<Element, kDim, kRows, kBits>;
    using Exact = StagedExact<Element, kDim>;
    using Codes = std::conditional_t<kFew, FewCodes<kDim, Shared::kCodeBits>, StagedCodes<kDim, Shared::kCodeBits>>;
    using ExactPass = typename Shared::ExactPass;
    using CodesPass = SplitPass<Element, kDim, kRows, Codes>;
    extern __shared__ __align__(128) char block_memory[];
    __shared__ float factors[Shared::kSumCount][kTileQueries];
    __shared__ SplitStats warp_stats[Shared::kSumCount][kAttentionWarps][kTileQueries];
    __shared__ SplitRows warp_rows[kAttentionWarps];

    const int warp = warp_index(), lane = threadIdx.x % kWarpSize, split = blockIdx.x, bh = blockIdx.z;
    const int queries = shape.GT - int(blockIdx.y) * kTileQueries; // of the tile, and of those after it
    char *workspace = static_cast<char *>(params.workspace), *memory = block_memory + Shared::kQueryBytes;
    uint4 *fragments = reinterpret_cast<uint4 *>(block_memory);
    uint4 *code_fragments = reinterpret_cast<uint4 *>(block_memory + kFragmentBytes<kDim, false>);
    char *stage = memory + warp * Shared::kWarpBytes;
    const HeadSources head{params, shape, bh};
    SplitWarp mine{head, int(blockIdx.y), statistics && blockIdx.y == 0, {}};
    float *const exact_logits = head.logits(at, blockIdx.y * kTileQueries + ExactPass::Lanes::query()),
                 *const code_logits = head.logits(at, blockIdx.y * kTileQueries + CodesPass::Lanes::query());
    const TileTurn turn = {warp * plan.splits + split, plan.splits * kAttentionWarps}; // all blocks get as much to do
    const Tiles exact_tiles = {head.exact<Element>(), turn.first(0), plan.exact_tiles},
                code_tiles = {head.coarse(), turn.first(plan.exact_tiles), plan.coarse_tiles},
                new_tiles = {head.fresh<Element>(), turn.first(plan.exact_tiles + plan.coarse_tiles), plan.fresh_tiles};
    const TwoSources exact = {exact_tiles, new_tiles, turn.readers};
    const OneSource codes = {code_tiles, turn.readers};

    ExactPass::prefetch_tile(exact_tiles); // while the kernel before ends
    if constexpr (kBits != 0) CodesPass::prefetch_tile(code_tiles);
    wait_for_previous_kernel();
    let_next_kernel_start(); // in this order: step_finish counts on it

    // Nothing can be done without the queries, which go ahead of the rows. They and the scales lie where their operands
    // will.
    send_queries<Element>(params, shape, bh, blockIdx.y, fragments);
    if constexpr (kBits != 0) send_key_scale(params, shape, bh, reinterpret_cast<float *>(code_fragments));
    commit_copies();
    Ahead ahead;
    if (exact.any()) {
        ExactPass::send(mine, exact, stage, ahead);
        wait_for_copies<2 * Shared::kStages>();
    } else if (kBits != 0 && codes.any()) {
        CodesPass::send(mine, codes, stage, ahead);
        wait_for_copies<2>();
    } else {
        wait_for_copies<0>();
    }
    __syncthreads();
    QueryFragments<Element, kDim, Exact> exact_queries;
    exact_queries.load(reinterpret_cast<const Element *>(fragments), nullptr, queries, shape.D);
    QueryFragments<Element, kDim, Codes> code_queries;
    if constexpr (kBits != 0)
        code_queries.load(reinterpret_cast<const Element *>(fragments), reinterpret_cast<const float *>(code_fragments),
                          queries, shape.D);
    __syncthreads();
    exact_queries.store(params.scale, fragments, factors[0]);
    if constexpr (kBits != 0) code_queries.store(params.scale, code_fragments, factors[1]);
    __syncthreads();

    {
        ExactPass pass(mine, fragments, stage, factors[0], exact_logits);
        pass.attend(exact, ahead);
        pass.template store<Shared::kStride>(queries, Shared::sums(memory, warp, 0), warp_stats[0][warp]);
    }
    if constexpr (kBits != 0) {
        CodesPass pass(mine, code_fragments, stage, factors[1], code_logits);
        pass.attend(codes, ahead);
        pass.template store<Shared::kStride>(queries, Shared::sums(memory, warp, 1), warp_stats[1][warp]);
    }
    const RowCounts &counts = mine.counts;
    const float importance = warp_sum(counts.importance), entropy = warp_sum(counts.entropy);
    if (lane == 0) warp_rows[warp] = SplitRows{importance, entropy, float(counts.occupied), float(counts.visual)};
    __syncthreads();

    if (blockIdx.y == 0 && threadIdx.x == 0) {
        SplitRows all = warp_rows[0];
        for (int w = 1; w < kAttentionWarps; ++w) {
            all.importance += warp_rows[w].importance, all.entropy += warp_rows[w].entropy;
            all.occupied += warp_rows[w].occupied, all.visual += warp_rows[w].visual;
        }
        reinterpret_cast<SplitRows *>(workspace + at.rows)[size_t(bh) * plan.splits + split] = all;
        if (split == 0) reinterpret_cast<unsigned *>(workspace + at.tickets)[bh] = 0;
    }
    join_sums<Shared>(shape, plan, bh, blockIdx.y, split, warp_stats, memory,
                      reinterpret_cast<SplitStats *>(workspace + at.stats),
                      reinterpret_cast<float *>(workspace + at.partial));
}

} // namespace retentive
