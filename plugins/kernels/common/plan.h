// How the kernels cut their work into blocks, and what lies where in the workspace. Host and device; no state.
//
// All of it follows from the geometry and T alone, never from the GPU, so that a workspace can be sized where there is
// no GPU and results do not depend on the number of multiprocessors.
#pragma once

#include "retentive/validate.h"

#if defined(__CUDACC__)
#define RETENTIVE_HD __host__ __device__
#else
#define RETENTIVE_HD
#endif

namespace retentive {

constexpr int kWarpSize = 32;
constexpr int kTileRows = 16;   // rows that a warp takes at once: one k step of the value product
constexpr int kTileQueries = 8; // queries of a tile; their rounding errors fill the other 8 rows of the 16-row operand
constexpr int kFewQueries = 4;  // of a head, for which products with codes have an order of their own
constexpr int kAttentionWarps = 4;
constexpr int kStageRows = 32;   // rows of 16-bit numbers or codes that a warp takes at once, with D up to 128,
constexpr int kWideTurns = 4;    // where each has more than so many turns of kTileRows
constexpr int kWarpQueries = 16; // with many queries: of a warp,
constexpr int kBlockQueries = kAttentionWarps * kWarpQueries; // of a block,
constexpr int kPrefillTurns = 8;                              // and turns of a block, or more
constexpr int kMultiprocessors = 132;                         // that the work is cut for; smaller GPUs take it in waves
constexpr int kMaxSplits = 132;
constexpr int kFinishThreads = 256;
constexpr int kFinishBlocks = 2; // on a multiprocessor, all of them at once:
constexpr int kColumnBlocks = 192, kOutputBlocks = 64;
constexpr int kColumnsAtOnce = 3; // of a thread; where it has more, blocks for the columns count for more:
constexpr int kManyColumnBlocks = 232, kFewOutputBlocks = 32;
constexpr int kAsideBlocks = kMultiprocessors; // for the columns where the next layer's attention runs beside them
constexpr int kFewColumns = 4;                 // of a thread, all at once
constexpr int kRecallAlone = 256;              // recall rows that the block which moves rows searches as well; of more
constexpr int kRecallPart = 128;               // each block of another launch has at most so many, and at most
constexpr int kRecallKeys = 8192;              // so many channels of keys
constexpr int kTiers = 2;

RETENTIVE_HD inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
// Between 1 and `most`.
RETENTIVE_HD inline int blocks_for(int wanted, int most) { return wanted < 1 ? 1 : wanted < most ? wanted : most; }
RETENTIVE_HD inline size_t align_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Sizes of one launch, all derived; the names of params.h.
struct Shape {
    int B, Hkv, G, D, T;
    int X, Y, C, M, V, R; // V: visual memory rows
    int E, F;             // rows of the exact and of the coarse store
    int L;                // tiers
    int BH;               // B * Hkv
    int GT;               // queries of a KV head
    int columns;          // R + T

    RETENTIVE_HD Shape(const RetentiveGeometry &g, int steps)
        : B(g.batch), Hkv(g.kv_heads), G(g.q_heads / g.kv_heads), D(g.head_dim), T(steps), X(g.exact_rows),
          Y(g.coarse_rows), C(g.exact_rows + g.coarse_rows), M(g.memory_grid[0] * g.memory_grid[1] + g.recall_rows),
          V(g.memory_grid[0] * g.memory_grid[1]), R(C + M), E(X + (g.memory_store == RETENTIVE_STORE_EXACT ? M : 0)),
          F(Y + (g.memory_store == RETENTIVE_STORE_COARSE ? M : 0)), L((X > 0) + (Y > 0)), BH(B * Hkv), GT(G * T),
          columns(R + T) {}

