// Third launch of prefill with rows of 16-bit numbers or codes: what every column received, from logits computed once
// more with the normalisers known. Each warp keeps the keys of 16 rows in registers while the head's queries pass by,
// 64 at a time, through shared memory.
#pragma once

#include "attention/combine.cuh"
#include "attention/prefill_operands.cuh"
#include "attention/stage_meta.cuh"

namespace retentive {

// What a column needs of a query, as in QueryNorm.
struct alignas(16) PassingQuery {
    float maximum, log_visual, received_factor, surprise_factor;

    // Start to copy; a query at or past `queries` gives nothing to any column.
    __device__ __forceinline__ void send(const QueryNorm *norms, int query, int queries) {
        if (query >= queries) {
            maximum = log_visual = received_factor = surprise_factor = 0.0f;
            return;
        }
        const QueryNorm &norm = norms[query];
        copy_async<4>(&maximum, &norm.maximum), copy_async<4>(&log_visual, &norm.log_visual);
        copy_async<4>(&received_factor, &norm.received_factor), copy_async<4>(&surprise_factor, &norm.surprise_factor);
    }
};

// Shared memory: sets of queries, one in use and, where there is room on every GPU, one on its way; each in two terms
// where there are codes. The rows come first in their place.
template <int kDim, bool kCodes> struct PrefillStatisticsShared {
    static constexpr int kRowBytes = NumberRows<kDim>::kRowBytes;
    static constexpr int kSets = kDim > 128 && kCodes ? 1 : 2;
    static constexpr int kQueryBytes = (kCodes ? 2 : 1) * kBlockQueries * kRowBytes; // of a set
    static constexpr int kBytes = kSets * kQueryBytes;
    static_assert(kQueryBytes >= kAttentionWarps * kTileRows * kRowBytes);
};

// A warp's 16 rows.
template <typename Element, int kDim> struct ColumnTile {
    static constexpr int kParts = kTileRows / 8;

    uint32_t keys[kDim / 32][kParts][4]; // operands B of two k steps
    bool visual[kParts][2];              // of rows 8 part + 2 t, + 1
    float bias[kParts][2];
    float received[kParts][2] = {}, surprise[kParts][2] = {};

    // `rows`: shared memory of the warp. First row of the source: kTileRows tile.
    __device__ __forceinline__ void load(const RetentiveAttentionParams &params, const Source &from,
                                         const RowWordsOf &words_of, int tile, bool codes, char *rows) {
        using Rows = NumberRows<kDim>;
        const int lane = threadIdx.x % kWarpSize, row = tile * kTileRows;
        RowCounts counts;
        const StageMeta meta =
            digest<kTileRows>(params.gate, load_stage_words<kTileRows>(words_of, row), from, row, counts);
        if (codes) {
            const bool int8 = params.geometry.coarse_dtype == RETENTIVE_INT8;
            CodePieces<kDim, kTileRows, kWarpSize> pieces;
            pieces.load(from.keys, row, from.rows, from.dim, int8), pieces.store(rows, from.dim, int8);
        } else {
            Rows::template send<kTileRows, kWarpSize>(from.keys, row, from.rows, from.row_bytes, rows);
            commit_copies(), wait_for_copies<0>();
            if (from.kind == Source::fresh) Rows::template sanitize<Element, kTileRows, kWarpSize>(rows);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kDim / 32; ++i)
#pragma unroll
            for (int part = 0; part < kParts; ++part)
                load_matrices(rows + Rows::at(8 * part + lane % 8, 4 * i + lane / 8), keys[i][part]);
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int i = 8 * part + 2 * (lane % 4) + k;
                visual[part][k] = meta.visual >> i & 1, bias[part][k] = __shfl_sync(kFullWarp, meta.bias, i);
            }
    }

