#include "memory.h"

#include <algorithm>
#include <cmath>

#include "numbers.h"

namespace retentive::reference {
namespace {

constexpr int kDropped = -1;
constexpr double kUnused = 1e30; // distance to a recall row that holds nothing

// Which of `patches` equal parts of 0 .. size holds the middle of cell `place`.
int patch(int64_t place, int64_t patches, int64_t size) {
    return int(std::min((2 * place + 1) * patches / (2 * size), patches - 1));
}

// Cell of memory row `row`'s anchor, the middle of its patch; -1 for a recall row.
int32_t anchor(const RetentiveGeometry &g, int row) {
    if (row >= visual_rows(g)) return -1;
    const int64_t i = row / g.memory_grid[1], j = row % g.memory_grid[1];
    const int64_t y = (2 * i + 1) * g.frame_grid[0] / (2 * int64_t(g.memory_grid[0]));
    const int64_t x = (2 * j + 1) * g.frame_grid[1] / (2 * int64_t(g.memory_grid[1]));
    return int32_t(y * RETENTIVE_CELL_STRIDE + x);
}

// The memory rows of one head before the step.
class Memory {
  public:
    Memory(const RetentiveGeometry &geometry, const HeadRows &state)
        : geometry_(geometry), dim_(size_t(geometry.head_dim)), count_(memory_rows(geometry)),
          key_(size_t(count_) * dim_), value_(key_.size()), occupied_(size_t(count_)) {
        for (int m = 0; m < count_; ++m) {
            const int row = local_rows(geometry) + m;
            state.read(row, &key_[size_t(m) * dim_], &value_[size_t(m) * dim_]);
            occupied_[m] = state.position(row) >= 0 && state.mass(m) > 0.0f;
        }
    }

    const double *key(int row) const { return &key_[size_t(row) * dim_]; }
    const double *value(int row) const { return &value_[size_t(row) * dim_]; }
    bool occupied(int row) const { return occupied_[row]; }

    // Memory row of each token, or kDropped.
    std::vector<int> route(const Tokens &tokens) const {
        const int visual = visual_rows(geometry_);
        int used = 0;
        for (int m = visual; m < count_; ++m) used += occupied_[m];
        std::vector<int> target(tokens.count(), kDropped);
        for (size_t t = 0; t < tokens.count(); ++t) {
            if (!tokens.present(t)) continue;
            if (visual > 0 && tokens.visual(t)) {
                const int64_t y = tokens.cell[t] / RETENTIVE_CELL_STRIDE, x = tokens.cell[t] % RETENTIVE_CELL_STRIDE;
                target[t] = patch(y, geometry_.memory_grid[0], geometry_.frame_grid[0]) * geometry_.memory_grid[1] +
                            patch(x, geometry_.memory_grid[1], geometry_.frame_grid[1]);
            } else if (geometry_.recall_rows > 0) {
                const int turn = used++;
                target[t] = visual + (turn < geometry_.recall_rows ? turn : nearest(&tokens.key[t * dim_]));
            }
        }
        return target;
    }

  private:
    // The used recall row whose key was nearest before the step; the first one where none was used.
    int nearest(const double *key) const {
        const int visual = visual_rows(geometry_);
        int best = 0;
        double least = std::numeric_limits<double>::infinity();
        for (int r = 0; r < geometry_.recall_rows; ++r) {
            const double *row = this->key(visual + r);
            double distance = 0.0; // less |key|^2
            for (size_t d = 0; d < dim_; ++d) distance += row[d] * row[d] - 2.0 * key[d] * row[d];
            if (!occupied_[visual + r]) distance = kUnused;
            if (distance < least) {
                least = distance;
                best = r;
            }
        }
        return best;
    }

