// The whole step. With one new token: the attention's first launch, then one that does the rest (with the residual
// readout one between them); with more, the three operators one after the other.
#include "attention/launches.h"
#include "common/launch.cuh"
#include "operators.h"
#include "step/finish.cuh"

namespace retentive {
namespace {

template <typename Element>
int32_t finish(const RetentiveStepParams &params, const Shape &s, const AttentionPlan &plan, void *stream) {
    const AttentionWorkspace at(s, plan);
    const bool output = params.geometry.readout != RETENTIVE_READOUT_RESIDUAL;
    const dim3 grid(unsigned(at.column_blocks + (output ? at.output_blocks : 0)), unsigned(s.BH));
    const bool memory = params.geometry.readout != RETENTIVE_READOUT_NONE;
    const auto kernel = memory ? step_finish<Element, true> : step_finish<Element, false>;
    return launch("step_finish", kernel, grid, kFinishThreads, 0, stream, params, s, plan, at);
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

int32_t decode_step(const RetentiveStepParams &params, const Shape &s, const AttentionPlan &plan, void *stream) {
    const RetentiveAttentionParams attention = attention_of(params);
    if (const int32_t status = launch_partial(attention, true, stream)) return status;
    if (params.geometry.readout == RETENTIVE_READOUT_RESIDUAL)
        if (const int32_t status = launch_combine(attention, stream)) return status;
    switch (params.geometry.dtype) {
    case RETENTIVE_FLOAT32: return finish<float>(params, s, plan, stream);
    case RETENTIVE_FLOAT16: return finish<__half>(params, s, plan, stream);
    default: return finish<__nv_bfloat16>(params, s, plan, stream);
    }
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

    RetentiveTransitionParams transition = {};
    transition.geometry = params.geometry, transition.steps = params.steps;
    transition.victims = gate.victims;
    transition.importance_next = gate.importance_next, transition.entropy_next = gate.entropy_next;
    transition.absorption = gate.absorption, transition.retention = gate.retention;
    transition.key = params.key, transition.value = params.value;
    transition.token_meta = params.token_meta, transition.key_scale = params.key_scale;
    transition.before = params.state, transition.after = params.state;
    transition.workspace = base + at.transition, transition.workspace_bytes = TransitionWorkspace(s).total;
    return launch_transition(transition, stream);
}

} // namespace

int32_t launch_step(const RetentiveStepParams &params, void *stream) {
    const Shape s(params.geometry, params.steps);
    const AttentionPlan plan(s, params.geometry);
    return s.T == 1 ? decode_step(params, s, plan, stream) : prefill_step(params, s, plan, stream);
}

} // namespace retentive
