// A token as a block carries it: thread d has channel d.
#pragma once

#include "common/device.cuh"

namespace retentive {

// A token on its way: this thread's channel of key and value, and what all threads know.
struct Token {
    float key = 0.0f, value = 0.0f;
    int position = -1, cell = -1;

    __device__ __forceinline__ bool present() const { return position >= 0; }
    __device__ __forceinline__ bool visual() const { return position >= 0 && cell >= 0; }
};

// The step's token t of one head.
template <typename Element>
__device__ __forceinline__ Token new_token(const void *key, const void *value, const int32_t *token_meta,
                                           const Shape &s, int bh, int t) {
    Token token;
    if (int(threadIdx.x) < s.D) {
        const size_t i = (size_t(bh) * s.T + t) * s.D + threadIdx.x;
        token.key = sanitize(to_float(static_cast<const Element *>(key)[i]));
        token.value = sanitize(to_float(static_cast<const Element *>(value)[i]));
    }
    const int2 meta = load_meta(token_meta, size_t(bh / s.Hkv) * s.T + t);
    token.position = meta.x, token.cell = meta.y;
    return token;
}

// The new token where the first part of a step leaves it for the second one (AttentionWorkspace), so that the second
// part reads nothing that the caller may have given away by then.
struct KeptToken {
    float *rows; // [2, D]
    int2 *meta;

    __device__ __forceinline__ KeptToken(const Shape &s, const AttentionWorkspace &at, char *workspace, int bh)
        : rows(reinterpret_cast<float *>(workspace + at.token_rows) + size_t(bh) * 2 * s.D),
          meta(reinterpret_cast<int2 *>(workspace + at.token_meta) + bh) {}

    __device__ __forceinline__ void put(const Shape &s, const Token &token) const {
        if (threadIdx.x == 0) *meta = make_int2(token.position, token.cell);
        if (int(threadIdx.x) < s.D) rows[threadIdx.x] = token.key, rows[s.D + threadIdx.x] = token.value;
    }
};

// The new token of a step with T = 1, sent for long before it is needed: as it was read, since to convert it is to wait
// for it.
template <typename Element> struct TokenAhead {
    Element key, value;         // of the thread's channel, from the step's inputs,
    float kept_key, kept_value; // or from where the step's first part left it
    int2 meta;

    // `kept`: nullptr where the inputs are still there.
    __device__ __forceinline__ void load(const RetentiveStepParams &params, const Shape &s, int bh,
                                         const KeptToken *kept) {
        const bool there = int(threadIdx.x) < s.D;
        const size_t channel = size_t(bh) * s.D + threadIdx.x;
        key = value = from_float<Element>(0.0f), kept_key = kept_value = 0.0f;
        if (kept != nullptr) {
            meta = *kept->meta;
            if (there) kept_key = kept->rows[threadIdx.x], kept_value = kept->rows[s.D + threadIdx.x];
        } else {
            meta = load_meta(params.token_meta, size_t(bh / s.Hkv));
            if (there)
                key = static_cast<const Element *>(params.key)[channel],
                value = static_cast<const Element *>(params.value)[channel];
        }
    }

    __device__ __forceinline__ Token get(bool kept) const {
        Token token;
        token.key = kept ? kept_key : sanitize(to_float(key));
        token.value = kept ? kept_value : sanitize(to_float(value));
        token.position = meta.x, token.cell = meta.y;
        return token;
    }
};

} // namespace retentive
