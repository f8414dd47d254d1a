// Third launch of prefill with float32 rows: what every column received, from logits computed once more with the
// normalisers known. Keeping them instead would take G T (R + T) floats.
#pragma once

#include "attention/combine.cuh"
#include "attention/warp.cuh"

namespace retentive {

// What the queries give to a lane's four rows of a tile.
struct TileStatistics {
    float received[4] = {}, surprise[4] = {};

    __device__ __forceinline__ void add(const QueryNorm &norm, const float (&s)[4], const TileMeta &meta) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int i = 2 * t + k % 2 + k / 2 * 8;
            add_column(norm, s[k], meta.visual >> i & 1, received[k], surprise[k]);
        }
    }

    // Sums over the eight queries of a warp.
    __device__ __forceinline__ void gather() {
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                received[k] += __shfl_xor_sync(kFullWarp, received[k], offset);
                surprise[k] += __shfl_xor_sync(kFullWarp, surprise[k], offset);
            }
    }
};

template <typename Element, int kDim> struct StatisticsShared {
    static constexpr int kTileBytes = Traits<Element>::kTerms * QueryTile<kDim>::kTermSize * 2;
    static size_t bytes(const Shape &s) { return size_t(s.F > 0 ? 2 : 1) * kTileBytes; }
};

// A warp's tile: which rows it is, and their keys in registers while the queries pass by.
template <typename Element, int kDim> struct StatisticsTile {
    using Operand = typename Traits<Element>::Operand;
    static constexpr int kTerms = Traits<Element>::kTerms;
    enum Kind { exact, coarse, fresh, none };

    Kind kind = none;
    int tile = 0;  // within its kind
    int count = 0; // rows of its kind
    TileMeta meta;
    ExactRows<Element, kDim> rows;
    CoarseRows<kDim, 8> rows8;
    CoarseRows<kDim, 4> rows4;
    bool bits8;

    __device__ __forceinline__ StatisticsTile(Partial<Element, kDim> &warp, int number) {
        const Shape &s = warp.shape;
        const int exact_tiles = ceil_div(s.E, kTileRows), coarse_tiles = ceil_div(s.F, kTileRows);
        bits8 = warp.params.geometry.coarse_dtype == RETENTIVE_INT8;
        tile = number;
        if (tile < exact_tiles) {
            kind = exact;
            rows.load_keys(static_cast<const Element *>(warp.params.state.key_rows) + size_t(warp.bh) * s.E * s.D,
                           tile * kTileRows, s.E, s.D);
            rows.sanitize_keys(false);
            take(warp, warp.exact_rows());
        } else if ((tile -= exact_tiles) < coarse_tiles) {
            kind = coarse;
            const int width = bits8 ? s.D : s.D / 2;
            const char *codes = static_cast<const char *>(warp.params.state.key_codes) + size_t(warp.bh) * s.F * width;
            if (bits8)
                rows8.load_keys(codes, tile * kTileRows, s.F, s.D);
            else
                rows4.load_keys(codes, tile * kTileRows, s.F, s.D);
            take(warp, warp.coarse_rows());
        } else if ((tile -= coarse_tiles) < ceil_div(s.T, kTileRows)) {
            kind = fresh;
            rows.load_keys(static_cast<const Element *>(warp.params.key) + size_t(warp.bh) * s.T * s.D,
                           tile * kTileRows, s.T, s.D);
            rows.sanitize_keys(true);
            take(warp, warp.fresh_rows());
        }
    }

    __device__ __forceinline__ void take(Partial<Element, kDim> &warp, const Source &from) {
        meta = warp.digest(warp.load_words(from, tile, false), from, tile);
        count = from.rows;
    }

    // Base-2 logits of the lane's four rows and its query, number `query` of the head.
    __device__ __forceinline__ void logits(Partial<Element, kDim> &warp, const Operand *queries,
                                           const __nv_bfloat16 *coarse_queries, const float (&factors)[2], int query,
                                           float (&s)[4]) const {
        const int dim = warp.shape.D, at = tile * kTileRows, order = query % warp.shape.T;
        float c[2][4] = {};
        unsigned hidden = 0;
        warp.query_factor = factors[kind == coarse];
        if (kind == coarse) {
            if (bits8)
                rows8.template logits<kTerms>(coarse_queries, dim, c);
            else
                rows4.template logits<kTerms>(coarse_queries, dim, c);
        } else {
            rows.template logits<kTerms>(queries, dim, c);
            if (kind == fresh) hidden = order >= at + 15 ? 0u : order < at ? 0xffffu : 0xffffu << (order - at + 1);
        }
        warp.finish_logits(c, meta, hidden, s);
    }

    // Column of row `i`.
    __device__ __forceinline__ int column(const Shape &s, int i) const {
        const int at = tile * kTileRows + i;
        return kind == exact ? s.row_of_exact(at) : (kind == coarse ? s.X : s.R) + at;
    }
};

