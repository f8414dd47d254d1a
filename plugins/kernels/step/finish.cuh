// Second launch of a decode step: outputs, statistics, the victims and the state transition. Some blocks of a head have
// its columns, the others its outputs; the last of the first kind to finish moves the rows.
#pragma once

#include "attention/decode.cuh"
#include "gate/score.cuh"
#include "transition/leaving.cuh"
#include "transition/move.cuh"

namespace retentive {

static_assert(kFinishThreads == kMoveThreads, "the last block moves the rows");

// The local rows of one head.
struct HeadColumns {
    const int2 *meta;            // [C]
    float *importance, *entropy; // [C]; nullptr where not tracked
    const float *logits;         // as Shape::logit_at

    __device__ __forceinline__ HeadColumns(const RetentiveStepParams &params, const Shape &s, const SplitView &view,
                                           int bh)
        : meta(reinterpret_cast<const int2 *>(params.state.row_meta) + size_t(bh) * s.R),
          importance(params.geometry.track_importance ? params.state.importance + size_t(bh) * s.C : nullptr),
          entropy(params.geometry.track_entropy ? params.state.entropy + size_t(bh) * s.C : nullptr),
          logits(view.logits) {}
};

// Some columns of one thread, `stride` apart: everything that is read of them, in flight at once. Columns behind the last
// one are read as the last one, so that nothing branches; what follows of them is dropped.
template <int kColumns> struct ColumnBatch {
    static constexpr int kGroups = 4;

    int2 meta[kColumns];
    float importance[kColumns], entropy[kColumns];
    float logits[kGroups][kColumns]; // of the first query heads

    // What the state has of them, from the L2 cache: no line of an older one is taken.
    __device__ __forceinline__ void load_state(const HeadColumns &head, const Shape &s, int first, int stride) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
            const int c = min(first + i * stride, s.C - 1);
            meta[i] = __ldcg(head.meta + c);
            importance[i] = head.importance != nullptr ? __ldcg(head.importance + c) : 0.0f;
            entropy[i] = head.entropy != nullptr ? __ldcg(head.entropy + c) : 0.0f;
        }
    }

    // Of query heads group .. group + 3.
    __device__ __forceinline__ void load_logits(const HeadColumns &head, const Shape &s, int group, int first,
                                                int stride) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
            const float *from =
                head.logits + s.logit_at(s.place_of_local(min(first + i * stride, s.C - 1))) + group * kStageRows;
#pragma unroll
            for (int g = 0; g < kGroups; ++g)
                if (group + g < s.G) logits[g][i] = from[g * kStageRows];
        }
    }
};

// Statistics of the local rows and of the new token, in place; who leaves each tier first.
struct DecodeGate {
    const RetentiveStepParams &params;
    const Shape &s;
    const HeadColumns &columns;
    const DecodeHead &head;
    ScoreScale scale;
    int bh, tiers;
    float importance_kept, entropy_kept;

    __device__ __forceinline__ DecodeGate(const RetentiveStepParams &p, const Shape &shape, const HeadColumns &rows,
                                          const DecodeHead &loaded, int number, int its_tiers, int2 meta)
        : params(p), s(shape), columns(rows), head(loaded), scale(sums(p, loaded, shape.G, meta.x >= 0, meta.x)),
          bh(number), tiers(its_tiers), importance_kept(kept(p.gate.importance_decay, meta.x >= 0)),
          entropy_kept(kept(p.gate.entropy_decay, meta.x >= 0)) {}

    // `batch`: the thread's first columns. While a warp waits for its next ones, the multiprocessor's other warps use
    // theirs.
    template <int kColumns>
    __device__ __forceinline__ void update(ColumnBatch<kColumns> &batch, int first, int stride,
                                           Leaving (&leaving)[kTiers]) const {
#pragma unroll 1
        while (first < s.C) {
            use(batch, first, stride, leaving);
            first += kColumns * stride;
            if (first < s.C)
                batch.load_state(columns, s, first, stride), batch.load_logits(columns, s, 0, first, stride);
        }
    }

    // The new token's own statistics.
    __device__ __forceinline__ float2 fresh() const {
        const float2 own = head.fresh_statistics(s.G);
        return make_float2(params.geometry.track_importance ? own.x : 0.0f,
                           params.geometry.track_entropy ? own.y : 0.0f);
    }

