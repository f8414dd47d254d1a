// First launch of the attention where attention_split (split.cuh) does not serve: each block attends to a part of the
// rows ("split") for one or four tiles of 8 queries.
//
// A warp takes 16 rows at a time (warp.cuh), keeps a running softmax and the sums that the entropy gate's statistics
// need. With few queries the warps of a block share its rows and add up at the end; with many (prefill) each warp has
// its own queries and the rows come from the L1 cache for all but one.
#pragma once

#include <type_traits>

#include "attention/warp.cuh"

namespace retentive {

// alone: each warp has queries of its own; shared: the warps share a query tile and take turns at the rows.
enum class Mode { alone, shared };

// Shared memory: per query tile of the block the exact operands, and the coarse ones where there are coarse rows; with
// a shared query tile, the warps' sums.
template <typename Element, int kDim, Mode kMode> struct PartialShared {
    static constexpr bool kRowsPerWarp = kMode == Mode::shared;
    static constexpr int kQueryBytes = Traits<Element>::kTerms * QueryTile<kDim>::kTermSize * 2;
    static constexpr int kWarpBytes = kTileQueries * kDim * int(sizeof(float)); // sums

    static __host__ __device__ __forceinline__ int query_bytes(const Shape &s) {
        return (kRowsPerWarp ? 1 : kAttentionWarps) * (s.F > 0 ? 2 : 1) * kQueryBytes;
    }
    static size_t bytes(const Shape &s) {
        return size_t(query_bytes(s)) + (kRowsPerWarp ? kAttentionWarps * kWarpBytes : 0);
    }
};

// Channels 64 h + 16 t .. + 15 of query g: what a lane's sums are, the two operand rows of a query added up.
template <int kSets> __device__ __forceinline__ void store_sums(const float (&sums)[kSets][8][4], int dim, float *to) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < kSets; ++h)
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int channel = 64 * h + 16 * t + 8 * part;
            if (channel >= dim) continue;
#pragma unroll
            for (int j = 0; j < 8; j += 4) {
                float4 x;
                x.x = sums[h][j][part] + sums[h][j][part + 2];
                x.y = sums[h][j + 1][part] + sums[h][j + 1][part + 2];
                x.z = sums[h][j + 2][part] + sums[h][j + 2][part + 2];
                x.w = sums[h][j + 3][part] + sums[h][j + 3][part + 2];
                *reinterpret_cast<float4 *>(to + channel + j) = x;
            }
        }
}

// A warp's way through its tiles, in the order exact, coarse, fresh.
template <typename Element, int kDim, Mode kMode> struct Attending {
    using Warp = Partial<Element, kDim>;
    using Operand = typename Traits<Element>::Operand;
    using Feed = std::conditional_t<kMode == Mode::alone, Prefetched, Direct>;

    Warp &warp;
    const TileTurn turn;

    // factors: of the exact and of the coarse queries. `statistics`: sum importance and entropy over the rows.
    __device__ __forceinline__ void attend(const Operand *queries, const __nv_bfloat16 *coarse_queries,
                                           const float (&factors)[2], bool statistics) const {
        const AttentionPlan &plan = warp.plan;
#pragma unroll 1
        for (int part = 0; part < 2; ++part) { // one piece of code for exact rows and for new tokens
            if (part == 1) {
                warp.query_factor = factors[1];
                coarse_tiles(coarse_queries, turn.first(plan.exact_tiles), plan.coarse_tiles, statistics);
            }
            warp.query_factor = factors[0];
            const Source rows = part == 0 ? warp.exact_rows() : warp.fresh_rows();
            const int first = turn.first(part == 0 ? 0 : plan.exact_tiles + plan.coarse_tiles);
            warp.template tiles<ExactRows<Element, kDim>>(rows, Feed(), queries, first,
                                                          part == 0 ? plan.exact_tiles : plan.fresh_tiles, turn.readers,
                                                          statistics);
        }
    }

  private:
    __device__ __forceinline__ void coarse_tiles(const __nv_bfloat16 *queries, int first, int last,
                                                 bool statistics) const {
        if (first >= last) return;
        if (warp.params.geometry.coarse_dtype == RETENTIVE_INT8)
            warp.template tiles<CoarseRows<kDim, 8>>(warp.coarse_rows(), Feed(), queries, first, last, turn.readers,
                                                     statistics);
        else
            warp.template tiles<CoarseRows<kDim, 4>>(warp.coarse_rows(), Feed(), queries, first, last, turn.readers,
                                                     statistics);
    }
};

