#include "calls.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "numbers.h"
#include "retentive/reference.h"

namespace retentive::harness {
namespace {

float *floats(const Places &places, const char *name) { return static_cast<float *>(places.at(name)); }
int32_t *integers(const Places &places, const char *name) { return static_cast<int32_t *>(places.at(name)); }

void accept(const char *op, int32_t status) {
    if (status != RETENTIVE_OK)
        throw std::runtime_error(std::string("the reference of ") + op + " refused: " + retentive_reference_message());
}

bool has_case_dtype(const std::string &name) {
    return name == "query" || name == "key" || name == "value" || name == "key_rows" || name == "value_rows";
}

/* What the attention and the whole step have in common. */
template <typename Params>
Params attending(const Case &c, int32_t steps, const Places &inputs, const Places &state, const Places &outputs,
                 Workspace workspace) {
    Params p{};
    p.geometry = c.geometry;
    p.gate = c.gate;
    p.scale = c.scale;
    p.steps = steps;
    p.query = inputs.at("query");
    p.key = inputs.at("key");
    p.value = inputs.at("value");
    p.token_meta = integers(inputs, "token_meta");
    p.key_scale = floats(inputs, "key_scale");
    p.state = state_at(state);
    p.output = outputs.at("output");
    p.workspace = workspace.data;
    p.workspace_bytes = workspace.bytes;
    return p;
}

} // namespace

RetentiveState state_at(const Places &places) {
    RetentiveState state{};
    state.key_rows = places.at("key_rows");
    state.value_rows = places.at("value_rows");
    state.key_codes = places.at("key_codes");
    state.value_codes = places.at("value_codes");
    state.value_scale = floats(places, "value_scale");
    state.row_meta = integers(places, "row_meta");
    state.importance = floats(places, "importance");
    state.entropy = floats(places, "entropy");
    state.memory_mass = floats(places, "memory_mass");
    state.recall_state = floats(places, "recall_state");
    state.visual_state = floats(places, "visual_state");
    return state;
}

RetentiveAttentionParams attention_call(const Case &c, int32_t steps, const Places &inputs, const Places &state,
                                        const Places &outputs, Workspace workspace) {
    auto p = attending<RetentiveAttentionParams>(c, steps, inputs, state, outputs, workspace);
    p.received = floats(outputs, "received");
    p.surprise = floats(outputs, "surprise");
    p.visual_entropy = floats(outputs, "visual_entropy");
    return p;
}

RetentiveGateParams gate_call(const Case &c, int32_t steps, const Places &inputs, const Places &state,
                              const Places &attention, const Places &outputs, Workspace workspace) {
    RetentiveGateParams p{};
    p.geometry = c.geometry;
    p.gate = c.gate;
    p.steps = steps;
    p.received = floats(attention, "received");
    p.surprise = floats(attention, "surprise");
    p.visual_entropy = floats(attention, "visual_entropy");
    p.token_meta = integers(inputs, "token_meta");
    p.state = state_at(state);
    p.victims = static_cast<int64_t *>(outputs.at("victims"));
    p.importance_next = floats(outputs, "importance_next");
    p.entropy_next = floats(outputs, "entropy_next");
    p.absorption = floats(outputs, "absorption");
    p.retention = floats(outputs, "retention");
    p.workspace = workspace.data;
    p.workspace_bytes = workspace.bytes;
    return p;
}

RetentiveTransitionParams transition_call(const Case &c, int32_t steps, const Places &inputs, const Places &decision,
                                          const Places &before, const Places &after, Workspace workspace) {
    RetentiveTransitionParams p{};
    p.geometry = c.geometry;
    p.steps = steps;
    p.victims = static_cast<const int64_t *>(decision.at("victims"));
    p.importance_next = floats(decision, "importance_next");
    p.entropy_next = floats(decision, "entropy_next");
    p.absorption = floats(decision, "absorption");
    p.retention = floats(decision, "retention");
    p.key = inputs.at("key");
    p.value = inputs.at("value");
    p.token_meta = integers(inputs, "token_meta");
    p.key_scale = floats(inputs, "key_scale");
    p.before = state_at(before);
    p.after = state_at(after);
    p.workspace = workspace.data;
    p.workspace_bytes = workspace.bytes;
    return p;
}

RetentiveStepParams step_call(const Case &c, int32_t steps, const Places &inputs, const Places &state,
                              const Places &outputs, Workspace workspace) {
    auto p = attending<RetentiveStepParams>(c, steps, inputs, state, outputs, workspace);
    p.victims = static_cast<int64_t *>(outputs.at("victims"));
    return p;
}

HostTensors reference_attention(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &state) {
    HostTensors outputs(attention_specs(c.geometry, steps));
    const RetentiveAttentionParams params = attention_call(c, steps, inputs, state, outputs);
    accept("RetentiveAttention", retentive_reference_attention(&params));
    return outputs;
}

HostTensors reference_gate(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &state,
                           const HostTensors &attention) {
    HostTensors outputs(gate_specs(c.geometry, steps));
    const RetentiveGateParams params = gate_call(c, steps, inputs, state, attention, outputs);
    accept("EntropyGate", retentive_reference_gate(&params));
    return outputs;
}

HostTensors reference_transition(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &decision,
                                 const HostTensors &before) {
    HostTensors after(state_specs(c.geometry));
    const RetentiveTransitionParams params = transition_call(c, steps, inputs, decision, before, after);
    accept("StateTransition", retentive_reference_transition(&params));
    return after;
}

Case in_float32(const Case &c) {
    Case copy = c;
    copy.geometry.dtype = RETENTIVE_FLOAT32;
    return copy;
}

HostTensors in_float32(const HostTensors &tensors, int32_t dtype) {
    TensorSpecs specs = tensors.specs();
    for (TensorSpec &spec : specs)
        if (has_case_dtype(spec.name)) spec.bytes = spec.bytes / element_bytes(dtype) * sizeof(float);
    HostTensors wide(specs);
    for (const TensorSpec &spec : specs) {
        const void *source = tensors.at(spec.name);
        if (!has_case_dtype(spec.name)) {
            std::memcpy(wide.at(spec.name), source, spec.bytes);
            continue;
        }
        auto *target = wide.as<float>(spec.name);
        /* New keys and values count as they will be stored; a NaN stays one. */
        const bool saturates = dtype == RETENTIVE_FLOAT16 && spec.name != "query";
        const float bound = saturates ? largest_float16 : std::numeric_limits<float>::infinity();
        for (size_t i = 0; i < spec.bytes / sizeof(float); ++i)
            target[i] = std::clamp(load(source, i, dtype), -bound, bound);
    }
    return wide;
}

} // namespace retentive::harness