    // Row number in the layer's index space of a row of the exact store; of the coarse store it is X + row.
    RETENTIVE_HD int row_of_exact(int row) const { return row < X ? row : row + Y; }
    // Places of a query's logits (T = 1): those of the exact store's rows, of the coarse one's, of the new token. Each
    // begins a whole stage after the one before, so that stages are written as they come.
    RETENTIVE_HD int coarse_logits() const { return ceil_div(E, kStageRows) * kStageRows; }
    RETENTIVE_HD int fresh_logits() const { return coarse_logits() + ceil_div(F, kStageRows) * kStageRows; }
    RETENTIVE_HD int logits() const { return fresh_logits() + kStageRows; }
    static_assert(3 * kStageRows <= kRoundedRows, "check() counts on it"); // each of the three rounded up
    RETENTIVE_HD int place_of_local(int row) const { return row < X ? row : coarse_logits() + row - X; }
    RETENTIVE_HD int place_of(int column) const {
        if (column >= R) return fresh_logits() + column - R;
        return column < C || F > Y ? place_of_local(column) : column - Y;
    }
    // A head's logits are [stages, G, kStageRows]: what a warp writes of a stage lies together. A stage's rows come in
    // the order in which the lanes 4 g + t of a product have them: two each of its four 8-row parts for t = 0, then 1...
    // Offset of query head 0's logit at a place; query head g's is g kStageRows further.
    RETENTIVE_HD int logit_at(int place) const {
        const unsigned at = unsigned(place); // whose quotients cost one instruction each
        return int(at / kStageRows * unsigned(G * kStageRows) + at % 8 / 2 * 8 + at % kStageRows / 8 * 2 + at % 2);
    }
    // The same where `place` is a multiple of 16. A row behind it, below the next one, is logit_at(row - place) further:
    // rows 2 t and 2 t + 1 of each 8-row part together 8 t.
    RETENTIVE_HD int logits_of_stage(int place) const {
        const unsigned at = unsigned(place);
        return int(at / kStageRows * unsigned(G * kStageRows) + at % kStageRows / 4);
    }
    // First row and number of rows of a tier.
    RETENTIVE_HD int tier_first(int tier) const { return tier == 0 && X > 0 ? 0 : X; }
    RETENTIVE_HD int tier_rows(int tier) const { return tier == 0 && X > 0 ? X : Y; }
    RETENTIVE_HD int tier_of(int row) const { return L == 2 && row >= X ? 1 : 0; }
};

// Where attention_prefill serves: many queries of several tokens, of which no logits are kept.
RETENTIVE_HD inline bool takes_many_queries(const Shape &s, const RetentiveGeometry &g) {
    return g.dtype != RETENTIVE_FLOAT32 && s.T > 1 && s.GT > 2 * kTileQueries;
}

// Where else attention_split takes the place of attention_partial: rows that cp.async can copy as they are.
RETENTIVE_HD inline bool takes_stages(const Shape &s, const RetentiveGeometry &g) {
    return g.dtype != RETENTIVE_FLOAT32 && !takes_many_queries(s, g) &&
           (s.F == 0 || s.D == 64 || s.D == 128 || s.D == 256);
}

// Rows that a block of attention_prefill takes at once, with head sizes up to kDim.
template <int kDim> constexpr int kPrefillRows = kDim > 128 ? kTileRows : kStageRows;

// First launch of the attention: grid (splits, query blocks, B * Hkv).
struct AttentionPlan {
    int query_tiles;    // tiles of kTileQueries queries
    bool staged;        // attention_split,
    bool prefill;       // attention_prefill, else attention_partial
    bool rows_per_warp; // the warps of a block share the rows of one query tile; else each has its own query tile
    int query_blocks;   // blocks along the queries
    int splits;         // blocks along the rows
    int turn_rows;      // that a warp takes at once; of attention_prefill, a block
    int exact_tiles, coarse_tiles, fresh_tiles; // of turn_rows; exact and fresh ones of kTileRows where there are codes

