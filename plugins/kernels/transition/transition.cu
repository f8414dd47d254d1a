// StateTransition: two launches with one new token, up to four with more.
#include "common/launch.cuh"
#include "operators.h"
#include "transition/kernels.cuh"

namespace retentive {
namespace {

constexpr int kCopyBlocks = 4 * kMultiprocessors;

// What is not in place, but for the statistics, which are always rewritten whole.
StateCopies copies_of(const Shape &s, const RetentiveGeometry &g, const RetentiveState &from,
                      const RetentiveState &to) {
    const size_t element = g.dtype == RETENTIVE_FLOAT32 ? 4 : 2,
                 width = g.coarse_dtype == RETENTIVE_INT4 ? s.D / 2 : s.D;
    const size_t matrix = g.readout == RETENTIVE_READOUT_RESIDUAL ? size_t(s.D) * s.D * sizeof(float) : 0;
    const struct {
        void *to;
        const void *from;
        size_t bytes_per_head;
    } tensors[StateCopies::kMost] = {
        {to.key_rows, from.key_rows, size_t(s.E) * s.D * element},
        {to.value_rows, from.value_rows, size_t(s.E) * s.D * element},
        {to.key_codes, from.key_codes, size_t(s.F) * width},
        {to.value_codes, from.value_codes, size_t(s.F) * width},
        {to.value_scale, from.value_scale, size_t(s.F) * sizeof(float)},
        {to.row_meta, from.row_meta, size_t(s.R) * 2 * sizeof(int32_t)},
        {to.memory_mass, from.memory_mass, size_t(s.M) * sizeof(float)},
        {to.recall_state, from.recall_state, matrix},
        {to.visual_state, from.visual_state, matrix},
    };
    StateCopies copies = {};
    for (const auto &tensor : tensors)
        if (tensor.to != tensor.from && tensor.bytes_per_head > 0)
            copies.tensors[copies.count++] = {static_cast<const uint32_t *>(tensor.from),
                                              static_cast<uint32_t *>(tensor.to),
                                              size_t(s.BH) * tensor.bytes_per_head / sizeof(uint32_t)};
    return copies;
}

template <typename Element>
int32_t absorb_one(const RetentiveTransitionParams &params, const Shape &s, bool untouched, void *stream) {
    const auto kernel = params.geometry.memory_store == RETENTIVE_STORE_EXACT
                            ? transition_absorb<Element, Stores::exact>
                            : transition_absorb<Element, Stores::coarse>;
    return launch("transition_absorb", kernel, dim3(unsigned(recall_blocks(s)), unsigned(s.BH)), kMoveThreads, 0,
                  stream, params, s, untouched);
}

template <typename Element> int32_t move(const RetentiveTransitionParams &params, const Shape &s, void *stream) {
    const unsigned heads = unsigned(s.BH), steps = unsigned(s.T);
    const int32_t readout = params.geometry.readout;
    if (const int32_t status =
            launch("transition_move", transition_move<Element>, dim3(steps, heads), kMoveThreads, 0, stream, params, s))
        return status;
    if (readout == RETENTIVE_READOUT_NONE) return RETENTIVE_OK;
    if (s.T == 1) return launch_absorb(params, false, stream);
    if (readout == RETENTIVE_READOUT_RESIDUAL) {
        if (const int32_t status = launch("transition_weights", transition_weights, dim3(steps, heads), kMoveThreads, 0,
                                          stream, params, s))
            return status;
        return launch("transition_residual", transition_residual, dim3(unsigned(s.D), heads, 2), kMoveThreads, 0,
                      stream, params, s);
    }
    if (const int32_t status = launch("transition_route", transition_route<Element>, dim3(steps, heads), kMoveThreads,
                                      0, stream, params, s))
        return status;
    return launch("transition_merge", transition_merge<Element>, dim3(unsigned(s.M), heads), kMoveThreads, 0, stream,
                  params, s);
}

} // namespace

int32_t launch_absorb(const RetentiveTransitionParams &params, bool untouched, void *stream) {
    const Shape s(params.geometry, params.steps);
    if (recall_blocks(s) == 0) return RETENTIVE_OK;
    return with_element(params.geometry, [&](auto x) { return absorb_one<decltype(x)>(params, s, untouched, stream); });
}

int32_t launch_transition(const RetentiveTransitionParams &params, void *stream) {
    const Shape s(params.geometry, params.steps);
    const StateCopies copies = copies_of(s, params.geometry, params.before, params.after);
    if (copies.count > 0 || params.geometry.track_importance || params.geometry.track_entropy)
        if (const int32_t status = launch("transition_copy", transition_copy, dim3(kCopyBlocks), kMoveThreads, 0,
                                          stream, params, s, copies))
            return status;
    return with_element(params.geometry, [&](auto x) { return move<decltype(x)>(params, s, stream); });
}

} // namespace retentive