    // Queries pass by, kTiles times 16: their operands, kTerms of each tile and the next tile's `stride` bytes further,
    // and what is known of them. `first`: row 0 of the tile among the new tokens, of which a query sees those up to its
    // own; none of the other kinds is hidden.
    template <typename Operand, int kTiles, int kTerms, bool kFresh>
    __device__ __forceinline__ void pass(const char *queries, int stride, const PassingQuery *known, const int *orders,
                                         float factor, int first) {
        using Queries = WarpQueries<Element, kDim>;
        const int g = threadIdx.x % kWarpSize / 4, t = threadIdx.x % 4;
        const unsigned place = Queries::place(queries);
        float x[kTiles][kParts][4] = {};
#pragma unroll
        for (int i = 0; i < kDim / 32; ++i)
#pragma unroll
            for (int term = 0; term < kTerms; ++term)
#pragma unroll
                for (int tile = 0; tile < kTiles; ++tile) {
                    uint32_t a[2][4];
                    Queries::load(place + tile * stride, term, 2 * i, a[0]);
                    Queries::load(place + tile * stride, term, 2 * i + 1, a[1]);
#pragma unroll
                    for (int part = 0; part < kParts; ++part) {
                        mma<Operand>(x[tile][part], a[0], keys[i][part][0], keys[i][part][1]);
                        mma<Operand>(x[tile][part], a[1], keys[i][part][2], keys[i][part][3]);
                    }
                }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int number = tile * kWarpQueries + g + 8 * half;
                const PassingQuery query = known[number];
                const unsigned unseen = kFresh ? tokens_after(orders[number], first) : 0;
#pragma unroll
                for (int part = 0; part < kParts; ++part)
#pragma unroll
                    for (int k = 0; k < 2; ++k) {
                        const bool is_hidden =
                            kFresh && (unseen >> (8 * part + 2 * t + k) & 1) && bias[part][k] > kMasked;
                        const float s = clamp(x[tile][part][2 * half + k] * factor, -kLogitLimit, kLogitLimit) +
                                        (is_hidden ? kMasked * kLog2e : bias[part][k]);
                        add_column(query, s, visual[part][k], received[part][k], surprise[part][k]);
                    }
            }
    }

    // To all columns [R + T] of the head; `row`: of the source, row 0 of the tile.
    __device__ __forceinline__ void store(const Shape &s, const Source &from, int row, float *all_received,
                                          float *all_surprise) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
#pragma unroll
                for (int offset = 4; offset < kWarpSize; offset *= 2) {
                    received[part][k] += __shfl_xor_sync(kFullWarp, received[part][k], offset);
                    surprise[part][k] += __shfl_xor_sync(kFullWarp, surprise[part][k], offset);
                }
                const int i = row + 8 * part + 2 * t + k;
                if (threadIdx.x % kWarpSize >= 4 || i >= from.rows) continue;
                const int column = from.kind == Source::exact ? s.row_of_exact(i) : from.column + i;
                all_received[column] = received[part][k], all_surprise[column] = surprise[part][k];
            }
    }
};