// Grid (tiles / 4, B Hkv): each warp one tile of rows, all of the head's queries.
template <typename Element, int kDim>
__global__ void __launch_bounds__(kAttentionWarps *kWarpSize)
    attention_statistics(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                         const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at) {
    using Operand = typename Traits<Element>::Operand;
    extern __shared__ __align__(16) char shared[];
    __shared__ float factors[2][kTileQueries];
    __shared__ QueryNorm norms[kTileQueries];
    __shared__ float scratch[kAttentionWarps];
    const int warp = warp_index(), g = threadIdx.x % kWarpSize / 4, bh = blockIdx.y;
    Operand *queries = reinterpret_cast<Operand *>(shared);
    __nv_bfloat16 *coarse_queries =
        reinterpret_cast<__nv_bfloat16 *>(shared + StatisticsShared<Element, kDim>::kTileBytes);

    let_next_kernel_start();
    wait_for_previous_kernel();
    const QueryNorm *all_norms =
        reinterpret_cast<const QueryNorm *>(static_cast<const char *>(params.workspace) + at.norms) +
        size_t(bh) * shape.GT;
    Partial<Element, kDim> mine(params, shape, plan);
    mine.bh = bh;
    const StatisticsTile<Element, kDim> tile(mine, blockIdx.x * kAttentionWarps + warp);
    TileStatistics sums;
    for (int query_tile = 0; query_tile < plan.query_tiles; ++query_tile) {
        stage_queries<Element, Operand, kDim, false>(params, shape, bh, query_tile, warp, kAttentionWarps, queries,
                                                     factors[0]);
        if (shape.F > 0)
            stage_queries<Element, __nv_bfloat16, kDim, true>(params, shape, bh, query_tile, warp, kAttentionWarps,
                                                              coarse_queries, factors[1]);
        const int first = query_tile * kTileQueries;
        if (threadIdx.x < kTileQueries) {
            norms[threadIdx.x] = all_norms[min(first + int(threadIdx.x), shape.GT - 1)];
            if (first + int(threadIdx.x) >= shape.GT)
                norms[threadIdx.x].received_factor = norms[threadIdx.x].surprise_factor = 0.0f;
        }
        __syncthreads();
        if (tile.kind != tile.none) {
            const float both[2] = {factors[0][g], factors[1][g]};
            float s[4];
            tile.logits(mine, queries, coarse_queries, both, first + g, s);
            sums.add(norms[g], s, tile.meta);
        }
        __syncthreads();
    }
    sums.gather();
    if (tile.kind != tile.none && threadIdx.x % kWarpSize < 4) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int i = 2 * int(threadIdx.x % 4) + k % 2 + k / 2 * 8;
            if (tile.tile * kTileRows + i >= tile.count) continue;
            const size_t to = size_t(bh) * shape.columns + tile.column(shape, i);
            params.received[to] = sums.received[k], params.surprise[to] = sums.surprise[k];
        }
    }
    if (blockIdx.x == 0) {
        const float entropy = mean_entropy(all_norms, shape, scratch);
        if (threadIdx.x == 0) params.visual_entropy[bh] = entropy;
    }
}

} // namespace retentive
