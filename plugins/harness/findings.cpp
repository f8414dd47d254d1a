#include "findings.h"

#include <cmath>
#include <cstdio>

namespace retentive::harness {
namespace {

constexpr size_t texts_kept = 12;

double share(const Findings::Worst &worst) {
    if (std::isnan(worst.value)) return HUGE_VAL;
    return worst.limit > 0.0 ? worst.value / worst.limit : worst.value;
}

} // namespace

void Findings::measure(const std::string &metric, double value, double limit, const std::string &where) {
    const Worst measured{value, limit};
    const auto [entry, fresh] = worst_.try_emplace(metric, measured);
    if (!fresh && share(measured) > share(entry->second)) entry->second = measured;
    if (value <= limit) return;
    fail(metric + " is " + three_digits(value) + ", limit " + three_digits(limit) +
         (where.empty() ? "" : ", at " + where));
}

void Findings::fail(const std::string &text) {
    if (texts_.size() < texts_kept) texts_.push_back(context_ + text);
    ++failures_;
}

void Findings::count(const std::string &what, int64_t n) {
    if (n != 0) counts_[what] += n;
}

std::string three_digits(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

} // namespace retentive::harness
