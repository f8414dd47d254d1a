// The rows of one KV head, whatever store they are in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "retentive/validate.h"

namespace retentive::reference {

// A view of one KV head of one batch entry in a layer's state. Rows are numbered in the layer's row index space: exact
// local rows, coarse local rows, memory rows.
class HeadRows {
  public:
    // `key_scale`: [Hkv, D] or NULL. `head`: b * Hkv + h.
    HeadRows(const RetentiveGeometry &geometry, const RetentiveState &state, const float *key_scale, size_t head);

    // [D] each. A row of the coarse store is dequantised, or quantised in float32 as cache/rows.py does.
    void read(int row, double *key, double *value) const;
    void write(int row, const double *key, const double *value) const;

    int32_t &position(int row) const { return meta_[2 * size_t(row)]; }
    int32_t &cell(int row) const { return meta_[2 * size_t(row) + 1]; }
    // Mass of memory row `row`, counted from the first memory row.
    float &mass(int row) const { return mass_[row]; }
    bool is_visual(int row) const { return position(row) >= 0 && cell(row) >= 0; }

  private:
    struct Place {
        bool coarse;
        size_t row; // in the store, over all heads
    };
    Place place(int row) const;
    double code(const void *codes, size_t row, int channel) const;
    // scale: one per channel, with the stride 1, or one for all, with the stride 0.
    void quantise(void *codes, size_t row, const double *values, const float *scale, int stride) const;

    const RetentiveGeometry &geometry_;
    const RetentiveState &state_;
    const float *key_scale_; // [D]
    size_t head_;
    int32_t *meta_; // [R, 2]
    float *mass_;   // [M]
};

} // namespace retentive::reference