    const RetentiveGeometry &geometry_;
    const size_t dim_;
    const int count_;
    std::vector<double> key_, value_; // [M, D]
    std::vector<bool> occupied_;
};

// n' = h n + sum a_i, k' = k + sum a_i (k_i - k) / n', v' likewise, for one memory row.
void merge(const RetentiveGeometry &g, const HeadRows &state, const Memory &memory, int m, const Tokens &tokens,
           const std::vector<int> &target, const float *absorption, double retention) {
    const size_t dim = size_t(g.head_dim);
    double added = 0.0;
    int32_t newest = -1;
    for (size_t t = 0; t < tokens.count(); ++t) {
        if (target[t] != m) continue;
        added += absorption[t];
        newest = std::max(newest, tokens.position[t]);
    }
    if (!(added > 0.0)) return; // what is not touched stays bit for bit
    const double kept = memory.occupied(m) ? state.mass(m) * retention : 0.0;
    const double total = std::max(kept + added, kTiny);
    std::vector<double> key(dim), value(dim);
    for (size_t d = 0; d < dim; ++d) {
        key[d] = memory.key(m)[d] * kept;
        value[d] = memory.value(m)[d] * kept;
        for (size_t t = 0; t < tokens.count(); ++t) {
            if (target[t] != m) continue;
            key[d] += absorption[t] * tokens.key[t * dim + d];
            value[d] += absorption[t] * tokens.value[t * dim + d];
        }
        key[d] /= total;
        value[d] /= total;
    }
    const int row = local_rows(g) + m;
    state.write(row, key.data(), value.data());
    state.mass(m) = float(kept + added);
    state.position(row) = std::max(newest, state.position(row));
    state.cell(row) = anchor(g, m);
}

// Weight h^(number of chosen tokens after this one in `order`, ties by index) of each chosen token, else 0.
template <typename Order>
std::vector<double> scan(const Order &order, const std::vector<bool> &chosen, double retention) {
    std::vector<double> weight(chosen.size());
    for (size_t i = 0; i < chosen.size(); ++i) {
        if (!chosen[i]) continue;
        int later = 0;
        for (size_t j = 0; j < chosen.size(); ++j)
            later += chosen[j] && (order(j) > order(i) || (order(j) == order(i) && j > i));
        weight[i] = std::pow(retention, later);
    }
    return weight;
}

// S = h^n S + sum w_i a_i k_i^T v_i.
void accumulate(const Tokens &tokens, const std::vector<double> &weight, const std::vector<bool> &chosen,
                const float *absorption, double retention, size_t dim, float *state) {
    const auto count = std::count(chosen.begin(), chosen.end(), true);
    if (count == 0) return;
    const double kept = std::pow(retention, double(count));
    std::vector<double> line(dim);
    for (size_t i = 0; i < dim; ++i) {
        for (size_t j = 0; j < dim; ++j) line[j] = state[i * dim + j] * kept;
        for (size_t t = 0; t < tokens.count(); ++t) {
            const double factor = weight[t] * absorption[t] * tokens.key[t * dim + i];
            if (chosen[t])
                for (size_t j = 0; j < dim; ++j) line[j] += factor * tokens.value[t * dim + j];
        }
        for (size_t j = 0; j < dim; ++j) state[i * dim + j] = float(line[j]);
    }
}

} // namespace

void absorb_mass(const RetentiveGeometry &geometry, const HeadRows &state, const Tokens &tokens,
                 const float *absorption, double retention) {
    const Memory memory(geometry, state);
    const std::vector<int> target = memory.route(tokens);
    for (int m = 0; m < memory_rows(geometry); ++m)
        merge(geometry, state, memory, m, tokens, target, absorption, retention);
}

void absorb_residual(const RetentiveGeometry &geometry, const Tokens &tokens, const float *absorption, double retention,
                     float *recall_state, float *visual_state) {
    std::vector<bool> text, visual;
    for (size_t t = 0; t < tokens.count(); ++t) {
        text.push_back(tokens.present(t) && !tokens.visual(t));
        visual.push_back(tokens.visual(t));
    }
    const auto by_position = [&](size_t t) { return int64_t(tokens.position[t]); };
    const auto by_row = [&](size_t t) { return int64_t(tokens.cell[t]); };
    const auto by_column = [&](size_t t) {
        const int64_t cell = tokens.cell[t];
        return cell % RETENTIVE_CELL_STRIDE * RETENTIVE_CELL_STRIDE + cell / RETENTIVE_CELL_STRIDE;
    };
    const size_t dim = size_t(geometry.head_dim);
    accumulate(tokens, scan(by_position, text, retention), text, absorption, retention, dim, recall_state);
    std::vector<double> both = scan(by_row, visual, retention);
    const std::vector<double> columns = scan(by_column, visual, retention);
    for (size_t t = 0; t < both.size(); ++t) both[t] = 0.5 * (both[t] + columns[t]);
    accumulate(tokens, both, visual, absorption, retention, dim, visual_state);
}

} // namespace retentive::reference
