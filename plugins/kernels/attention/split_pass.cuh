// One warp's way through rows of one kind: logits, running softmax, weighted values, 16 or 32 rows at a time.
#pragma once

#include "attention/route.cuh"
#include "attention/running.cuh"
#include "attention/split_queries.cuh"
#include "attention/stage_meta.cuh"

namespace retentive {

// What a warp of attention_split knows of its launch, and what it counts of its rows.
struct SplitWarp {
    HeadSources head;
    int query_tile;
    bool statistics; // sum importance and entropy over the rows
    RowCounts counts;
};

// The first rows may be sent for long before they are needed.
struct Ahead {
    RowWords words;
    bool sent = false;
};

// kStages: tiles of rows on their way to a warp at once.
template <typename Element, int kDim, int kRows, typename Rows, int kStages = 1> struct SplitPass {
    using Stage = Staging<kRows, Rows::kRowBytes, Rows::kCodes>;
    static_assert(kStages == 1 || kStages == 2);
    using Lanes = StageLanes<Rows::kQueries, kRows>;
    static constexpr int kParts = Lanes::kParts;
    static constexpr int kHalfBytes = kRows * Rows::kRowBytes; // keys, or values
    static constexpr int kStageBytes = 2 * kHalfBytes;
    static constexpr int kBytes = kStages * kStageBytes;

    SplitWarp &warp;
    const uint4 *fragments; // shared memory, operands of the queries
    char *memory;           // shared memory of the warp: stages of keys, then values
    float factor;           // that products of the lane's query must be multiplied by
    float *logits;          // of the query, as Shape::logit_at; nullptr: none are kept
    typename Rows::Base base;
    Running running;
    typename Rows::Sums sums = {};

    // `factors`: of the tile's queries; `kept`: where the logits of Lanes::query() go.
    __device__ __forceinline__ SplitPass(SplitWarp &w, const uint4 *queries, char *stages, const float *factors,
                                         float *kept)
        : warp(w), fragments(queries), memory(stages), factor(factors[Lanes::query()] * Rows::kUnit), logits(kept),
          base(Rows::base(queries)) {}

    // Bring a tile into the L2 cache. One warp.
    static __device__ __forceinline__ void prefetch_tile(const Tiles &tiles) {
        const int lane = threadIdx.x % kWarpSize, row = tiles.first * kRows;
        const Source &from = tiles.from;
        if (tiles.any() && lane < 2)
            prefetch((lane == 0 ? from.keys : from.values) + size_t(row) * from.row_bytes,
                     unsigned(min(kRows, from.rows - row) * from.row_bytes));
    }

    // Send for the first tiles.
    template <typename Route>
    static __device__ __forceinline__ void send(const SplitWarp &warp, const Route &route, char *memory, Ahead &ahead) {
        Place place = route.begin();
        const Source from = route.source(place);
        if (from.row_bytes < Rows::kRowBytes) clear_stage(memory, kBytes);
        ahead.words = words_of_tile(warp, from, place.tile), ahead.sent = true;
#pragma unroll 1
        for (int stage = 0; stage < kStages; ++stage, place = route.after(place))
#pragma unroll 1
            for (int i = 0; i < 2; ++i) copy(route, place, i == 1, memory + (2 * stage + i) * kHalfBytes);
    }

    // All tiles of a route (OneSource, TwoSources); `ahead`: its first ones may be on their way.
    template <typename Route> __device__ __forceinline__ void attend(const Route &route, Ahead &ahead) {
        if (!route.any()) return;
        if (!ahead.sent) send(warp, route, memory, ahead);
        ahead.sent = false;
        const RowWordsOf words_of_first(warp.head, route.first.from, warp.statistics);
        RowWords words = ahead.words;
        char *keys = memory;
        Place place = route.begin(), next = route.after(place), coming = kStages == 2 ? route.after(next) : next;
#pragma unroll 1
        do {
            const Source from = route.source(place);
            const int row = place.tile * kRows;
            char *const values = keys + kHalfBytes;
            float x[kParts][2], p[kParts][2];
            arrive(from, row, keys);
            Rows::template products<kParts>(fragments, base, keys, x);
            __syncwarp(); // all lanes have read the stage
            copy(route, coming, false, keys);
            const StageMeta meta = digest<kRows>(warp.head.params.gate, words, from, row, warp.counts);
            if (route.has(next))
                words = __builtin_expect(!next.second, 1) ? load_stage_words<kRows>(words_of_first, next.tile * kRows)
                                                          : words_of_tile(warp, route.source(next), next.tile);
            if (__builtin_expect(meta.plain, 1))
                weights<true>(x, meta, from, row, p);
            else
                weights<false>(x, meta, from, row, p);
            arrive(from, row, values);
            Rows::template weigh<kParts>(p, values, sums);
            __syncwarp();
            copy(route, coming, true, values);
            place = next, next = route.after(next), coming = kStages == 2 ? route.after(next) : next;
            if constexpr (kStages == 2) keys = keys == memory ? memory + kStageBytes : memory;
        } while (route.has(place));
    }

    // The warp's sums of each query at `to`, kStride floats apart, and the statistics.
    template <int kStride> __device__ __forceinline__ void store(int queries, float *to, SplitStats *stats) {
        running.template gather<Lanes::kLanes, Lanes::kStride>();
        const int query = Lanes::query();
        if (Lanes::first()) stats[query] = running.stats();
        if (query < queries) Rows::store(sums, to + query * kStride);
    }

  private:
    // Keys or values of a tile, where there is one.
    template <typename Route>
    static __device__ __forceinline__ void copy(const Route &route, const Place &place, bool values, char *to) {
        if (route.has(place)) {
            const Source from = route.source(place);
            Stage::copy(values ? from.values : from.keys, place.tile * kRows, from.rows, from.row_bytes, to);
        }
        commit_copies(); // an empty group keeps the count
    }
    static __device__ __forceinline__ RowWords words_of_tile(const SplitWarp &warp, const Source &from, int tile) {
        return load_stage_words<kRows>(RowWordsOf(warp.head, from, warp.statistics), tile * kRows);
    }
    // Under way are at most the group that is waited for and those sent for after it.
    __device__ __forceinline__ void arrive(const Source &from, int row, char *stage) const {
        wait_for_copies<2 * kStages - 1>();
        if constexpr (!Rows::kCodes)
            if (from.kind == Source::fresh) Stage::template sanitize<Element>(stage, min(from.rows - row, kRows));
    }

    // Rows of a stage that the lane's query may not see, a bit each: new tokens that come after it.
    __device__ __forceinline__ unsigned hidden(const Source &from, int first) const {
        if (from.kind != Source::fresh) return 0;
        const Shape &s = warp.head.shape;
        const int query = min(warp.query_tile * kTileQueries + Lanes::query(), s.GT - 1);
        return tokens_after(query % s.T, first);
    }

    // Products to probabilities, scaled by the value scales where there are codes. kPlain: as StageMeta.
    template <bool kPlain>
    __device__ __forceinline__ void weights(const float (&x)[kParts][2], const StageMeta &meta, const Source &from,
                                            int first, float (&p)[kParts][2]) {
        const int mine = Lanes::first_row();
        const unsigned visual = meta.visual >> mine, local = meta.local >> mine, unseen = hidden(from, first);
        float s[kParts][2], best = kNothing;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float &logit = s[part][k];
                logit = clamp(x[part][k] * factor, -kLogitLimit, kLogitLimit);
                if constexpr (!kPlain) {
                    const int i = mine + 8 * part + k;
                    const float bias = __shfl_sync(kFullWarp, meta.bias, i);
                    const bool is_hidden = (unseen >> i & 1) && bias > kMasked; // a row that is not there stays so
                    logit += is_hidden ? kMasked * kLog2e : bias;
                }
                best = fmaxf(best, logit);
            }
        if (logits != nullptr) { // whole stages: there is room behind the last row
            float *to = logits + warp.head.shape.logits_of_stage(from.logit + first) + Lanes::logit();
            if constexpr (kParts == 1) {
                store_for_next_kernel(to, make_float2(s[0][0], s[0][1]));
            } else {
#pragma unroll
                for (int part = 0; part < kParts; part += 2)
                    store_for_next_kernel(to + 2 * part,
                                          make_float4(s[part][0], s[part][1], s[part + 1][0], s[part + 1][1]));
            }
        }
        if (__any_sync(kFullWarp, best > running.maximum + Rows::kRoom))
            raise(fmaxf(Lanes::largest(best), running.maximum));
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const float distance = s[part][k] - running.maximum, e = power_of_2(distance);
                const bool is_visual = visual >> (8 * part + k) & 1;
                if constexpr (kPlain)
                    Running::add(running.local, e, distance, is_visual);
                else
                    running.add(e, distance, is_visual, local >> (8 * part + k) & 1);
                p[part][k] = e * kProbabilityScale<Element>;
                if constexpr (Rows::kCodes) p[part][k] *= __shfl_sync(kFullWarp, meta.scale, mine + 8 * part + k);
            }
    }

    __device__ __forceinline__ void raise(float to) { scale_sums(sums, running.raise(to)); }
};

} // namespace retentive
