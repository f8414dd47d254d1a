/* The launch functions of launch_host.cpp with one fault. */
#include <iterator>

#include "fault.h"
#include "launch_host.h"
#include "numbers.h"

namespace retentive::harness {
namespace {

/* The program is told once which fault it has; the launch functions have no parameter for it. */
Fault the_fault = Fault::none;

bool has(Fault fault) { return the_fault == fault; }

size_t heads(const RetentiveGeometry &g) { return static_cast<size_t>(g.batch) * g.kv_heads; }

void enlarge_last_output(const RetentiveGeometry &g, int32_t steps, void *output) {
    const size_t dim = static_cast<size_t>(g.head_dim), end = heads(g) * groups(g) * steps * dim;
    for (size_t i = end - dim; i < end; ++i) store(output, i, g.dtype, 1.01F * load(output, i, g.dtype));
}

template <typename Params> void damage_output(const Params &p) {
    static int calls = 0;
    if (has(Fault::output) || (has(Fault::many_heads) && p.geometry.kv_heads == 8) ||
        (has(Fault::unrepeatable) && ++calls % 2 == 0))
        enlarge_last_output(p.geometry, p.steps, p.output);
}

/* Whatever row it was, another one of its tier. */
void damage_victim(const RetentiveGeometry &g, int64_t *victims) {
    const int32_t rows = g.exact_rows > 0 ? g.exact_rows : g.coarse_rows;
    if (has(Fault::victim)) victims[0] = (victims[0] + 1) % rows;
}

template <typename Params> bool accepts_anything(const Params *p) {
    return has(Fault::refusal) && p != nullptr && p->steps == 0;
}

} // namespace

Fault fault_named(const std::string &name) {
    static constexpr const char *names[] = {"none",      "output",  "victim", "meta",    "in_place",  "unrepeatable",
                                            "unwritten", "overrun", "input",  "refusal", "many_heads"};
    for (size_t i = 1; i < std::size(names); ++i)
        if (name == names[i]) return static_cast<Fault>(i);
    return Fault::none;
}

void set_fault(Fault fault) { the_fault = fault; }

} // namespace retentive::harness

using namespace retentive::harness;

size_t retentive_attention_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }
size_t retentive_gate_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }
size_t retentive_transition_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }
size_t retentive_step_workspace(const RetentiveGeometry *g, int32_t steps) { return host_workspace(g, steps); }

int32_t retentive_attention(const RetentiveAttentionParams *params, void *) {
    if (accepts_anything(params)) return RETENTIVE_OK;
    const int32_t status = launch_host(params, retentive_reference_attention);
    if (status != RETENTIVE_OK) return status;
    const RetentiveGeometry &g = params->geometry;
    const size_t outputs = heads(g) * retentive::groups(g) * params->steps * g.head_dim;
    damage_output(*params);
    if (has(Fault::overrun)) static_cast<char *>(params->output)[outputs * element_bytes(g.dtype)] = 0;
    if (has(Fault::input)) store(const_cast<void *>(params->query), 0, g.dtype, 7.0F);
    return RETENTIVE_OK;
}

int32_t retentive_gate(const RetentiveGateParams *params, void *) {
    const float before =
        params != nullptr && params->retention != nullptr && has(Fault::unwritten) ? *params->retention : 0.0F;
    const int32_t status = launch_host(params, retentive_reference_gate);
    if (status != RETENTIVE_OK) return status;
    damage_victim(params->geometry, params->victims);
    if (has(Fault::unwritten)) *params->retention = before;
    return RETENTIVE_OK;
}

int32_t retentive_transition(const RetentiveTransitionParams *params, void *) {
    const int32_t status = launch_host(params, retentive_reference_transition);
    if (status != RETENTIVE_OK || !has(Fault::in_place)) return status;
    if (params->before.row_meta == params->after.row_meta && params->geometry.track_importance != 0)
        *params->after.importance += 1.0F;
    return RETENTIVE_OK;
}

int32_t retentive_step(const RetentiveStepParams *params, void *) {
    const int32_t status = launch_host(params, retentive_reference_step);
    if (status != RETENTIVE_OK) return status;
    damage_output(*params);
    if (params->victims != nullptr) damage_victim(params->geometry, params->victims);
    if (has(Fault::meta)) params->state.row_meta[0] = -1, params->state.row_meta[1] = -1;
    return RETENTIVE_OK;
}

int32_t retentive_step_attend(const RetentiveStepParams *params, void *) {
    const int32_t status = refuse_part(params);
    return status == RETENTIVE_OK ? retentive_step(params, nullptr) : status;
}
int32_t retentive_step_settle(const RetentiveStepParams *params, void *) { return refuse_part(params); }
const char *retentive_message(void) { return retentive::message(); }
