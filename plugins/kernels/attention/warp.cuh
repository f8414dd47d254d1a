// What one warp does with tiles of 16 rows: row attributes, logits, running softmax, weighted values.
#pragma once

#include "attention/feed.cuh"
#include "attention/queries.cuh"
#include "attention/running.cuh"

namespace retentive {

// What a warp must know of a tile's 16 rows besides keys and values: bit i of a mask is row i.
struct TileMeta {
    unsigned visual, local;
    float bias;  // lane i % 16: what is added to row i's base-2 logit
    float scale; // lane i % 16: value scale of row i
};

// Everything a warp needs of the launch, in registers.
template <typename Element, int kDim> struct Partial {
    static constexpr int kSets = kDim / 64;
    static constexpr int kTerms = Traits<Element>::kTerms;
    using Operand = typename Traits<Element>::Operand;

    const RetentiveAttentionParams &params;
    const Shape &shape;
    const AttentionPlan &plan;
    int bh;
    int query_tile; // this warp's
    float *logits;  // of the lane's query, as Shape::logit_at; nullptr: none are kept
    Running running;
    float sums[kSets][8][4];
    float importance = 0, entropy = 0; // of lane i < 16
    int occupied = 0, visual = 0;
    float query_factor = 1.0f; // power of two that the queries' operands were divided by

    __device__ __forceinline__ Partial(const RetentiveAttentionParams &p, const Shape &s, const AttentionPlan &a)
        : params(p), shape(s), plan(a) {
#pragma unroll
        for (int h = 0; h < kSets; ++h)
#pragma unroll
            for (int j = 0; j < 8; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[h][j][i] = 0.0f;
    }

    // First row of a tile in the lane's turn, and whether there is one.
    __device__ __forceinline__ int row_in(int tile) const { return tile * kTileRows + int(threadIdx.x % kTileRows); }

    __device__ __forceinline__ RowWords load_words(const Source &from, int tile, bool statistics) const {
        return RowWordsOf(sources(), from, statistics).load(row_in(tile));
    }

    __device__ __forceinline__ TileMeta digest(const RowWords &words, const Source &from, int tile) {
        const int at = row_in(tile);
        const bool occupied_row = words.meta.x >= 0, local_row = at < min(from.locals, from.rows);
        TileMeta meta;
        meta.visual = __ballot_sync(kFullWarp, occupied_row && words.meta.y >= 0) & 0xffffu;
        meta.local = __ballot_sync(kFullWarp, local_row) & 0xffffu;
        meta.scale = words.scale;
        meta.bias = row_bias(params.gate, from, at, words);
        if (from.kind == Source::fresh) return meta;
        visual += __popc(meta.visual);
        occupied += __popc(__ballot_sync(kFullWarp, occupied_row && local_row) & 0xffffu);
        if (occupied_row && threadIdx.x % kWarpSize < kTileRows)
            importance += words.importance, entropy += words.entropy;
        return meta;
    }

    // Base-2 logits of the lane's four rows from the products, masks and biases; `hidden`: rows that this query may not
    // see.
    __device__ __forceinline__ void finish_logits(const float (&c)[2][4], const TileMeta &meta, unsigned hidden,
                                                  float (&s)[4]) const {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int i = 2 * t + k % 2 + k / 2 * 8;
            const float product = (c[k / 2][k % 2] + c[k / 2][k % 2 + 2]) * query_factor;
            const float bias = __shfl_sync(kFullWarp, meta.bias, i);
            const bool is_hidden = (hidden >> i & 1) && bias > kMasked; // a row that is not there stays so
            s[k] = clamp(product, -kLogitLimit, kLogitLimit) + (is_hidden ? kMasked * kLog2e : bias);
        }
    }

    // Running softmax over the four rows; the probabilities' operand, scaled by `scale` (of the values' rows) where
    // coarse.
    __device__ __forceinline__ void attend(const float (&s)[4], const TileMeta &meta, bool coarse, float (&p)[4]) {
        const int t = threadIdx.x % 4;
        float best = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
        best = fmaxf(best, __shfl_xor_sync(kFullWarp, best, 1));
        best = fmaxf(best, __shfl_xor_sync(kFullWarp, best, 2));
        if (__any_sync(kFullWarp, best > running.maximum)) {
            const float factor = running.raise(fmaxf(best, running.maximum));
#pragma unroll
            for (int h = 0; h < kSets; ++h)
#pragma unroll
                for (int j = 0; j < 8; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[h][j][i] *= factor;
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int i = 2 * t + k % 2 + k / 2 * 8;
            const float distance = s[k] - running.maximum, e = power_of_2(distance);
            running.add(e, distance, meta.visual >> i & 1, meta.local >> i & 1);
            p[k] = e * kProbabilityScale<Element>;
            if (coarse) p[k] *= __shfl_sync(kFullWarp, meta.scale, i);
        }
    }

    // Whole tiles: there is room behind the last row.
    __device__ __forceinline__ void keep_logits(const float (&s)[4], const Source &from, int tile) const {
        if (logits == nullptr) return;
        float *to = logits + shape.logits_of_stage(from.logit + tile * kTileRows) + 8 * (threadIdx.x % 4);
        store_for_next_kernel(to, make_float4(s[0], s[1], s[2], s[3]));
    }

    __device__ __forceinline__ HeadSources sources() const { return {params, shape, bh}; }
    __device__ __forceinline__ Source exact_rows() const { return sources().template exact<Element>(); }
    __device__ __forceinline__ Source coarse_rows() const { return sources().coarse(); }
    __device__ __forceinline__ Source fresh_rows() const { return sources().template fresh<Element>(); }

    // Rows of a tile that the lane's query may not see, a bit each: new tokens that come after it.
    __device__ __forceinline__ unsigned hidden_rows(const Source &from, int tile) const {
        if (from.kind != Source::fresh) return 0;
        const int query = min(query_tile * kTileQueries + int(threadIdx.x % kWarpSize) / 4, shape.GT - 1);
        const int order = query % shape.T - tile * kTileRows;
        return order >= kTileRows - 1 ? 0u : order < 0 ? 0xffffu : 0xffffu << (order + 1);
    }

    // Tiles first, first + step, ... below last of a source; `feed` (feed.cuh) brings the rows.
    template <typename Rows, typename Feed>
    __device__ __forceinline__ void tiles(const Source &from, const Feed &feed, const typename Rows::Operand *queries,
                                          int first, int last, int step, bool statistics) {
        if (first >= last) return;
        Rows rows;
        feed.begin(rows, from, first);
        RowWords words = load_words(from, first, statistics);
#pragma unroll 1
        for (int tile = first; tile < last; tile += step) {
            const int next = tile + step;
            float c[2][4] = {}, s[4], p[4];
            feed.keys(rows, from, tile);
            rows.template logits<kTerms>(queries, shape.D, c);
            feed.after_keys(rows, from, next, next < last);
            const TileMeta meta = digest(words, from, tile);
            if (next < last) words = load_words(from, next, statistics);
            finish_logits(c, meta, hidden_rows(from, tile), s);
            keep_logits(s, from, tile);
            attend(s, meta, from.kind == Source::coarse, p);
            feed.values(rows, from, tile);
            rows.template weigh<kTerms>(operand_of<typename Rows::Operand, kTerms>(p), shape.D, sums);
            feed.after_values(rows, from, next, next < last);
        }
    }
};

} // namespace retentive
