#include "victims.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "retentive/validate.h"

namespace retentive::harness {
namespace {

constexpr double tiny = 1e-30;

/* The local rows of one KV head. */
struct Head {
    const int32_t *meta; /* [R, 2] */
    const float *importance;
    const float *entropy;

    bool occupied(int64_t row) const { return meta[2 * row] >= 0; }
    bool same_statistics(int64_t a, int64_t b) const {
        return meta[2 * a] == meta[2 * b] || (importance[a] == importance[b] && entropy[a] == entropy[b]);
    }
};

Head head_of(const Case &c, int32_t steps, const HostTensors &state, const HostTensors &decision, size_t head) {
    const size_t columns = static_cast<size_t>(local_rows(c.geometry)) + steps;
    return {state.as<int32_t>("row_meta") + head * 2 * static_cast<size_t>(rows(c.geometry)),
            decision.as<float>("importance_next") + head * columns,
            decision.as<float>("entropy_next") + head * columns};
}

double occupied_sum(const Head &head, const float *x, int32_t rows) {
    double sum = 0.0;
    for (int32_t row = 0; row < rows; ++row)
        if (head.occupied(row)) sum += x[row];
    return std::max(sum, tiny);
}

/* What decides who leaves, ascending: 0 empty, 1 scored, 2 protected; then the score. */
struct Rank {
    int kind;
    double score;
};

std::vector<Rank> ranks_of(const Case &c, const Head &head, int32_t end) {
    const RetentiveGeometry &g = c.geometry;
    const int32_t local = local_rows(g);
    const double importance = occupied_sum(head, head.importance, local);
    const double entropy = occupied_sum(head, head.entropy, local);
    const double lambda = c.gate.lambda_;
    std::vector<Rank> ranks;
    for (int32_t row = 0; row < local; ++row) {
        const int32_t position = head.meta[2 * row];
        const bool kept = position < g.sinks || position >= end - g.window;
        const double score = c.gate.score == RETENTIVE_SCORE_RECENCY ? position
                                                                     : lambda * head.importance[row] / importance +
                                                                           (1.0 - lambda) * head.entropy[row] / entropy;
        ranks.push_back(position < 0 ? Rank{0, 0.0} : kept ? Rank{2, 0.0} : Rank{1, score});
    }
    return ranks;
}

/* Position after the newest token of a batch element. */
int32_t end_of(const HostTensors &inputs, size_t element, int32_t steps) {
    const auto *meta = inputs.as<int32_t>("token_meta") + element * 2 * static_cast<size_t>(steps);
    int32_t newest = -1;
    for (int32_t token = 0; token < steps; ++token) newest = std::max(newest, meta[2 * token]);
    return newest + 1;
}

bool near(const Case &c, const Head &head, const std::vector<Rank> &ranks, int64_t a, int64_t b, double near_tie) {
    const Rank &x = ranks[static_cast<size_t>(a)], &y = ranks[static_cast<size_t>(b)];
    if (x.kind != 1 || y.kind != 1 || c.gate.score == RETENTIVE_SCORE_RECENCY || head.same_statistics(a, b))
        return false;
    return std::fabs(x.score - y.score) <= near_tie * std::max(x.score, y.score);
}

} // namespace

void compare_victims(Findings &findings, const Case &c, int32_t steps, const HostTensors &inputs,
                     const HostTensors &state, const HostTensors &decision, const int64_t *actual, double near_tie) {
    const RetentiveGeometry &g = c.geometry;
    const auto *expected = decision.as<int64_t>("victims");
    for (size_t head = 0; head < static_cast<size_t>(g.batch) * g.kv_heads; ++head) {
        const Head rows_of_head = head_of(c, steps, state, decision, head);
        const std::vector<Rank> ranks = ranks_of(c, rows_of_head, end_of(inputs, head / g.kv_heads, steps));
        std::set<int64_t> taken;
        for (int32_t place = 0; place < tiers(g) * steps; ++place, ++actual, ++expected) {
            const bool second = g.exact_rows > 0 && place >= steps;
            const int64_t first = g.exact_rows == 0 || second ? g.exact_rows : 0;
            const int64_t last = g.exact_rows > 0 && !second ? g.exact_rows : local_rows(g);
            const std::string where = "head " + std::to_string(head) + ", tier " + std::to_string(place / steps) +
                                      ", token " + std::to_string(place % steps);
            if (*actual < first || *actual >= last)
                findings.fail("victim " + std::to_string(*actual) + " is out of its tier, at " + where);
            else if (!taken.insert(*actual).second)
                findings.fail("victim " + std::to_string(*actual) + " is chosen twice, at " + where);
            else if (*actual != *expected && near(c, rows_of_head, ranks, *actual, *expected, near_tie))
                findings.count("near ties", 1);
            else if (*actual != *expected)
                findings.fail("victim is row " + std::to_string(*actual) + " (score " +
                              three_digits(ranks[static_cast<size_t>(*actual)].score) + ") instead of " +
                              std::to_string(*expected) + " (score " +
                              three_digits(ranks[static_cast<size_t>(*expected)].score) + "), at " + where);
        }
    }
}

HostTensors with_victims(const Case &c, int32_t steps, const HostTensors &state, const HostTensors &decision,
                         const int64_t *victims) {
    const RetentiveGeometry &g = c.geometry;
    const int32_t local = local_rows(g);
    HostTensors changed = decision.copy();
    std::memcpy(changed.at("victims"), victims, changed.bytes("victims"));
    auto *absorption = changed.as<float>("absorption");
    for (size_t head = 0; head < static_cast<size_t>(g.batch) * g.kv_heads; ++head) {
        const Head rows_of_head = head_of(c, steps, state, decision, head);
        const double sum = occupied_sum(rows_of_head, rows_of_head.importance, local);
        int32_t occupied = 0;
        for (int32_t row = 0; row < local; ++row) occupied += rows_of_head.occupied(row);
        const int64_t *leaving = victims + (head + 1) * static_cast<size_t>(tiers(g) * steps) - steps;
        for (int32_t token = 0; token < steps; ++token) {
            const int64_t row = leaving[token];
            const double share = rows_of_head.occupied(row) ? rows_of_head.importance[row] / sum * occupied : 0.0;
            const RetentiveSigmoid &gate = c.gate.absorption;
            *absorption++ = gate.enabled == 0
                                ? 1.0F
                                : static_cast<float>(1.0 / (1.0 + std::exp(-(gate.weight * share + gate.bias))));
        }
    }
    return changed;
}

} // namespace retentive::harness
