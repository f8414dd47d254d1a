// StateTransition: retentive_export/cache/transition.py. The state before is copied where the state after has memory of
// its own; all the rest happens in place there.
#include <cstring>

#include "memory.h"
#include "numbers.h"
#include "operators.h"
#include "rows.h"

namespace retentive::reference {
namespace {

void copy_state(const RetentiveGeometry &g, const RetentiveState &from, const RetentiveState &to) {
    const size_t heads = size_t(g.batch) * size_t(g.kv_heads), dim = size_t(g.head_dim);
    const auto copy = [heads](void *target, const void *source, size_t bytes_per_head) {
        if (target != source && bytes_per_head > 0) std::memcpy(target, source, heads * bytes_per_head);
    };
    const size_t exact = size_t(exact_store_rows(g)), coarse = size_t(coarse_store_rows(g));
    const size_t width = g.coarse_dtype == RETENTIVE_INT4 ? dim / 2 : dim;
    copy(to.key_rows, from.key_rows, exact * dim * bytes_of(g.dtype));
    copy(to.value_rows, from.value_rows, exact * dim * bytes_of(g.dtype));
    copy(to.key_codes, from.key_codes, coarse * width);
    copy(to.value_codes, from.value_codes, coarse * width);
    copy(to.value_scale, from.value_scale, coarse * sizeof(float));
    copy(to.row_meta, from.row_meta, size_t(rows(g)) * 2 * sizeof(int32_t));
    copy(to.memory_mass, from.memory_mass, size_t(memory_rows(g)) * sizeof(float));
    const size_t residual = g.readout == RETENTIVE_READOUT_RESIDUAL ? dim * dim * sizeof(float) : 0;
    copy(to.recall_state, from.recall_state, residual);
    copy(to.visual_state, from.visual_state, residual);
}

class Head {
  public:
    Head(const RetentiveTransitionParams &params, size_t batch, size_t head)
        : params_(params), geometry_(params.geometry), batch_(batch), head_(head), steps_(size_t(params.steps)),
          dim_(size_t(geometry_.head_dim)), rows_(geometry_, params.after, params.key_scale, head),
          importance_(statistic(params.after.importance, geometry_.track_importance)),
          entropy_(statistic(params.after.entropy, geometry_.track_entropy)) {}

    void run() {
        const size_t local = size_t(local_rows(geometry_)), width = local + steps_;
        if (importance_ != nullptr) std::copy_n(params_.importance_next + head_ * width, local, importance_);
        if (entropy_ != nullptr) std::copy_n(params_.entropy_next + head_ * width, local, entropy_);
        Tokens moving = new_tokens();
        if (geometry_.exact_rows > 0) moving = replace(moving, 0, 0, geometry_.exact_rows);
        if (geometry_.coarse_rows > 0)
            moving = replace(moving, tiers(geometry_) - 1, geometry_.exact_rows, geometry_.coarse_rows);
        const float *absorption = params_.absorption + head_ * steps_;
        const double retention = params_.retention[head_];
        if (geometry_.readout == RETENTIVE_READOUT_MASS) absorb_mass(geometry_, rows_, moving, absorption, retention);
        if (geometry_.readout == RETENTIVE_READOUT_RESIDUAL)
            absorb_residual(geometry_, moving, absorption, retention, params_.after.recall_state + head_ * dim_ * dim_,
                            params_.after.visual_state + head_ * dim_ * dim_);
    }

  private:
    float *statistic(float *x, int32_t tracked) const {
        return tracked != 0 ? x + head_ * size_t(local_rows(geometry_)) : nullptr;
    }

    Tokens new_tokens() const {
        Tokens tokens(params_.steps, geometry_.head_dim);
        for (size_t i = 0; i < steps_ * dim_; ++i) {
            tokens.key[i] = sanitize(load(params_.key, geometry_.dtype, head_ * steps_ * dim_ + i));
            tokens.value[i] = sanitize(load(params_.value, geometry_.dtype, head_ * steps_ * dim_ + i));
        }
        const size_t local = size_t(local_rows(geometry_)), statistics = head_ * (local + steps_) + local;
        for (size_t t = 0; t < steps_; ++t) {
            tokens.position[t] = params_.token_meta[(batch_ * steps_ + t) * 2];
            tokens.cell[t] = params_.token_meta[(batch_ * steps_ + t) * 2 + 1];
            tokens.importance[t] = params_.importance_next[statistics + t];
            tokens.entropy[t] = params_.entropy_next[statistics + t];
        }
        return tokens;
    }

    // Write `moving` over the victims of a tier that begins at row `first`; what left. All are read before the first
    // is written. A token whose victim is no row of the tier is dropped, and padding replaces nobody.
    Tokens replace(const Tokens &moving, int tier, int first, int count) {
        const int64_t *victims = params_.victims + (head_ * size_t(tiers(geometry_)) + size_t(tier)) * steps_;
        const auto replaces = [&](size_t t) {
            return moving.present(t) && victims[t] >= first && victims[t] < int64_t(first) + count;
        };
        Tokens leaving(params_.steps, geometry_.head_dim);
        for (size_t t = 0; t < steps_; ++t)
            if (replaces(t)) take(int(victims[t]), t, leaving);
        for (size_t t = 0; t < steps_; ++t)
            if (replaces(t)) put(int(victims[t]), t, moving);
        return leaving;
    }

    void take(int row, size_t t, Tokens &tokens) const {
        rows_.read(row, &tokens.key[t * dim_], &tokens.value[t * dim_]);
        tokens.position[t] = rows_.position(row);
        tokens.cell[t] = rows_.cell(row);
        if (importance_ != nullptr) tokens.importance[t] = importance_[row];
        if (entropy_ != nullptr) tokens.entropy[t] = entropy_[row];
    }

    void put(int row, size_t t, const Tokens &tokens) {
        rows_.write(row, &tokens.key[t * dim_], &tokens.value[t * dim_]);
        rows_.position(row) = tokens.position[t];
        rows_.cell(row) = tokens.cell[t];
        if (importance_ != nullptr) importance_[row] = tokens.importance[t];
        if (entropy_ != nullptr) entropy_[row] = tokens.entropy[t];
    }

    const RetentiveTransitionParams &params_;
    const RetentiveGeometry &geometry_;
    const size_t batch_, head_, steps_, dim_; // head_: b * Hkv + h
    const HeadRows rows_;
    float *const importance_; // [C]
    float *const entropy_;    // [C]
};

} // namespace

void transition(const RetentiveTransitionParams &params) {
    copy_state(params.geometry, params.before, params.after);
    const size_t heads = size_t(params.geometry.kv_heads);
    for (size_t head = 0; head < size_t(params.geometry.batch) * heads; ++head) Head(params, head / heads, head).run();
}

} // namespace retentive::reference
