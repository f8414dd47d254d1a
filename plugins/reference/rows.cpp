#include "rows.h"

#include <algorithm>
#include <cmath>

#include "numbers.h"

namespace retentive::reference {

HeadRows::HeadRows(const RetentiveGeometry &geometry, const RetentiveState &state, const float *key_scale, size_t head)
    : geometry_(geometry), state_(state),
      key_scale_(key_scale == nullptr ? nullptr
                                      : key_scale + head % size_t(geometry.kv_heads) * size_t(geometry.head_dim)),
      head_(head), meta_(state.row_meta + head * size_t(rows(geometry)) * 2),
      mass_(memory_rows(geometry) == 0 ? nullptr : state.memory_mass + head * size_t(memory_rows(geometry))) {}

HeadRows::Place HeadRows::place(int row) const {
    const int local = local_rows(geometry_), exact = geometry_.exact_rows;
    const bool memory = row >= local;
    const bool coarse = memory ? geometry_.memory_store == RETENTIVE_STORE_COARSE : row >= exact;
    const int within = memory ? row - local + (coarse ? geometry_.coarse_rows : exact) : coarse ? row - exact : row;
    const int store_rows = coarse ? coarse_store_rows(geometry_) : exact_store_rows(geometry_);
    return {coarse, head_ * size_t(store_rows) + size_t(within)};
}

void HeadRows::read(int row, double *key, double *value) const {
    const Place at = place(row);
    const int dim = geometry_.head_dim;
    if (at.coarse) {
        const double scale = state_.value_scale[at.row];
        for (int d = 0; d < dim; ++d) {
            key[d] = code(state_.key_codes, at.row, d) * key_scale_[d];
            value[d] = code(state_.value_codes, at.row, d) * scale;
        }
        return;
    }
    for (int d = 0; d < dim; ++d) {
        const size_t index = at.row * size_t(dim) + size_t(d);
        key[d] = load(state_.key_rows, geometry_.dtype, index);
        value[d] = load(state_.value_rows, geometry_.dtype, index);
    }
}

void HeadRows::write(int row, const double *key, const double *value) const {
    const Place at = place(row);
    const int dim = geometry_.head_dim;
    if (at.coarse) {
        float largest = 0.0f;
        for (int d = 0; d < dim; ++d) largest = std::max(largest, std::abs(float(value[d])));
        const float scale = largest / (geometry_.coarse_dtype == RETENTIVE_INT4 ? 7.0f : 127.0f);
        state_.value_scale[at.row] = scale;
        quantise(state_.key_codes, at.row, key, key_scale_, 1);
        quantise(state_.value_codes, at.row, value, &scale, 0);
        return;
    }
    for (int d = 0; d < dim; ++d) {
        const size_t index = at.row * size_t(dim) + size_t(d);
        store(state_.key_rows, geometry_.dtype, index, key[d]);
        store(state_.value_rows, geometry_.dtype, index, value[d]);
    }
}

double HeadRows::code(const void *codes, size_t row, int channel) const {
    const int dim = geometry_.head_dim, half = dim / 2;
    if (geometry_.coarse_dtype == RETENTIVE_INT8)
        return static_cast<const int8_t *>(codes)[row * size_t(dim) + size_t(channel)];
    const uint8_t *packed = static_cast<const uint8_t *>(codes) + row * size_t(half);
    return (channel < half ? packed[channel] & 15 : packed[channel - half] >> 4) - 8;
}

void HeadRows::quantise(void *codes, size_t row, const double *values, const float *scale, int stride) const {
    const int dim = geometry_.head_dim, half = dim / 2;
    const bool packed = geometry_.coarse_dtype == RETENTIVE_INT4;
    const float level = packed ? 7.0f : 127.0f;
    const auto quantised = [&](int d) {
        const float step = scale[d * stride];
        return int(std::clamp(step > 0.0f ? std::nearbyint(float(values[d]) / step) : 0.0f, -level, level));
    };
    if (!packed) {
        int8_t *to = static_cast<int8_t *>(codes) + row * size_t(dim);
        for (int d = 0; d < dim; ++d) to[d] = static_cast<int8_t>(quantised(d));
        return;
    }
    uint8_t *to = static_cast<uint8_t *>(codes) + row * size_t(half);
    for (int d = 0; d < half; ++d) to[d] = static_cast<uint8_t>((quantised(d) + 8) | (quantised(d + half) + 8) << 4);
}

} // namespace retentive::reference
