// EntropyGate: retentive_export/cache/gate.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "numbers.h"
#include "operators.h"
#include "retentive/validate.h"

namespace retentive::reference {
namespace {

constexpr float kProtected = 1e30f;
constexpr float kEmpty = -1e30f;
constexpr double kScoreLimit = 1e29;

// The statistic of the local rows and of the new tokens, [C + T]; zeros where it is not tracked (`old` is NULL).
void update(const float *old, const float *fresh, float decay, int valid, const RetentiveGeometry &g, int steps,
            float *next) {
    const int local = local_rows(g);
    const double kept = std::pow(double(decay), valid);
    for (int c = 0; c < local; ++c) next[c] = old == nullptr ? 0.0f : float(old[c] * kept + fresh[c]);
    for (int t = 0; t < steps; ++t) next[local + t] = old == nullptr ? 0.0f : fresh[rows(g) + t];
}

// x over its sum over the occupied rows, [C].
std::vector<double> share(const float *x, const int32_t *meta, int local) {
    std::vector<double> result(static_cast<size_t>(local), 0.0);
    double sum = 0.0;
    for (int c = 0; c < local; ++c)
        if (meta[2 * c] >= 0) sum += result[c] = x[c];
    for (double &one : result) one /= std::max(sum, kTiny);
    return result;
}

// The score as float32, so that scores that are equal there tie here too.
float finite_score(double x) { return std::isnan(x) ? 0.0f : float(std::clamp(x, -kScoreLimit, kScoreLimit)); }

// Ascending order of leaving, [C]: empty rows first, sinks and the recent window last.
std::vector<float> leaving_order(const RetentiveGeometry &g, const RetentiveGate &gate, const int32_t *meta,
                                 const float *importance, const float *entropy, int64_t end) {
    const int local = local_rows(g);
    const std::vector<double> alpha = share(importance, meta, local), surprise = share(entropy, meta, local);
    std::vector<float> order(static_cast<size_t>(local));
    for (int c = 0; c < local; ++c) {
        const int64_t position = meta[2 * c];
        const double retention = double(gate.lambda_) * alpha[c] + (1.0 - gate.lambda_) * surprise[c];
        const double score = gate.score == RETENTIVE_SCORE_RECENCY ? double(position - end) : retention;
        const bool is_protected = position < g.sinks || position >= end - g.window;
        order[c] = position < 0 ? kEmpty : is_protected ? kProtected : finite_score(score);
    }
    return order;
}

// Rows of one tier in the order in which they leave; the lower number wins a tie.
std::vector<int> ranked(const std::vector<float> &order, int first, int count) {
    std::vector<int> ranks(static_cast<size_t>(count));
    std::iota(ranks.begin(), ranks.end(), first);
    std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) { return order[a] < order[b]; });
    return ranks;
}

// Place of each new token among the victims: real tokens take 0, 1, ... in turn, padding the ones behind.
std::vector<int> turns(const int32_t *token_meta, int steps, int valid) {
    std::vector<int> result;
    int real = 0, padding = valid;
    for (int t = 0; t < steps; ++t) result.push_back(token_meta[2 * t] >= 0 ? real++ : padding++);
    return result;
}

void gate_head(const RetentiveGateParams &p, size_t b, size_t head) {
    const RetentiveGeometry &g = p.geometry;
    const int local = local_rows(g), columns = rows(g) + p.steps;
    const int32_t *token_meta = p.token_meta + b * size_t(p.steps) * 2;
    const int32_t *meta = p.state.row_meta + head * size_t(rows(g)) * 2;
    int valid = 0;
    int64_t end = INT64_MIN;
    for (int t = 0; t < p.steps; ++t) {
        valid += token_meta[2 * t] >= 0;
        end = std::max(end, int64_t(token_meta[2 * t]) + 1);
    }
    const auto of_head = [&](const float *x, size_t width) { return x == nullptr ? nullptr : x + head * width; };
    const size_t statistics = size_t(local) + size_t(p.steps);
    float *importance = p.importance_next + head * statistics, *entropy = p.entropy_next + head * statistics;
    update(g.track_importance != 0 ? of_head(p.state.importance, size_t(local)) : nullptr,
           p.received + head * size_t(columns), p.gate.importance_decay, valid, g, p.steps, importance);
    update(g.track_entropy != 0 ? of_head(p.state.entropy, size_t(local)) : nullptr,
           p.surprise + head * size_t(columns), p.gate.entropy_decay, valid, g, p.steps, entropy);

    const std::vector<float> order = leaving_order(g, p.gate, meta, importance, entropy, end);
    const std::vector<int> turn = turns(token_meta, p.steps, valid);
    const size_t layers = size_t(tiers(g)), steps = size_t(p.steps);
    for (size_t tier = 0; tier < layers; ++tier) {
        const bool exact = tier == 0 && g.exact_rows > 0;
        const std::vector<int> ranks = ranked(order, exact ? 0 : g.exact_rows, exact ? g.exact_rows : g.coarse_rows);
        for (size_t t = 0; t < steps; ++t)
            p.victims[(head * layers + tier) * steps + t] = ranks[static_cast<size_t>(turn[t])];
    }

    const std::vector<double> alpha = share(importance, meta, local);
    int occupied = 0;
    for (int c = 0; c < local; ++c) occupied += meta[2 * c] >= 0;
    const int64_t *leaving = p.victims + (head * layers + layers - 1) * steps; // the last tier's
    for (size_t t = 0; t < steps; ++t)
        p.absorption[head * steps + t] = float(sigmoid(p.gate.absorption, alpha[size_t(leaving[t])] * occupied));
    p.retention[head] = float(sigmoid(p.gate.retention, p.visual_entropy[head]));
}

} // namespace

void gate(const RetentiveGateParams &params) {
    const size_t heads = size_t(params.geometry.kv_heads);
    for (size_t head = 0; head < size_t(params.geometry.batch) * heads; ++head) gate_head(params, head / heads, head);
}

} // namespace retentive::reference
