// What a warp must know of a stage's rows besides keys and values. Lane i has row i of the stage; so has bit i of a
// mask.
#pragma once

#include "attention/source.cuh"

namespace retentive {

struct StageMeta {
    unsigned visual, local;
    bool plain;  // all rows are local and hold a token
    float bias;  // what is added to the row's base-2 logit
    float scale; // of the row's value
};

// What a warp counts of the rows that it meets, new tokens left out.
struct RowCounts {
    float importance = 0, entropy = 0; // sums over the lane's rows
    int occupied = 0, visual = 0;      // over all: local rows in use, visual rows
};

// `words`: of the lane's row, number first + lane of the source.
template <int kRows>
__device__ __forceinline__ StageMeta digest(const RetentiveGate &gate, const RowWords &words, const Source &from,
                                            int first, RowCounts &counts) {
    const int lane = threadIdx.x % kWarpSize, row = first + lane;
    const bool mine = lane < kRows, holds = words.meta.x >= 0, is_local = mine && row < from.locals;
    StageMeta meta;
    meta.visual = __ballot_sync(kFullWarp, holds && words.meta.y >= 0);
    meta.local = __ballot_sync(kFullWarp, is_local);
    meta.plain = __all_sync(kFullWarp, (holds && is_local) || !mine);
    meta.scale = words.scale;
    meta.bias = 0.0f;
    if (!meta.plain && mine) meta.bias = row_bias(gate, from, row, words);
    if (from.kind == Source::fresh) return meta;
    counts.visual += __popc(meta.visual);
    counts.occupied += meta.plain ? kRows : __popc(__ballot_sync(kFullWarp, holds && is_local));
    if (holds) counts.importance += words.importance, counts.entropy += words.entropy;
    return meta;
}

// Words of the lane's row of a stage.
template <int kRows> __device__ __forceinline__ RowWords load_stage_words(const RowWordsOf &words, int first) {
    const int lane = threadIdx.x % kWarpSize;
    return kRows < kWarpSize && lane >= kRows ? RowWords() : words.load(first + lane);
}

// New tokens number first .. first + 31 that the token number `order` may not see, since they come after it.
__device__ __forceinline__ unsigned tokens_after(int order, int first) {
    const int seen = order - first;
    return seen >= kWarpSize - 1 ? 0u : seen < 0 ? ~0u : ~0u << (seen + 1);
}

} // namespace retentive
