#include "compare.h"

#include <algorithm>
#include <cmath>

#include "calls.h"
#include "numbers.h"
#include "retentive/validate.h"

namespace retentive::harness {
namespace {

size_t heads_of(const RetentiveGeometry &g) { return static_cast<size_t>(g.batch) * g.kv_heads; }

/* Error of one query's output. */
struct VectorError {
    double norm;    /* beyond one rounding, over the reference's norm */
    double largest; /* beyond one rounding, over the reference's largest */
};

VectorError vector_error(const void *actual, const float *reference, size_t first, size_t dim, int32_t dtype) {
    double error = 0.0, length = 0.0, worst = 0.0, largest = 0.0;
    for (size_t i = first; i < first + dim; ++i) {
        const double bound = dtype == RETENTIVE_FLOAT16 ? largest_float16 : HUGE_VAL;
        const double expected = std::clamp<double>(reference[i], -bound, bound), x = load(actual, i, dtype);
        const double rounding = half_ulp(std::max(std::fabs(x), std::fabs(expected)), dtype);
        const double beyond = std::isfinite(x) ? std::max(0.0, std::fabs(x - expected) - rounding) : HUGE_VAL;
        error += beyond * beyond;
        length += expected * expected;
        worst = std::max(worst, beyond);
        largest = std::max(largest, std::fabs(expected));
    }
    if (error == 0.0) return {0.0, 0.0};
    return {std::sqrt(error / length), worst / largest};
}

double largest_magnitude(const float *x, size_t n) {
    double largest = 0.0;
    for (size_t i = 0; i < n; ++i) largest = std::max<double>(largest, std::fabs(x[i]));
    return largest;
}

double largest_difference(const float *a, const float *b, size_t n) {
    double largest = 0.0;
    for (size_t i = 0; i < n; ++i) {
        const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
        if (!(difference <= largest)) largest = std::isnan(difference) ? HUGE_VAL : difference;
    }
    return largest;
}

std::vector<double> head_differences(const HostTensors &a, const HostTensors &b, const char *name, size_t heads) {
    const size_t columns = a.bytes(name) / sizeof(float) / heads;
    std::vector<double> differences;
    for (size_t head = 0; head < heads; ++head)
        differences.push_back(
            largest_difference(a.as<float>(name) + head * columns, b.as<float>(name) + head * columns, columns));
    return differences;
}

} // namespace

Limits limits_of(const Case &c) {
    if (c.geometry.coarse_rows > 0) return {2e-3, 1e-3, 2e-3};
    if (c.geometry.dtype == RETENTIVE_FLOAT32) return {2e-5, 1e-4, 2e-5};
    return {2e-4, 1e-3, 2e-4};
}

double surprise_floor(const Case &c) { return 4e-3 * c.gate.entropy_gain; }

Sensitivity sensitivity_of(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &state,
                           const HostTensors &reference) {
    const size_t heads = heads_of(c.geometry), dim = static_cast<size_t>(c.geometry.head_dim);
    const size_t vectors = reference.bytes("output") / sizeof(float) / dim;
    if (c.hostile != Hostile::huge_logits)
        return {std::vector<double>(vectors), std::vector<double>(heads), std::vector<double>(heads),
                std::vector<double>(heads)};
    HostTensors moved = inputs.copy();
    Random random(c.seed + 1);
    auto *query = moved.as<float>("query");
    for (size_t i = 0; i < vectors * dim; ++i)
        query[i] *= 1.0F + 0x1p-15F * static_cast<float>(2.0 * random.uniform() - 1.0);
    const HostTensors other = reference_attention(c, steps, moved, state);
    Sensitivity sensitivity{{},
                            head_differences(reference, other, "received", heads),
                            head_differences(reference, other, "surprise", heads),
                            head_differences(reference, other, "visual_entropy", heads)};
    for (size_t i = 0; i < vectors; ++i)
        sensitivity.output.push_back(
            vector_error(other.at("output"), reference.as<float>("output"), i * dim, dim, RETENTIVE_FLOAT32).norm);
    return sensitivity;
}

void compare_output(Findings &findings, const Case &c, int32_t steps, const HostTensors &actual,
                    const HostTensors &reference, const Sensitivity &sensitivity) {
    const RetentiveGeometry &g = c.geometry;
    const auto dim = static_cast<size_t>(g.head_dim);
    const double limit = limits_of(c).output;
    for (size_t i = 0; i < sensitivity.output.size(); ++i) {
        const VectorError error =
            vector_error(actual.at("output"), reference.as<float>("output"), i * dim, dim, g.dtype);
        const size_t row = i / static_cast<size_t>(steps);
        const std::string where = "element " + std::to_string(row / g.q_heads) + ", query head " +
                                  std::to_string(row % g.q_heads) + ", token " + std::to_string(i % steps);
        const double slack = 4.0 * sensitivity.output[i];
        findings.measure("output", error.norm, limit + slack, where);
        findings.measure("output, largest error", error.largest, 4.0 * limit + 4.0 * slack, where);
    }
}

void compare_heads(Findings &findings, const std::string &metric, const float *actual, const float *reference,
                   size_t heads, size_t columns, double limit, double floor, const std::vector<double> *slack) {
    for (size_t head = 0; head < heads; ++head, actual += columns, reference += columns) {
        const double scale = std::max(largest_magnitude(reference, columns), floor);
        const double allowed = slack == nullptr ? limit : limit + 4.0 * (*slack)[head] / scale;
        findings.measure(metric, largest_difference(actual, reference, columns) / scale, allowed,
                         "head " + std::to_string(head));
    }
}

void compare_attention(Findings &findings, const Case &c, int32_t steps, const HostTensors &actual,
                       const HostTensors &reference, const Sensitivity &sensitivity) {
    compare_output(findings, c, steps, actual, reference, sensitivity);
    const size_t heads = heads_of(c.geometry), columns = static_cast<size_t>(rows(c.geometry)) + steps;
    const double limit = limits_of(c).statistics;
    compare_heads(findings, "received", actual.as<float>("received"), reference.as<float>("received"), heads, columns,
                  limit, 1e-6 * c.gate.importance_gain, &sensitivity.received);
    compare_heads(findings, "surprise", actual.as<float>("surprise"), reference.as<float>("surprise"), heads, columns,
                  limit, surprise_floor(c), &sensitivity.surprise);
    compare_heads(findings, "visual_entropy", actual.as<float>("visual_entropy"), reference.as<float>("visual_entropy"),
                  heads, 1, limit, 1.0, &sensitivity.visual_entropy);
}

} // namespace retentive::harness