  private:
    template <int kColumns> struct Received {
        float importance[kColumns] = {}, entropy[kColumns] = {};
    };

    // Query heads group .. group + 3, whose logits the batch has.
    template <int kColumns>
    __device__ __forceinline__ void add(const ColumnBatch<kColumns> &batch, int group,
                                        Received<kColumns> &received) const {
#pragma unroll
        for (int g = 0; g < ColumnBatch<kColumns>::kGroups; ++g) {
            if (group + g >= s.G) break;
            const QueryNorm &norm = head.norms[group + g];
#pragma unroll
            for (int i = 0; i < kColumns; ++i)
                add_column(norm, batch.logits[g][i], batch.meta[i].x >= 0 && batch.meta[i].y >= 0,
                           received.importance[i], received.entropy[i]);
        }
    }

    template <int kColumns>
    __device__ __forceinline__ void use(ColumnBatch<kColumns> &batch, int first, int stride,
                                        Leaving (&leaving)[kTiers]) const {
        constexpr int kGroups = ColumnBatch<kColumns>::kGroups;
        Received<kColumns> received;
        add(batch, 0, received);
#pragma unroll 1
        for (int group = kGroups; group < s.G; group += kGroups)
            batch.load_logits(columns, s, group, first, stride), add(batch, group, received);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
            const int c = first + i * stride;
            if (c < s.C)
                settle(c, batch.meta[i].x, batch.importance[i] * importance_kept + received.importance[i],
                       batch.entropy[i] * entropy_kept + received.entropy[i], leaving);
        }
    }

    __device__ __forceinline__ void settle(int c, int position, float importance, float entropy,
                                           Leaving (&leaving)[kTiers]) const {
        if (columns.importance != nullptr)
            columns.importance[c] = importance;
        else
            importance = 0.0f;
        if (columns.entropy != nullptr)
            columns.entropy[c] = entropy;
        else
            entropy = 0.0f;
        const float order = leaving_order(params.geometry, params.gate, scale, position, importance, entropy);
        if (tiers == 1 || s.tier_of(c) == 0)
            leaving[0].meet(order, c);
        else
            leaving[1].meet(order, c);
    }

    static __device__ __forceinline__ float kept(float decay, bool valid) { return valid ? decay : 1.0f; }

    // The updated statistics' sums follow from those of the splits; nothing need be read twice.
    static __device__ __forceinline__ ScoreScale sums(const RetentiveStepParams &p, const DecodeHead &head, int groups,
                                                      bool valid, int newest) {
        float importance = 0.0f, entropy = 0.0f;
#pragma unroll 1
        for (int g = 0; g < groups; ++g)
            importance += head.norms[g].local_received, entropy += head.norms[g].local_surprise;
        importance += head.rows.importance * kept(p.gate.importance_decay, valid);
        entropy += head.rows.entropy * kept(p.gate.entropy_decay, valid);
        return ScoreScale(p.geometry, p.geometry.track_importance ? importance : 0.0f,
                          p.geometry.track_entropy ? entropy : 0.0f, head.rows.occupied, newest);
    }
};

// Where a step's statistics are: the state itself, and for the new token two numbers.
struct StepStatistics {
    float *importance, *entropy; // [C] or nullptr
    float2 fresh;

    __device__ __forceinline__ float2 of_token(int) const { return fresh; }
    __device__ __forceinline__ float2 of_row(int row) const {
        return make_float2(importance != nullptr ? importance[row] : 0.0f, entropy != nullptr ? entropy[row] : 0.0f);
    }
    __device__ __forceinline__ void set(int row, float2 x) const {
        if (importance != nullptr) importance[row] = x.x;
        if (entropy != nullptr) entropy[row] = x.y;
    }
};

// When the token that leaves the last tier enters the memory; later: transition_absorb follows.
enum class Absorbed { never, here, later };

