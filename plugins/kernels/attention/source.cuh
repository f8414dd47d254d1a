// The rows that a head's queries attend to.
#pragma once

#include "common/device.cuh"

namespace retentive {

// Rows of one head: of one of the two stores, or the step's own tokens.
struct Source {
    enum Kind { exact, coarse, fresh };

    const char *keys, *values;
    int rows, dim, row_bytes;
    int locals; // the first of the rows; behind them stand memory rows, or new tokens
    int column; // of row 0 of the locals, in the layer's row index space
    int logit;  // of row 0
    Kind kind;
};

// Member by member: a reference to one of two structs would put both in memory.
__device__ __forceinline__ Source either(bool first, const Source &a, const Source &b) {
    return {first ? a.keys : b.keys,     first ? a.values : b.values,       first ? a.rows : b.rows,
            first ? a.dim : b.dim,       first ? a.row_bytes : b.row_bytes, first ? a.locals : b.locals,
            first ? a.column : b.column, first ? a.logit : b.logit,         first ? a.kind : b.kind};
}

struct HeadSources {
    const RetentiveAttentionParams &params;
    const Shape &shape;
    int bh;

    template <typename Element> __device__ __forceinline__ Source exact() const {
        const int bytes = shape.D * int(sizeof(Element));
        return {at(params.state.key_rows, shape.E, bytes),
                at(params.state.value_rows, shape.E, bytes),
                shape.E,
                shape.D,
                bytes,
                shape.X,
                0,
                0,
                Source::exact};
    }
    __device__ __forceinline__ Source coarse() const {
        const int bytes = params.geometry.coarse_dtype == RETENTIVE_INT8 ? shape.D : shape.D / 2;
        return {at(params.state.key_codes, shape.F, bytes),
                at(params.state.value_codes, shape.F, bytes),
                shape.F,
                shape.D,
                bytes,
                shape.Y,
                shape.X,
                shape.coarse_logits(),
                Source::coarse};
    }
    template <typename Element> __device__ __forceinline__ Source fresh() const {
        const int bytes = shape.D * int(sizeof(Element));
        return {at(params.key, shape.T, bytes),
                at(params.value, shape.T, bytes),
                shape.T,
                shape.D,
                bytes,
                0,
                shape.R,
                shape.fresh_logits(),
                Source::fresh};
    }

    // Where a query's logits go, as Shape::logit_at; nullptr: none are kept, or there is no such query.
    __device__ __forceinline__ float *logits(const AttentionWorkspace &workspace, int query) const {
        if (shape.T > 1 || query >= shape.GT) return nullptr;
        return reinterpret_cast<float *>(static_cast<char *>(params.workspace) + workspace.logits) +
               size_t(bh) * shape.GT * shape.logits() + query * kStageRows;
    }

  private:
    __device__ __forceinline__ const char *at(const void *all, int rows, int bytes) const {
        return static_cast<const char *>(all) + size_t(bh) * rows * bytes;
    }
};

// What is read of a row besides key and value.
struct RowWords {
    int2 meta = {-1, -1};
    float mass = 0;                    // of a memory row
    float scale = 0;                   // of a coarse row's value
    float importance = 0, entropy = 0; // of a local row
};

// Where a source's row words are, row 0 first.
struct RowWordsOf {
    const int2 *meta;
    const float *mass, *scale, *importance, *entropy; // nullptr where not read
    int rows, locals, gap; // gap: local rows of the other store, between the locals and the memory rows

    // `statistics`: also importance and entropy, as far as they are there.
    __device__ __forceinline__ RowWordsOf(const HeadSources &head, const Source &from, bool statistics)
        : mass(nullptr), scale(nullptr), importance(nullptr), entropy(nullptr), rows(from.rows), locals(from.locals),
          gap(0) {
        const Shape &s = head.shape;
        const RetentiveState &state = head.params.state;
        if (from.kind == Source::fresh) {
            meta = reinterpret_cast<const int2 *>(head.params.token_meta) + size_t(head.bh / s.Hkv) * s.T;
            return;
        }
        meta = reinterpret_cast<const int2 *>(state.row_meta) + size_t(head.bh) * s.R + from.column;
        if (from.rows > from.locals) mass = state.memory_mass + size_t(head.bh) * s.M;
        if (from.kind == Source::coarse)
            scale = state.value_scale + size_t(head.bh) * s.F;
        else
            gap = s.Y;
        const size_t first = size_t(head.bh) * s.C + from.column;
        if (statistics && state.importance != nullptr) importance = state.importance + first;
        if (statistics && state.entropy != nullptr) entropy = state.entropy + first;
    }

    __device__ __forceinline__ RowWords load(int row) const {
        RowWords words;
        if (row >= rows) return words;
        const bool memory = row >= locals;
        words.meta = meta[row + (memory ? gap : 0)];
        if (scale != nullptr) words.scale = scale[row];
        if (memory) {
            if (mass != nullptr) words.mass = mass[row - locals];
            return words;
        }
        if (importance != nullptr) words.importance = importance[row];
        if (entropy != nullptr) words.entropy = entropy[row];
        return words;
    }
};

// What is added to a row's base-2 logit; kNothing where there is no row.
__device__ __forceinline__ float row_bias(const RetentiveGate &gate, const Source &from, int row,
                                          const RowWords &words) {
    if (row >= from.rows) return kNothing;
    if (words.meta.x < 0) return kMasked * kLog2e;
    if (from.kind == Source::fresh || row < from.locals) return 0.0f;
    return words.mass > 0.0f ? (logf(fmaxf(words.mass, kTiny)) + gate.beta) * kLog2e : kMasked * kLog2e;
}

} // namespace retentive
