#include "compare.h"
#include "retentive/validate.h"
#include "victims.h"

namespace retentive::harness {

void compare_decision(Findings &findings, const Case &c, int32_t steps, const HostTensors &inputs,
                      const HostTensors &state, const HostTensors &actual, const HostTensors &reference) {
    /* float32 arithmetic on the same statistics: a product, a sum, a share of a sum, an exponential. */
    constexpr double statistics = 2e-6, scores = 1e-5, gates = 1e-5;
    const RetentiveGeometry &g = c.geometry;
    const size_t heads = static_cast<size_t>(g.batch) * g.kv_heads, tokens = static_cast<size_t>(steps);
    const auto compare = [&](const char *name, const HostTensors &expected, size_t columns, double limit) {
        compare_heads(findings, name, actual.as<float>(name), expected.as<float>(name), heads, columns, limit, 1e-20);
    };
    const int64_t already = findings.failure_count();
    compare_victims(findings, c, steps, inputs, state, reference, actual.as<int64_t>("victims"), scores);
    const size_t columns = static_cast<size_t>(local_rows(g)) + tokens;
    compare("importance_next", reference, columns, statistics);
    compare("entropy_next", reference, columns, statistics);
    compare("retention", reference, 1, gates);
    if (findings.failure_count() > already) return; /* absorption follows the victims, which may be no rows at all */
    compare("absorption", with_victims(c, steps, state, reference, actual.as<int64_t>("victims")), tokens, gates);
}

} // namespace retentive::harness
