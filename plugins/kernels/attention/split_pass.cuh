// One warp's way through rows of one kind: logits, running softmax, weighted values, 16 or 32 rows at a time.
#pragma once

#include "attention/running.cuh"
#include "attention/source.cuh"
#include "attention/split_queries.cuh"

namespace retentive {

// What a warp of attention_split knows of its launch, and what it counts of its rows.
struct SplitWarp {
    HeadSources head;
    int query_tile;
    float *logits;   // of the lane's query, as Shape::logit_at; nullptr: none are kept
    bool statistics; // sum importance and entropy over the rows
    float importance = 0, entropy = 0;
    int occupied = 0, visual = 0;
};

// Lane i has row i of a stage; bit i of a mask is row i.
struct StageMeta {
    unsigned visual, local;
    bool plain;  // all rows are local and hold a token
    float bias;  // what is added to the row's base-2 logit
    float scale; // of the row's value
};

// The first rows may be sent for long before they are needed.
struct Ahead {
    RowWords words;
    bool sent = false;
};

template <typename Element, int kDim, int kRows, typename Rows> struct SplitPass {
    using Operand = typename Rows::Operand;
    using Stage = Staging<kRows, Rows::kRowBytes, Rows::kCodes>;
    static constexpr int kParts = kRows / 8;                   // 8-row parts of a stage
    static constexpr int kHalfBytes = kRows * Rows::kRowBytes; // keys, or values
    static constexpr int kStages = Rows::kStages;              // under way at once
    static constexpr int kBytes = kStages * 2 * kHalfBytes;
    static constexpr bool kOffset = Rows::kOffset != 0.0f;
    // Base-2 logits may exceed the running maximum by so much before it is raised, so that it seldom is: probabilities
    // then are below 2^kRoom, and must fit their operand (float16: 2^4 kProbabilityScale).
    static constexpr float kRoom = std::is_same_v<Operand, __half> ? 4.0f : 8.0f;

    SplitWarp &warp;
    const uint4 *fragments; // shared memory, Operand A of the queries
    char *memory;           // shared memory of the warp: stages of keys, then values
    float factor;           // that the queries' operands were divided by
    Running running;
    Sums<kDim> sums = {};
    float surplus[4] = {}; // sums of the probabilities' operands, where values go in with an offset
    float base[4] = {};    // what the keys' offset adds to a logit

    __device__ __forceinline__ SplitPass(SplitWarp &w, const uint4 *queries, char *stages, float divided)
        : warp(w), fragments(queries), memory(stages), factor(divided) {}

    // Bring a tile into the L2 cache. One warp.
    static __device__ __forceinline__ void prefetch_tile(const Source &from, int tile, int last) {
        const int lane = threadIdx.x % kWarpSize, row = tile * kRows;
        if (tile < last && lane < 2)
            prefetch((lane == 0 ? from.keys : from.values) + size_t(row) * from.row_bytes,
                     unsigned(min(kRows, from.rows - row) * from.row_bytes));
    }

    // Send for the tiles first, first + step, ... that there is room for.
    static __device__ __forceinline__ void send(const SplitWarp &warp, const Source &from, int first, int last,
                                                int step, char *memory, Ahead &ahead) {
        if (from.row_bytes < Rows::kRowBytes) clear_stage(memory, kBytes);
#pragma unroll 1
        for (int i = 0; i < 2 * kStages; ++i)
            copy(from, i % 2 == 0 ? from.keys : from.values, first + i / 2 * step, last, memory + i * kHalfBytes);
        ahead.words = load(RowWordsOf(warp.head, from, warp.statistics), first), ahead.sent = true;
    }

    // What an offset of the keys adds to the logits: the queries' operands themselves are summed, so that it comes off
    // exactly.
    __device__ __forceinline__ void begin() {
        if constexpr (kOffset) {
            const __nv_bfloat162 minus = __floats2bfloat162_rn(-Rows::kOffset, -Rows::kOffset);
            const uint32_t b = pack(minus.x, minus.y);
#pragma unroll
            for (int step = 0; step < kDim / 16; ++step) {
                uint32_t a[4];
                load_fragment(fragments, step, a);
                mma<Operand>(base, a, b, b);
            }
        }
    }

    // Tiles first, first + step, ... below last of a source.
    __device__ __forceinline__ void attend(const Source &from, int first, int last, int step, Ahead &ahead) {
        if (first >= last) return;
        if (!ahead.sent) send(warp, from, first, last, step, memory, ahead);
        ahead.sent = false;
        const RowWordsOf words_of(warp.head, from, warp.statistics);
        RowWords words = ahead.words;
        char *keys = memory;
#pragma unroll 1
        for (int tile = first; tile < last; tile += step) {
            const int row = tile * kRows, later = tile + kStages * step;
            char *values = keys + kHalfBytes;
            float c[kParts][4], p[kParts][2];
            arrive(from, row, keys);
#pragma unroll
            for (int part = 0; part < kParts; ++part)
#pragma unroll
                for (int i = 0; i < 4; ++i) c[part][i] = base[i];
            Rows::template logits<kParts>(fragments, keys, c);
            __syncwarp(); // all lanes have read the stage
            copy(from, from.keys, later, last, keys);
            const StageMeta meta = digest(words, from, row);
            if (tile + step < last) words = load(words_of, tile + step);
            if (__builtin_expect(meta.plain, 1))
                weights<true>(c, meta, from, row, p);
            else
                weights<false>(c, meta, from, row, p);
            arrive(from, row, values);
            if constexpr (Rows::kCodes) { // the instruction cache is small
#pragma unroll 1
                for (int half = 0; half < kParts / 2; ++half) {
                    weigh(p[0], p[1], values, 16 * half);
                    if constexpr (kParts > 2)
                        p[0][0] = p[2][0], p[0][1] = p[2][1], p[1][0] = p[3][0], p[1][1] = p[3][1];
                }
            } else {
#pragma unroll
                for (int half = 0; half < kParts / 2; ++half) weigh(p[2 * half], p[2 * half + 1], values, 16 * half);
            }
            __syncwarp();
            copy(from, from.values, later, last, values);
            if constexpr (kStages > 1) keys = values + kHalfBytes == memory + kBytes ? memory : values + kHalfBytes;
        }
    }

    // The warp's sums of each query at `to`, kStride floats apart, and the statistics.
    template <int kStride> __device__ __forceinline__ void store(int queries, float *to, SplitStats *stats) {
        running.template gather<4>();
        const int g = threadIdx.x % kWarpSize / 4;
        if (threadIdx.x % 4 == 0) stats[g] = running.stats();
#pragma unroll
        for (float &x : surplus) x *= Rows::kOffset;
        if (g < queries) Rows::store(sums, surplus, to + g * kStride);
    }

  private:
    static __device__ __forceinline__ void copy(const Source &from, const char *rows, int tile, int last, char *to) {
        if (tile < last) Stage::copy(rows, tile * kRows, from.rows, from.row_bytes, to);
        commit_copies(); // an empty group keeps the count
    }
    // Under way are at most the group that is waited for and those sent for after it.
    __device__ __forceinline__ void arrive(const Source &from, int row, char *stage) const {
        wait_for_copies<2 * kStages - 1>();
        if constexpr (Rows::kFresh)
            if (from.kind == Source::fresh) Stage::template sanitize<Element>(stage, min(from.rows - row, kRows));
    }

    static __device__ __forceinline__ RowWords load(const RowWordsOf &words, int tile) {
        const int lane = threadIdx.x % kWarpSize;
        return kRows < kWarpSize && lane >= kRows ? RowWords() : words.load(tile * kRows + lane);
    }

    __device__ __forceinline__ StageMeta digest(const RowWords &words, const Source &from, int first) {
        const int lane = threadIdx.x % kWarpSize, row = first + lane;
        const bool mine = lane < kRows, holds = words.meta.x >= 0, is_local = mine && row < from.locals;
        StageMeta meta;
        meta.visual = __ballot_sync(kFullWarp, holds && words.meta.y >= 0);
        meta.local = __ballot_sync(kFullWarp, is_local);
        meta.plain = __all_sync(kFullWarp, (holds && is_local) || !mine);
        meta.scale = words.scale;
        meta.bias = 0.0f;
        if (!meta.plain && mine) meta.bias = row_bias(warp.head.params.gate, from, row, words);
        if (from.kind == Source::fresh) return meta;
        warp.visual += __popc(meta.visual);
        warp.occupied += meta.plain ? kRows : __popc(__ballot_sync(kFullWarp, holds && is_local));
        if (holds) warp.importance += words.importance, warp.entropy += words.entropy;
        return meta;
    }

    // Rows of a stage that the lane's query may not see, a bit each: new tokens that come after it.
    __device__ __forceinline__ unsigned hidden(const Source &from, int first) const {
        if (from.kind != Source::fresh) return 0;
        const Shape &s = warp.head.shape;
        const int query = min(warp.query_tile * kTileQueries + int(threadIdx.x % kWarpSize) / 4, s.GT - 1);
        const int order = query % s.T - first;
        return order >= kWarpSize - 1 ? 0u : order < 0 ? ~0u : ~0u << (order + 1);
    }

    // Products to probabilities, scaled by the value scales where there are codes. kPlain: as StageMeta.
    template <bool kPlain>
    __device__ __forceinline__ void weights(const float (&c)[kParts][4], const StageMeta &meta, const Source &from,
                                            int first, float (&p)[kParts][2]) {
        const int t = threadIdx.x % 4;
        const unsigned visual = meta.visual >> 2 * t, local = meta.local >> 2 * t, unseen = hidden(from, first);
        float s[kParts][2], best = kNothing;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float &logit = s[part][k];
                logit = clamp((c[part][k] + c[part][k + 2]) * factor, -kLogitLimit, kLogitLimit);
                if constexpr (!kPlain) {
                    const int i = 8 * part + 2 * t + k;
                    const float bias = __shfl_sync(kFullWarp, meta.bias, i);
                    const bool is_hidden = (unseen >> i & 1) && bias > kMasked; // a row that is not there stays so
                    logit += is_hidden ? kMasked * kLog2e : bias;
                }
                best = fmaxf(best, logit);
            }
        if (warp.logits != nullptr) { // whole stages: there is room behind the last row
            float *to = warp.logits + warp.head.shape.logits_of_lane(from.logit + first, t);
#pragma unroll
            for (int part = 0; part < kParts; part += 2)
                store_for_next_kernel(to + 2 * part,
                                      make_float4(s[part][0], s[part][1], s[part + 1][0], s[part + 1][1]));
        }
        best = fmaxf(best, __shfl_xor_sync(kFullWarp, best, 1));
        best = fmaxf(best, __shfl_xor_sync(kFullWarp, best, 2));
        if (__any_sync(kFullWarp, best > running.maximum + kRoom)) raise(fmaxf(best, running.maximum));
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
                if constexpr (Rows::kCodes) p[part][k] *= __shfl_sync(kFullWarp, meta.scale, 8 * part + 2 * t + k);
            }
    }

    // sums += probabilities times the values of 16 rows from `row` on; `low`, `high`: the lane's of 8 rows each.
    __device__ __forceinline__ void weigh(const float (&low)[2], const float (&high)[2], const char *values, int row) {
        const Pair<Operand> first(low[0], low[1]), second(high[0], high[1]);
        const uint32_t a[4] = {first.rounded, first.error, second.rounded, second.error};
        Rows::weigh(a, values, row, sums);
        if constexpr (kOffset) mma<Operand>(surplus, a, 0x3f803f80u, 0x3f803f80u); // ones
    }

    __device__ __forceinline__ void raise(float to) {
        const float by = running.raise(to);
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[j][i] *= by;
        if constexpr (kOffset)
#pragma unroll
            for (float &x : surplus) x *= by;
    }
};

} // namespace retentive