    RETENTIVE_HD AttentionPlan(const Shape &s, const RetentiveGeometry &g) {
        query_tiles = ceil_div(s.GT, kTileQueries);
        staged = takes_stages(s, g);
        prefill = takes_many_queries(s, g);
        if (prefill) {
            cut_prefill(s);
            return;
        }
        rows_per_warp = query_tiles <= 2 || g.dtype != RETENTIVE_FLOAT32 || s.D > 128; // what fits in shared memory
        query_blocks = rows_per_warp ? query_tiles : ceil_div(query_tiles, kAttentionWarps);
        const bool large = g.dtype == RETENTIVE_FLOAT32 || s.D > 128;
        const int resident = large ? 2 : 3; // blocks on a multiprocessor: kSplitBlocks, kPartialBlocks
        const int most = blocks_for(resident * kMultiprocessors / (s.BH * query_blocks), kMaxSplits);
        turn_rows = kTileRows;
        cut(s);
        const int tiles = exact_tiles + coarse_tiles + fresh_tiles;
        if (!rows_per_warp) {
            splits = blocks_for(most, ceil_div(tiles, 16));
            return;
        }
        if (staged && s.D <= 128 && tiles > kWideTurns * most * kAttentionWarps) turn_rows = kStageRows, cut(s);
        splits = blocks_for(most, ceil_div(exact_tiles + coarse_tiles + fresh_tiles, kAttentionWarps));
    }

  private:
    RETENTIVE_HD void cut_prefill(const Shape &s) {
        rows_per_warp = false;
        query_blocks = ceil_div(s.GT, kBlockQueries);
        turn_rows = s.D > 128 ? kPrefillRows<256> : kPrefillRows<128>;
        cut(s);
        const int resident = s.D > 128 || s.F > 0 ? 2 : 3; // kPrefillBlocks
        const int most = blocks_for(resident * kMultiprocessors / (s.BH * query_blocks), kMaxSplits);
        splits = blocks_for(most, ceil_div(exact_tiles + coarse_tiles + fresh_tiles, kPrefillTurns));
    }
    RETENTIVE_HD void cut(const Shape &s) {
        const int exact_rows = staged && s.F > 0 ? kTileRows : turn_rows; // the instruction cache is small
        exact_tiles = ceil_div(s.E, exact_rows), coarse_tiles = ceil_div(s.F, turn_rows);
        fresh_tiles = ceil_div(s.T, exact_rows);
    }
};

// Blocks of prefill_statistics, of four times kTileRows rows of one kind.
struct StatisticsBlocks {
    int exact, coarse, fresh;

    RETENTIVE_HD explicit StatisticsBlocks(const Shape &s) : exact(of(s.E)), coarse(of(s.F)), fresh(of(s.T)) {}

  private:
    static RETENTIVE_HD int of(int rows) { return ceil_div(rows, kAttentionWarps * kTileRows); }
};

// Tiles are dealt out in turn, in the order exact, coarse, fresh: the readers of a head move over its rows side by
// side, which keeps them in the same pages of memory, and each gets its share of every kind.
struct TileTurn {
    int number, readers; // of this reader: a block, or a warp of it

