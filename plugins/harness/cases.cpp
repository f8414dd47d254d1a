#include "cases.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "numbers.h"
#include "retentive/validate.h"

namespace retentive::harness {
namespace {

int32_t longest(const std::vector<int32_t> &steps) { return *std::max_element(steps.begin(), steps.end()); }

void set_memory(RetentiveGeometry &g, const CaseRequest &request) {
    const bool large = request.rows >= 512;
    const bool grid = request.memory == Memory::grid || request.memory == Memory::both;
    const bool recall = request.memory == Memory::recall || request.memory == Memory::both;
    g.memory_grid[0] = grid ? (large ? 8 : 2) : 0;
    g.memory_grid[1] = grid ? (large ? 8 : 3) : 0;
    g.recall_rows = !recall ? 0 : request.recall_rows > 0 ? request.recall_rows : large ? 64 : 5;
    g.memory_store = request.tiers == Tiers::exact ? RETENTIVE_STORE_EXACT : request.store;
    g.readout = request.residual                 ? RETENTIVE_READOUT_RESIDUAL
                : request.memory == Memory::none ? RETENTIVE_READOUT_NONE
                                                 : RETENTIVE_READOUT_MASS;
}

/* Splits the local rows between the tiers, and protects as much as fits. */
void set_tiers(RetentiveGeometry &g, const CaseRequest &request) {
    g.chunk = longest(request.steps);
    const int32_t least = request.tiers == Tiers::mixed ? 2 * g.chunk : g.chunk;
    const int32_t local = std::max(request.rows - memory_rows(g), least);
    switch (request.tiers) {
    case Tiers::exact: g.exact_rows = local; break;
    case Tiers::coarse: g.coarse_rows = local; break;
    case Tiers::mixed:
        g.exact_rows = std::clamp(local / 3, g.chunk, local - g.chunk);
        g.coarse_rows = local - g.exact_rows;
        break;
    }
    const int32_t room = (request.tiers == Tiers::mixed ? g.exact_rows : local) - g.chunk;
    g.sinks = std::min(room / 2, 4);
    g.window = g.chunk + std::min(room - g.sinks, 5);
}

RetentiveGate make_gate(const CaseRequest &request) {
    RetentiveGate gate{};
    gate.lambda_ = 0.4F;
    gate.score = request.recency ? RETENTIVE_SCORE_RECENCY : RETENTIVE_SCORE_RETENTION;
    gate.importance_decay = 0.98F;
    gate.importance_gain = 0.02F;
    gate.entropy_decay = 0.95F;
    gate.entropy_gain = 0.05F;
    gate.retention = {request.gates, 1.5F, 0.7F};
    gate.absorption = {request.gates, 0.8F, -0.3F};
    gate.readout = {request.gates, -2.0F, 0.5F};
    gate.beta = request.gates ? 0.25F : 0.0F;
    return gate;
}

uint64_t hash(const std::string &text) {
    uint64_t h = 0xcbf29ce484222325U; /* FNV-1a */
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    return h;
}

} // namespace

std::string describe(const RetentiveGeometry &g, const std::vector<int32_t> &steps) {
    const auto text = [](const char *prefix, int32_t value) { return prefix + std::to_string(value); };
    std::string name = text("d", g.head_dim) + " " + dtype_name(g.dtype) + text(" g", groups(g)) +
                       text(" h", g.kv_heads) + text(" b", g.batch) + text(" x", g.exact_rows);
    if (g.coarse_rows > 0) name += text("+y", g.coarse_rows) + "(" + dtype_name(g.coarse_dtype) + ")";
    if (memory_rows(g) > 0) {
        name += text("+m", memory_rows(g));
        if (g.memory_store == RETENTIVE_STORE_COARSE) name += "(coarse)";
    }
    if (g.readout == RETENTIVE_READOUT_RESIDUAL) name += "+residual";
    name += text(" t", steps.front());
    if (steps.size() > 4) return name + text("..", steps.back()) + text(" x", static_cast<int32_t>(steps.size()));
    for (size_t i = 1; i < steps.size(); ++i) name += text(",", steps[i]);
    return name;
}

Case make_case(const CaseRequest &request) {
    RetentiveGeometry g{};
    g.batch = request.batch;
    g.kv_heads = request.heads;
    g.q_heads = request.heads * request.group;
    g.head_dim = request.dim;
    g.dtype = request.dtype;
    g.coarse_dtype = request.coarse;
    g.frame_grid[0] = 12;
    g.frame_grid[1] = 17;
    g.track_importance = request.track & 1;
    g.track_entropy = request.track >> 1 & 1;
    set_memory(g, request);
    set_tiers(g, request);
    const std::string name = request.topic + ": " + describe(g, request.steps);
    const float scale = 1.0F / std::sqrt(static_cast<float>(request.dim));
    return {name,
            g,
            make_gate(request),
            scale,
            request.steps,
            request.fill,
            request.padding,
            request.content,
            request.hostile,
            hash(name),
            request.quick};
}

std::vector<Case> select_cases(bool quick, const std::string &filter) {
    std::vector<Case> cases;
    std::vector<std::string> names;
    for (const auto &requests : {quick_requests(), special_requests(), sweep_requests()})
        for (const CaseRequest &request : requests) {
            if (quick && !request.quick) continue;
            cases.push_back(make_case(request));
            names.push_back(cases.back().name);
        }
    std::sort(names.begin(), names.end());
    if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
        throw std::logic_error("two cases are named '" + *twice + "'");
    cases.erase(std::remove_if(cases.begin(), cases.end(),
                               [&](const Case &c) { return c.name.find(filter) == std::string::npos; }),
                cases.end());
    return cases;
}

} // namespace retentive::harness