// The transition of one head; all threads of one block.
template <Absorbed kAbsorbed, typename Rows>
__device__ __forceinline__ void move_rows(const RetentiveStepParams &params, const DecodeGate &gate, const Rows &rows,
                                          const Token &fresh, const int (&victims)[kTiers],
                                          const StepWorkspace &after) {
    const Shape &s = gate.s;
    const StepStatistics statistics{gate.columns.importance, gate.columns.entropy, gate.fresh()};
    if (params.victims != nullptr && threadIdx.x < unsigned(s.L))
        params.victims[size_t(gate.bh) * s.L + threadIdx.x] = threadIdx.x == 0 ? victims[0] : victims[1];
    const auto victim = [&](int tier) { return tier == 0 ? victims[0] : victims[1]; };
    if constexpr (kAbsorbed != Absorbed::never) {
        const int last = rows.tiers() == 2 ? victims[1] : victims[0];
        const float importance = statistics.of_row(last).x; // before the row is overwritten behind demote's barrier
        const int position = rows.meta(last)[0];
        const Token token = demote<true>(rows, fresh, 0, statistics, victim);
        const float absorption = sigmoid(params.gate.absorption, gate.scale.relative(importance, position)),
                    retention = sigmoid(params.gate.retention, gate.head.visual_entropy(s.G));
        if constexpr (kAbsorbed == Absorbed::here) return absorb(rows, token, absorption, retention);
        char *workspace = static_cast<char *>(params.workspace);
        const LeavingTokens leaving(s, workspace + after.transition, gate.bh);
        leaving.put(rows, 0, token), leaving.begin();
        if (threadIdx.x != 0) return;
        reinterpret_cast<float *>(workspace + after.absorption)[gate.bh] = absorption;
        reinterpret_cast<float *>(workspace + after.retention)[gate.bh] = retention;
    } else {
        demote<false>(rows, fresh, 0, statistics, victim);
    }
}

// Grid (column blocks and, unless the output is written already, output blocks; B Hkv). `kept`: the new token is the one
// that the first part of the step kept; no input is read. kStores: of the layer. kColumns: of a thread at once.
template <typename Element, Stores kStores, Absorbed kAbsorbed, int kColumns>
__global__ void __launch_bounds__(kFinishThreads, kFinishBlocks)
    step_finish(const __grid_constant__ RetentiveStepParams params, const __grid_constant__ Shape shape,
                const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                const __grid_constant__ StepWorkspace after, const bool kept) {
    __shared__ HeadAhead ahead;
    __shared__ DecodeHead head;
    __shared__ MoveShared shared;
    const int bh = blockIdx.y;
    char *workspace = static_cast<char *>(params.workspace);
    const SplitView view(shape, plan, at, workspace, bh);
    const HeadColumns columns(params, shape, view, bh);
    const int output_block = int(blockIdx.x) - at.column_blocks;
    const int first = blockIdx.x * kFinishThreads + threadIdx.x, stride = at.column_blocks * kFinishThreads;
    ColumnBatch<kColumns> batch;

    let_next_kernel_start();
    // In a whole step the kernels ahead, of which the first waited before it let another one start, write no state.
    if (kept) wait_for_previous_kernel();
    if (output_block < 0) batch.load_state(columns, shape, first, stride);
    wait_for_previous_kernel();
    if (output_block >= 0)
        return decode_output(shape, view, output_block, at.output_blocks,
                             static_cast<Element *>(params.output) + size_t(bh) * shape.G * shape.D);
    const KeptToken token(shape, at, workspace, bh);
    ahead.send(shape, view,
               kept ? reinterpret_cast<const int32_t *>(token.meta) : params.token_meta + 2 * (bh / shape.Hkv));
    const HeadRows<Element, kStores> rows(params.geometry, params.state, shape, params.key_scale, bh, shared);
    TokenAhead<Element> fresh;
    batch.load_logits(columns, shape, 0, first, stride);
    fresh.load(params, shape, bh, kept ? &token : nullptr);
    ahead.arrive();
    head.load(shape, view, ahead, params.gate);
    const DecodeGate gate(params, shape, columns, head, bh, rows.tiers(), ahead.token);
    Leaving leaving[kTiers];
    gate.update(batch, first, stride, leaving);
    unsigned long long least[kTiers] = {leaving[0].key(), leaving[1].key()};
    BlockMinimum *minima = reinterpret_cast<BlockMinimum *>(workspace + at.minima) + size_t(bh) * at.column_blocks;
    int victims[kTiers];
    if (!choose_victims(least, rows.tiers(), minima, reinterpret_cast<unsigned *>(workspace + at.tickets) + bh,
                        at.column_blocks, victims))
        return;
    move_rows<kAbsorbed>(params, gate, rows, fresh.get(kept), victims, after);
}

} // namespace retentive
