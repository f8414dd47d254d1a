// The memory that tokens enter when they leave the last tier: retentive_export/cache/memory.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "retentive/validate.h"
#include "rows.h"

namespace retentive::reference {

// T tokens of one KV head on their way between tiers; position < 0 where there is none.
struct Tokens {
    std::vector<double> key, value; // [T, D]
    std::vector<int32_t> position, cell;
    std::vector<float> importance, entropy;

    Tokens(int steps, int dim)
        : key(size_t(steps) * size_t(dim)), value(key.size()), position(size_t(steps), -1), cell(size_t(steps), -1),
          importance(size_t(steps)), entropy(size_t(steps)) {}
    size_t count() const { return position.size(); }
    bool present(size_t t) const { return position[t] >= 0; }
    bool visual(size_t t) const { return position[t] >= 0 && cell[t] >= 0; }
};

// Readout 'mass', in place. absorption: [T]; retention: h.
void absorb_mass(const RetentiveGeometry &geometry, const HeadRows &state, const Tokens &tokens,
                 const float *absorption, double retention);

// Readout 'residual', in place: recall_state and visual_state [D, D].
void absorb_residual(const RetentiveGeometry &geometry, const Tokens &tokens, const float *absorption, double retention,
                     float *recall_state, float *visual_state);

} // namespace retentive::reference