// The warps' sums of a query tile become the split's; kStride floats lie between two warps' sums.
template <int kDim, int kStride>
__device__ __forceinline__ void join_warps(const Shape &s, const AttentionPlan &plan, int bh, int query_tile, int split,
                                           const SplitStats (&warp_stats)[kAttentionWarps][kTileQueries],
                                           const float *warp_sums, SplitStats *stats, float *partial) {
    const int queries = min(kTileQueries, s.GT - query_tile * kTileQueries);
    float *to = partial + ((size_t(bh) * s.GT + query_tile * kTileQueries) * plan.splits + split) * s.D;
#pragma unroll 1
    for (int q = 0; q < queries; ++q, to += size_t(plan.splits) * s.D) {
        float factors[kAttentionWarps], top = warp_stats[0][q].maximum;
#pragma unroll
        for (int w = 1; w < kAttentionWarps; ++w) top = fmaxf(top, warp_stats[w][q].maximum);
#pragma unroll
        for (int w = 0; w < kAttentionWarps; ++w) factors[w] = power_of_2(warp_stats[w][q].maximum - top);
        for (int d = threadIdx.x; d < s.D; d += kAttentionWarps * kWarpSize) {
            float x = 0.0f;
#pragma unroll
            for (int w = 0; w < kAttentionWarps; ++w) x += factors[w] * warp_sums[w * kStride + q * kDim + d];
            to[d] = x;
        }
    }
    if (threadIdx.x < queries) {
        Running all;
        for (int w = 0; w < kAttentionWarps; ++w) all.maximum = fmaxf(all.maximum, warp_stats[w][threadIdx.x].maximum);
        for (int w = 0; w < kAttentionWarps; ++w) all.add(warp_stats[w][threadIdx.x]);
        const size_t query = (size_t(bh) * plan.query_tiles + query_tile) * kTileQueries + threadIdx.x;
        stats[query * plan.splits + split] = all.stats();
    }
}

// Blocks on a multiprocessor: what the registers allow without spilling.
template <typename Element, int kDim> constexpr int kPartialBlocks = sizeof(Element) == 4 || kDim > 64 ? 2 : 3;