// Grid (blocks of 64 rows of one kind, in the order exact, coarse, fresh; B Hkv).
template <typename Element, int kDim, bool kCodes>
__global__ void __launch_bounds__(kPrefillThreads)
    prefill_statistics(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape shape,
                       const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at) {
    using Queries = WarpQueries<Element, kDim>;
    using Shared = PrefillStatisticsShared<kDim, kCodes>;
    extern __shared__ __align__(1024) char rows_and_queries[];
    __shared__ PassingQuery known[2][kBlockQueries];
    __shared__ int orders[2][kBlockQueries];
    __shared__ float scratch[kAttentionWarps];
    const int warp = warp_index(), bh = blockIdx.y;
    const HeadSources head{params, shape, bh};

    let_next_kernel_start();
    wait_for_previous_kernel();
    const QueryNorm *norms =
        reinterpret_cast<const QueryNorm *>(static_cast<const char *>(params.workspace) + at.norms) +
        size_t(bh) * shape.GT;
    const StatisticsBlocks blocks(shape);
    int block = blockIdx.x;
    const bool exact = block < blocks.exact, coarse = !exact && (block -= blocks.exact) < blocks.coarse;
    if (!exact && !coarse) block -= blocks.coarse;
    const Source from = exact ? head.exact<Element>() : coarse ? head.coarse() : head.fresh<Element>();
    const bool codes = kCodes && coarse, fresh = from.kind == Source::fresh;
    const int tile = block * kAttentionWarps + warp, row = tile * kTileRows;
    const bool busy = row < from.rows;

    ColumnTile<Element, kDim> columns;
    if (busy)
        columns.load(params, from, RowWordsOf(head, from, false), tile, codes,
                     rows_and_queries + warp * kTileRows * Shared::kRowBytes);
    __syncthreads(); // queries come in the rows' place
    const auto set_of = [&](int turn) { return rows_and_queries + turn * Shared::kQueryBytes; };
    constexpr int kWarpQueryBytes = Shared::kQueryBytes / kAttentionWarps;
    const auto send = [&](int first, int turn) {
        char *to = set_of(turn) + warp * kWarpQueryBytes;
        const int query = first + warp * kWarpQueries;
        if (!plan.prefill) {
            Queries::send(Queries::input(params, shape, bh), shape, query, to);
        } else if (codes) {
            Queries::send(Queries::kept(params.workspace, at, shape, bh, 1), shape, query, to);
            Queries::send(Queries::kept(params.workspace, at, shape, bh, 2), shape, query, to + Queries::kTermBytes);
        } else {
            Queries::send(Queries::kept(params.workspace, at, shape, bh, 0), shape, query, to);
        }
        if (threadIdx.x < kBlockQueries) {
            const int query = first + int(threadIdx.x);
            known[turn][threadIdx.x].send(norms, query, shape.GT);
            orders[turn][threadIdx.x] = query % shape.T;
        }
        commit_copies();
    };
    constexpr int kTiles = kDim > 128 ? 1 : 2; // of queries at once, as the registers allow
    const float factor = Queries::factor(params, codes);
    send(0, 0);
    int turn = 0;
#pragma unroll 1
    for (int first = 0; first < shape.GT; first += kBlockQueries, turn ^= Shared::kSets - 1) {
        if (Shared::kSets == 1 && first > 0) {
            __syncthreads(); // all are done with the only set
            send(first, 0);
        }
        wait_for_copies<0>();
        if (!plan.prefill) Queries::prepare(params, shape, bh, codes, set_of(turn) + warp * kWarpQueryBytes);
        __syncthreads(); // all queries are operands, and all are done with the set before
        if (Shared::kSets == 2 && first + kBlockQueries < shape.GT) send(first + kBlockQueries, turn ^ 1);
        if (!busy) continue;
#pragma unroll 1
        for (int i = 0; i < kAttentionWarps; i += kTiles) {
            const int from_query = i * kWarpQueries;
            if (first + from_query >= shape.GT) break; // what is behind the last query gives nothing
            const char *queries = set_of(turn) + i * kWarpQueryBytes;
            if (kCodes && codes)
                columns.template pass<__nv_bfloat16, kTiles, 2, false>(
                    queries, kWarpQueryBytes, known[turn] + from_query, orders[turn] + from_query, factor, row);
            else if (fresh)
                columns.template pass<Element, kTiles, 1, true>(queries, kWarpQueryBytes, known[turn] + from_query,
                                                                orders[turn] + from_query, factor, row);
            else
                columns.template pass<Element, kTiles, 1, false>(queries, kWarpQueryBytes, known[turn] + from_query,
                                                                 orders[turn] + from_query, factor, row);
        }
    }
    if (busy)
        columns.store(shape, from, row, params.received + size_t(bh) * shape.columns,
                      params.surprise + size_t(bh) * shape.columns);
    if (blockIdx.x == 0) {
        const float entropy = mean_entropy(norms, shape, scratch);
        if (threadIdx.x == 0) params.visual_entropy[bh] = entropy;
    }
}

} // namespace retentive
