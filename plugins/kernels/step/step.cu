// The whole step. With one new token: the attention's first launch, then one that does the rest (with the residual
// readout one between them); with more, the three operators one after the other.
#include "attention/launches.h"
#include "common/launch.cuh"
#include "operators.h"
#include "step/finish.cuh"

namespace retentive {
namespace {

// Whether the step's first part, a call of its own, wrote the output and kept the token.
enum class Part { whole, second };

template <typename Element, Stores kStores, int kColumns>
auto finish_kernel(const RetentiveStepParams &params, const Shape &s) {
    return params.geometry.readout == RETENTIVE_READOUT_NONE ? step_finish<Element, kStores, Absorbed::never, kColumns>
           : recall_blocks(s) == 0                           ? step_finish<Element, kStores, Absorbed::here, kColumns>
                                                             : step_finish<Element, kStores, Absorbed::later, kColumns>;
}
template <typename Element, int kColumns> auto finish_kernel(const RetentiveStepParams &params, const Shape &s) {
    return s.F == 0 ? finish_kernel<Element, Stores::exact, kColumns>(params, s)
                    : finish_kernel<Element, Stores::both, kColumns>(params, s);
}

template <typename Element>
int32_t finish(const RetentiveStepParams &params, const Shape &s, const AttentionPlan &plan, Part part, void *stream) {
    AttentionWorkspace at(s, plan);
    if (part == Part::second) at.column_blocks = blocks_for(kAsideBlocks / s.BH, at.column_blocks);
    const bool output = part == Part::whole && params.geometry.readout != RETENTIVE_READOUT_RESIDUAL;
    const dim3 grid(unsigned(at.column_blocks + (output ? at.output_blocks : 0)), unsigned(s.BH));
    const auto kernel = at.column_blocks == 1 ? finish_kernel<Element, kFewColumns>(params, s)
                                              : finish_kernel<Element, kColumnsAtOnce>(params, s);
    return launch("step_finish", kernel, grid, kFinishThreads, 0, stream, params, s, plan, at, StepWorkspace(s, plan),
                  part == Part::second);
}

RetentiveAttentionParams attention_of(const RetentiveStepParams &params) {
    RetentiveAttentionParams attention = {};
    attention.geometry = params.geometry, attention.gate = params.gate;
    attention.scale = params.scale, attention.steps = params.steps;
    attention.query = params.query, attention.key = params.key, attention.value = params.value;
    attention.token_meta = params.token_meta, attention.key_scale = params.key_scale;
    attention.state = params.state;
    if (!params.geometry.track_importance) attention.state.importance = nullptr;
    if (!params.geometry.track_entropy) attention.state.entropy = nullptr;
    attention.output = params.output;
    attention.workspace = params.workspace, attention.workspace_bytes = params.workspace_bytes;
    return attention;
}

// But for what the gate decided.
RetentiveTransitionParams transition_of(const RetentiveStepParams &params, const StepWorkspace &at) {
    char *base = static_cast<char *>(params.workspace);
    RetentiveTransitionParams transition = {};
    transition.geometry = params.geometry, transition.steps = params.steps;
    transition.absorption = reinterpret_cast<const float *>(base + at.absorption);
    transition.retention = reinterpret_cast<const float *>(base + at.retention);
    transition.key = params.key, transition.value = params.value;
    transition.token_meta = params.token_meta, transition.key_scale = params.key_scale;
    transition.before = params.state, transition.after = params.state;
    transition.workspace = base + at.transition, transition.workspace_bytes = at.transition_bytes;
    return transition;
}

// What follows the output: statistics, victims, transition.
int32_t settle(const RetentiveStepParams &params, const Shape &s, Part part, void *stream) {
    const AttentionPlan plan(s, params.geometry);
    const int32_t status =
        with_element(params.geometry, [&](auto x) { return finish<decltype(x)>(params, s, plan, part, stream); });
    return status ? status : launch_absorb(transition_of(params, StepWorkspace(s, plan)), true, stream);
}

int32_t decode_step(const RetentiveStepParams &params, const Shape &s, void *stream) {
    const RetentiveAttentionParams attention = attention_of(params);
    if (const int32_t status = launch_partial(attention, true, stream)) return status;
    if (params.geometry.readout == RETENTIVE_READOUT_RESIDUAL)
        if (const int32_t status = launch_combine(attention, false, stream)) return status;
    return settle(params, s, Part::whole, stream);
}

int32_t prefill_step(const RetentiveStepParams &params, const Shape &s, const AttentionPlan &plan, void *stream) {
    const StepWorkspace at(s, plan);
    char *base = static_cast<char *>(params.workspace);
    const auto floats = [base](size_t offset) { return reinterpret_cast<float *>(base + offset); };
    RetentiveAttentionParams attention = attention_of(params);
    attention.received = floats(at.received), attention.surprise = floats(at.surprise);
    attention.visual_entropy = floats(at.visual_entropy);
    if (const int32_t status = launch_attention(attention, stream)) return status;

    RetentiveGateParams gate = {};
    gate.geometry = params.geometry, gate.gate = params.gate, gate.steps = params.steps;
    gate.received = attention.received, gate.surprise = attention.surprise,
    gate.visual_entropy = attention.visual_entropy;
    gate.token_meta = params.token_meta, gate.state = params.state;
    gate.victims = params.victims != nullptr ? params.victims : reinterpret_cast<int64_t *>(base + at.victims);
    gate.importance_next = floats(at.importance), gate.entropy_next = floats(at.entropy);
    gate.absorption = floats(at.absorption), gate.retention = floats(at.retention);
    gate.workspace = base + at.gate, gate.workspace_bytes = GateWorkspace(s).total;
    if (const int32_t status = launch_gate(gate, stream)) return status;

    RetentiveTransitionParams transition = transition_of(params, at);
    transition.victims = gate.victims;
    transition.importance_next = gate.importance_next, transition.entropy_next = gate.entropy_next;
    return launch_transition(transition, stream);
}

} // namespace

int32_t launch_step(const RetentiveStepParams &params, void *stream) {
    const Shape s(params.geometry, params.steps);
    return s.T == 1 ? decode_step(params, s, stream)
                    : prefill_step(params, s, AttentionPlan(s, params.geometry), stream);
}

int32_t launch_step_attend(const RetentiveStepParams &params, void *stream) {
    const RetentiveAttentionParams attention = attention_of(params);
    if (const int32_t status = launch_partial(attention, true, stream)) return status;
    return launch_output(attention, stream);
}

int32_t launch_step_settle(const RetentiveStepParams &params, void *stream) {
    return settle(params, Shape(params.geometry, params.steps), Part::second, stream);
}

} // namespace retentive