// `statistics`: also sum importance and entropy over the rows, for the whole step.
template <typename Element, int kDim, Mode kMode>
__global__ void __launch_bounds__(kAttentionWarps *kWarpSize, (kPartialBlocks<Element, kDim>))
    attention_partial(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                      const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                      const bool statistics) {
    using Operand = typename Traits<Element>::Operand;
    using Layout = PartialShared<Element, kDim, kMode>;
    constexpr bool kRowsPerWarp = Layout::kRowsPerWarp;
    extern __shared__ __align__(16) char shared[];
    __shared__ float factors[kAttentionWarps][2][kTileQueries];
    __shared__ SplitStats warp_stats[kAttentionWarps][kTileQueries];
    __shared__ SplitRows warp_rows[kAttentionWarps];

    char *workspace = static_cast<char *>(params.workspace);
    const int warp = warp_index(), lane = threadIdx.x % kWarpSize, g = lane / 4;
    const int split = blockIdx.x, bh = blockIdx.z;

    Partial<Element, kDim> mine(params, shape, plan);
    mine.bh = bh;
    mine.query_tile = kRowsPerWarp ? blockIdx.y : blockIdx.y * kAttentionWarps + warp;
    const int query = mine.query_tile * kTileQueries + g;
    mine.logits = HeadSources{params, shape, bh}.logits(at, query);
    const bool busy = mine.query_tile < plan.query_tiles;
    const TileTurn turn = {kRowsPerWarp ? split * kAttentionWarps + warp : split,
                           plan.splits * (kRowsPerWarp ? kAttentionWarps : 1)};
    const bool has_coarse = shape.F > 0;
    const int slot = kRowsPerWarp ? 0 : warp;
    Operand *queries = reinterpret_cast<Operand *>(shared + slot * Layout::kQueryBytes);
    __nv_bfloat16 *coarse_queries =
        reinterpret_cast<__nv_bfloat16 *>(shared + ((kRowsPerWarp ? 1 : kAttentionWarps) + slot) * Layout::kQueryBytes);
    char *warp_memory = shared + Layout::query_bytes(shape);

    wait_for_previous_kernel();
    let_next_kernel_start(); // in this order: step_finish counts on it

    const Attending<Element, kDim, kMode> attending{mine, turn};
    const bool sum_rows = statistics && mine.query_tile == 0;
    const int stager = kRowsPerWarp ? warp : 0, stagers = kRowsPerWarp ? kAttentionWarps : 1;
    if (busy) {
        stage_queries<Element, Operand, kDim, false>(params, shape, bh, mine.query_tile, stager, stagers, queries,
                                                     factors[slot][0]);
        if (has_coarse)
            stage_queries<Element, __nv_bfloat16, kDim, true>(params, shape, bh, mine.query_tile, stager, stagers,
                                                              coarse_queries, factors[slot][1]);
    }
    __syncthreads();
    if (busy) {
        const float both[2] = {factors[slot][0][g], has_coarse ? factors[slot][1][g] : 1.0f};
        attending.attend(queries, coarse_queries, both, sum_rows);
    }
    mine.running.template gather<4>();

    SplitStats *stats = reinterpret_cast<SplitStats *>(workspace + at.stats);
    float *partial = reinterpret_cast<float *>(workspace + at.partial);
    if (!kRowsPerWarp) {
        if (busy && query < shape.GT) {
            if (lane % 4 == 0)
                stats[(size_t(bh) * plan.query_tiles * kTileQueries + query) * plan.splits + split] =
                    mine.running.stats();
            store_sums(mine.sums, shape.D, partial + ((size_t(bh) * shape.GT + query) * plan.splits + split) * shape.D);
        }
    } else {
        if (lane % 4 == 0) warp_stats[warp][g] = mine.running.stats();
        store_sums(mine.sums, shape.D, reinterpret_cast<float *>(warp_memory + warp * Layout::kWarpBytes) + g * kDim);
    }
    const float importance = warp_sum(mine.importance), entropy = warp_sum(mine.entropy);
    if (lane == 0) warp_rows[warp] = SplitRows{importance, entropy, float(mine.occupied), float(mine.visual)};
    __syncthreads();

    if (blockIdx.y == 0 && threadIdx.x == 0) {
        SplitRows all = warp_rows[0]; // with queries of its own, every warp saw the same rows
        if (kRowsPerWarp)
            for (int w = 1; w < kAttentionWarps; ++w) {
                all.importance += warp_rows[w].importance, all.entropy += warp_rows[w].entropy;
                all.occupied += warp_rows[w].occupied, all.visual += warp_rows[w].visual;
            }
        reinterpret_cast<SplitRows *>(workspace + at.rows)[size_t(bh) * plan.splits + split] = all;
        if (split == 0) reinterpret_cast<unsigned *>(workspace + at.tickets)[bh] = 0;
    }
    if (kRowsPerWarp)
        join_warps<kDim, Layout::kWarpBytes / 4>(shape, plan, bh, mine.query_tile, split, warp_stats,
                                                 reinterpret_cast<const float *>(warp_memory), stats, partial);
}

} // namespace retentive
