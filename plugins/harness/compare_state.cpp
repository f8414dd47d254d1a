#include <algorithm>
#include <cmath>
#include <cstring>

#include "compare.h"
#include "numbers.h"
#include "retentive/validate.h"

namespace retentive::harness {
namespace {

/* One comparison of two states, tensor by tensor. */
class StateComparison {
  public:
    StateComparison(Findings &findings, const Case &c, int32_t steps, const HostTensors &before,
                    const HostTensors &actual, const HostTensors &reference, const StateLimits &limits)
        : findings_(findings), case_(c), g_(c.geometry), steps_(steps), before_(before), actual_(actual),
          reference_(reference), limits_(limits), heads_(static_cast<size_t>(g_.batch) * g_.kv_heads) {}

    void run();

  private:
    void row_meta();
    void exact_rows(const char *name);
    void memory_row(const char *name, size_t first);
    void codes(const char *name);
    void value_scale();
    void statistics(const char *name);
    std::string place(size_t head, size_t row) const {
        return "head " + std::to_string(head) + ", row " + std::to_string(row);
    }

    Findings &findings_;
    const Case &case_;
    const RetentiveGeometry &g_;
    int32_t steps_;
    const HostTensors &before_, &actual_, &reference_;
    const StateLimits &limits_;
    size_t heads_;
};

void StateComparison::run() {
    row_meta();
    for (const char *name : {"key_rows", "value_rows"})
        if (actual_.at(name) != nullptr) exact_rows(name);
    for (const char *name : {"key_codes", "value_codes"})
        if (actual_.at(name) != nullptr) codes(name);
    if (actual_.at("value_scale") != nullptr) value_scale();
    for (const char *name : {"importance", "entropy"})
        if (actual_.at(name) != nullptr) statistics(name);
    const auto matrix = static_cast<size_t>(g_.head_dim) * g_.head_dim, memory = static_cast<size_t>(memory_rows(g_));
    for (const auto &[name, columns] :
         {std::pair("memory_mass", memory), std::pair("recall_state", matrix), std::pair("visual_state", matrix)})
        if (actual_.at(name) != nullptr)
            compare_heads(findings_, name, actual_.as<float>(name), reference_.as<float>(name), heads_, columns,
                          limits_.memory, 1e-20);
}

void StateComparison::row_meta() {
    const auto *actual = actual_.as<int32_t>("row_meta"), *expected = reference_.as<int32_t>("row_meta");
    const auto total = static_cast<size_t>(rows(g_));
    size_t wrong = 0;
    std::string first;
    for (size_t i = 0; i < heads_ * total; ++i) {
        if (actual[2 * i] == expected[2 * i] && actual[2 * i + 1] == expected[2 * i + 1]) continue;
        if (wrong++ == 0)
            first = place(i / total, i % total) + " is (" + std::to_string(actual[2 * i]) + ", " +
                    std::to_string(actual[2 * i + 1]) + ") instead of (" + std::to_string(expected[2 * i]) + ", " +
                    std::to_string(expected[2 * i + 1]) + ")";
    }
    if (wrong > 0) findings_.fail("row_meta differs in " + std::to_string(wrong) + " rows: " + first);
}

/* Local rows are copies and must be equal; memory rows are computed. */
void StateComparison::exact_rows(const char *name) {
    const auto dim = static_cast<size_t>(g_.head_dim), stored = static_cast<size_t>(exact_store_rows(g_));
    const void *actual = actual_.at(name), *expected = reference_.at(name);
    for (size_t row = 0; row < heads_ * stored; ++row) {
        const size_t first = row * dim;
        if (row % stored >= static_cast<size_t>(g_.exact_rows)) {
            memory_row(name, first);
            continue;
        }
        for (size_t i = first; i < first + dim; ++i)
            if (!(load(actual, i, g_.dtype) == load(expected, i, g_.dtype))) {
                findings_.fail(std::string(name) + " differs at " + place(row / stored, row % stored) + ", channel " +
                               std::to_string(i - first) + ": " + three_digits(load(actual, i, g_.dtype)) +
                               " instead of " + three_digits(load(expected, i, g_.dtype)));
                break;
            }
    }
}

void StateComparison::memory_row(const char *name, size_t first) {
    const auto dim = static_cast<size_t>(g_.head_dim);
    const void *actual = actual_.at(name), *expected = reference_.at(name);
    double largest = 1e-20, worst = 0.0;
    for (size_t i = first; i < first + dim; ++i) {
        const double x = load(actual, i, g_.dtype), y = load(expected, i, g_.dtype);
        const double rounding = 2.0 * half_ulp(std::max(std::fabs(x), std::fabs(y)), g_.dtype);
        largest = std::max(largest, std::fabs(y));
        worst = std::max(worst, std::isfinite(x) ? std::fabs(x - y) - rounding : HUGE_VAL);
    }
    findings_.measure(std::string(name) + ", memory", worst / largest, limits_.memory,
                      place(first / dim / static_cast<size_t>(exact_store_rows(g_)),
                            first / dim % static_cast<size_t>(exact_store_rows(g_))) +
                          " of the exact store");
}

/* A quantised value that lies on a rounding boundary may fall to either side, where something was written. */
void StateComparison::codes(const char *name) {
    const size_t width = code_bytes(g_), stored = static_cast<size_t>(coarse_store_rows(g_));
    const auto *actual = actual_.as<unsigned char>(name), *expected = reference_.as<unsigned char>(name);
    const auto *old = before_.as<unsigned char>(name);
    int64_t off = 0;
    for (size_t row = 0; row < heads_ * stored; ++row) {
        const size_t at = row * width;
        if (std::memcmp(actual + at, expected + at, width) == 0) continue;
        const bool local = row % stored < static_cast<size_t>(g_.coarse_rows);
        bool near = !local || std::memcmp(expected + at, old + at, width) != 0;
        for (size_t i = at; i < at + width; ++i) {
            const int low = g_.coarse_dtype == RETENTIVE_INT4 ? (actual[i] & 15) - (expected[i] & 15) : 0;
            const int high = g_.coarse_dtype == RETENTIVE_INT4
                                 ? (actual[i] >> 4) - (expected[i] >> 4)
                                 : static_cast<int8_t>(actual[i]) - static_cast<int8_t>(expected[i]);
            near = near && std::abs(low) <= 1 && std::abs(high) <= 1;
            off += (low != 0) + (high != 0);
        }
        if (!near) {
            findings_.fail(std::string(name) + " differs at " + place(row / stored, row % stored) +
                           " of the coarse store by more than a rounding");
            return;
        }
    }
    const int32_t memory = g_.memory_store == RETENTIVE_STORE_COARSE ? memory_rows(g_) : 0;
    const auto written = static_cast<double>(heads_) * (steps_ + memory) * g_.head_dim;
    findings_.count("codes off by one", off);
    /* Two keys of equal weight merge half way between their codes: ties are common there, not rare. */
    const double share = memory > 0 ? std::max(limits_.code_share, 1e-2) : limits_.code_share;
    findings_.measure(std::string(name) + ", share off by one", static_cast<double>(off) / written,
                      std::max(share, 1.0 / written));
}

void StateComparison::value_scale() {
    const auto stored = static_cast<size_t>(coarse_store_rows(g_));
    const auto *actual = actual_.as<float>("value_scale"), *expected = reference_.as<float>("value_scale");
    for (size_t row = 0; row < heads_ * stored; ++row) {
        const bool memory = row % stored >= static_cast<size_t>(g_.coarse_rows);
        compare_heads(findings_, memory ? "value_scale, memory" : "value_scale", actual + row, expected + row, 1, 1,
                      memory ? limits_.memory : 1e-6, 1e-20);
    }
}

void StateComparison::statistics(const char *name) {
    compare_heads(findings_, name, actual_.as<float>(name), reference_.as<float>(name), heads_,
                  static_cast<size_t>(local_rows(g_)), limits_.statistics,
                  std::strcmp(name, "entropy") == 0 ? surprise_floor(case_) : 1e-12);
}

} // namespace

void compare_state(Findings &findings, const Case &c, int32_t steps, const HostTensors &before,
                   const HostTensors &actual, const HostTensors &reference, const StateLimits &limits) {
    StateComparison(findings, c, steps, before, actual, reference, limits).run();
}

} // namespace retentive::harness