    // First tile of a kind before which there are `origin` tiles; then every `readers`-th.
    RETENTIVE_HD int first(int origin) const {
        const int turn = number - origin % readers;
        return turn < 0 ? turn + readers : turn;
    }
};

// Of some columns of one query: sums of e = 2^(s - maximum), s the base-2 logit.
struct ColumnSums {
    float sum = 0;      // e
    float visual = 0;   // e of the visual columns
    float weighted = 0; // e (s - maximum) of the visual columns
};

// What a split knows of one query: its columns' maximum, the sum of e over them, and the sums of the local rows and of all
// other columns.
struct alignas(16) SplitStats {
    float maximum;
    float sum;
    ColumnSums local, rest;
};

// What a split knows of its rows, whatever the query.
struct alignas(16) SplitRows {
    float importance; // sum over the occupied local rows, before this step
    float entropy;
    float occupied; // occupied local rows
    float visual;   // visual rows, memory included
};

// Normalisers of one query, and what it adds to the statistics.
struct alignas(8) QueryNorm {
    float maximum;         // base-2
    float inverse;         // 1 / sum: probability = e inverse
    float log_visual;      // share of the attention to visual rows = e 2^(log_visual / ln 2)
    float received_factor; // of e: gain, decay, 1 / G and inverse; 0 for padding
    float surprise_factor; // of e ln share: likewise with the visual sum; 0 unless the token is text
    float entropy;         // visual entropy, over its maximum or in nats
    float text;            // 1 for a text token, else 0
    float local_received;  // weighted sums over the local rows
    float local_surprise;
};

// Smallest keys of one block's rows, per tier: (order << 32) | row.
struct alignas(16) BlockMinimum {
    unsigned long long key[kTiers];
};

// Blocks of a head that add up its outputs with T = 1, four channels a warp; `all`: of all heads.
RETENTIVE_HD inline int output_blocks_of(const Shape &s, int all) {
    return blocks_for(all / s.BH, ceil_div(s.G * s.D / 4, kFinishThreads / kWarpSize));
}

// Of a query as attention_prefill leaves it for prefill_statistics: the operand for exact rows, and two for codes.
RETENTIVE_HD inline int prefill_query_bytes(const Shape &s) { return (s.F > 0 ? 3 : 1) * s.D * 2; }

// Byte offsets into the workspace of the attention; the decode step also uses tickets and minima.
struct AttentionWorkspace {
    size_t stats, rows, partial, logits, norms, kept_queries, tickets, minima, token_rows, token_meta, total;
    int column_blocks; // of the second launch, per head: blocks over the columns, and behind them blocks over the outputs
    int output_blocks;

    RETENTIVE_HD AttentionWorkspace(const Shape &s, const AttentionPlan &p) {
        size_t at = 0;
        const size_t queries = size_t(s.BH) * p.query_tiles * kTileQueries;
        stats = at, at = align_up(at + queries * p.splits * sizeof(SplitStats));
        rows = at, at = align_up(at + size_t(s.BH) * p.splits * sizeof(SplitRows));
        partial = at, at = align_up(at + size_t(s.BH) * s.GT * p.splits * s.D * sizeof(float));
        logits = at, at = align_up(at + (s.T == 1 ? size_t(s.BH) * s.GT * s.logits() * sizeof(float) : 0));
        norms = at, at = align_up(at + size_t(s.BH) * s.GT * sizeof(QueryNorm));
        kept_queries = at, at = align_up(at + (p.prefill ? size_t(s.BH) * s.GT * prefill_query_bytes(s) : 0));
        tickets = at, at = align_up(at + size_t(s.BH) * sizeof(unsigned));
        // one block where its threads have a few columns each: it need not wait for others to know who leaves
        const bool many = s.C > kColumnsAtOnce * kFinishThreads * (kColumnBlocks / s.BH);
        column_blocks =
            s.C <= kFewColumns * kFinishThreads
                ? 1
                : blocks_for((many ? kManyColumnBlocks : kColumnBlocks) / s.BH, ceil_div(s.columns, kFinishThreads));
        output_blocks = output_blocks_of(s, many || column_blocks == 1 ? kFewOutputBlocks : kOutputBlocks);
        minima = at, at = align_up(at + size_t(s.BH) * column_blocks * sizeof(BlockMinimum));
        const size_t tokens = s.T == 1 ? size_t(s.BH) : 0; // the new one, for a step that is settled aside
        token_rows = at, at = align_up(at + tokens * 2 * s.D * sizeof(float)); // [B, Hkv, 2, D]
        token_meta = at, at = align_up(at + tokens * 2 * sizeof(int32_t));     // [B, Hkv, 2]
        total = at;
    }
};

struct GateWorkspace {
    size_t sums, tickets, minima, total;
    int blocks;

    RETENTIVE_HD explicit GateWorkspace(const Shape &s) {
        blocks = blocks_for(2 * kMultiprocessors / s.BH, ceil_div(s.C + s.T, kFinishThreads));
        size_t at = 0;
        sums = at, at = align_up(at + size_t(s.BH) * blocks * sizeof(SplitRows));
        tickets = at, at = align_up(at + size_t(s.BH) * sizeof(unsigned));
        minima = at, at = align_up(at + size_t(s.BH) * blocks * sizeof(BlockMinimum));
        total = at;
    }
};

// T = 1: blocks of a head that look for the recall row of the token that left, in a launch of its own, and how many rows
// each has; no blocks where the rows are so few that the block that moves the rows goes on with it.
RETENTIVE_HD inline int recall_part(const Shape &s) { return blocks_for(kRecallKeys / s.D, kRecallPart); }
RETENTIVE_HD inline int recall_blocks(const Shape &s) {
    const int rows = s.M - s.V;
    return s.T > 1 || rows <= kRecallAlone ? 0 : ceil_div(rows, recall_part(s));
}

// Recall rows in use, and the smallest key_of() of distance and row: the nearest, the first of equals.
struct alignas(16) Recall {
    unsigned long long nearest;
    int used;
};

// Tokens on their way out of the last tier, where launches follow that absorb them.
struct TransitionWorkspace {
    size_t keys, values, meta, targets, weights, found, tickets, total;

    RETENTIVE_HD explicit TransitionWorkspace(const Shape &s) {
        const int parts = recall_blocks(s);
        const size_t tokens = s.T > 1 || parts > 0 ? size_t(s.BH) * s.T : 0;
        size_t at = 0;
        keys = at, at = align_up(at + tokens * s.D * sizeof(float));   // [B, Hkv, T, D]
        values = at, at = align_up(at + tokens * s.D * sizeof(float)); // [B, Hkv, T, D]
        meta = at, at = align_up(at + tokens * 2 * sizeof(int32_t));   // [B, Hkv, T, 2], position < 0: nobody left
        targets = at, at = align_up(at + tokens * sizeof(int32_t));    // [B, Hkv, T] memory row, or -1
        weights = at, at = align_up(at + tokens * sizeof(float));      // [B, Hkv, T] in the matrix state
        found = at, at = align_up(at + size_t(s.BH) * parts * sizeof(Recall));               // [B, Hkv, recall blocks]
        tickets = at, at = align_up(at + (parts > 0 ? size_t(s.BH) * sizeof(unsigned) : 0)); // [B, Hkv]
        total = at;
    }
};

// The step with T > 1 runs the three operators one after the other, with their results between them in the workspace.
struct StepWorkspace {
    size_t attention, gate, transition, transition_bytes, received, surprise, visual_entropy, victims, importance,
        entropy, absorption, retention, total;

    RETENTIVE_HD StepWorkspace(const Shape &s, const AttentionPlan &p) {
        size_t at = 0;
        attention = at, at = align_up(at + AttentionWorkspace(s, p).total);
        const size_t tokens = s.T > 1 || recall_blocks(s) > 0 ? size_t(s.BH) * s.T : 0;
        transition_bytes = TransitionWorkspace(s).total;
        transition = at, at = align_up(at + transition_bytes);
        absorption = at, at = align_up(at + tokens * sizeof(float));
        retention = at, at = align_up(at + (tokens > 0 ? size_t(s.BH) * sizeof(float) : 0));
        gate = received = surprise = visual_entropy = victims = importance = entropy = total = at;
        if (s.T == 1) return;
        gate = at, at = align_up(at + GateWorkspace(s).total);
        received = at, at = align_up(at + size_t(s.BH) * s.columns * sizeof(float));
        surprise = at, at = align_up(at + size_t(s.BH) * s.columns * sizeof(float));
        visual_entropy = at, at = align_up(at + size_t(s.BH) * sizeof(float));
        victims = at, at = align_up(at + size_t(s.BH) * s.L * s.T * sizeof(int64_t));
        importance = at, at = align_up(at + size_t(s.BH) * (s.C + s.T) * sizeof(float));
        entropy = at, at = align_up(at + size_t(s.BH) * (s.C + s.T) * sizeof(float));
        total = at;
    }
};

} // namespace retentive
