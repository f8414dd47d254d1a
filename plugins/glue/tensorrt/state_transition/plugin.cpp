#include "state_transition/plugin.h"

#include "retentive/launch.h"
#include "retentive/validate.h"

namespace retentive::tensorrt {
namespace {

using nvinfer1::DataType;

Signature make_signature(const RetentiveGeometry &g) {
    const Extent batch{g.batch}, heads{g.kv_heads}, dim{g.head_dim};
    const Extent statistics = with_steps(local_rows(g));
    Signature signature;
    signature.inputs = {
        {TensorId::victims, DataType::kINT64, {batch, heads, Extent{tiers(g)}, steps_extent}},
        {TensorId::importance_next, DataType::kFLOAT, {batch, heads, statistics}},
        {TensorId::entropy_next, DataType::kFLOAT, {batch, heads, statistics}},
        {TensorId::absorption, DataType::kFLOAT, {batch, heads, steps_extent}},
        {TensorId::retention, DataType::kFLOAT, {batch, heads}},
        {TensorId::key, float_type(g), {batch, heads, steps_extent, dim}},
        {TensorId::value, float_type(g), {batch, heads, steps_extent, dim}},
        {TensorId::token_meta, DataType::kINT32, {batch, steps_extent, Extent{2}}},
    };
    if (g.coarse_rows > 0) signature.inputs.push_back({TensorId::key_scale, DataType::kFLOAT, {heads, dim}});
    for (Tensor &tensor : row_state_tensors(g)) signature.inputs.push_back(std::move(tensor));
    signature.outputs = state_tensors(g);
    return signature;
}

} // namespace

StateTransition::StateTransition(const char *layer, const Attributes &attributes)
    : Plugin(op, layer, attributes, make_signature(attributes.geometry)) {}

int32_t StateTransition::getAliasedInput(int32_t output) noexcept {
    if (attributes().declare_alias == 0 || output < 0 || output >= getNbOutputs()) return -1;
    return signature().input(signature().outputs[output].id);
}

std::unique_ptr<Plugin> StateTransition::copy() const {
    return std::make_unique<StateTransition>(layer(), attributes());
}

size_t StateTransition::workspace(int32_t steps) const {
    return retentive_transition_workspace(&attributes().geometry, steps);
}

int32_t StateTransition::launch(int32_t steps, const Bindings &bindings, const Workspace &workspace,
                                cudaStream_t stream) const {
    RetentiveTransitionParams params{};
    params.geometry = attributes().geometry;
    params.steps = steps;
    params.victims = bindings.in<int64_t>(TensorId::victims);
    params.importance_next = bindings.in<float>(TensorId::importance_next);
    params.entropy_next = bindings.in<float>(TensorId::entropy_next);
    params.absorption = bindings.in<float>(TensorId::absorption);
    params.retention = bindings.in<float>(TensorId::retention);
    params.key = bindings.in<void>(TensorId::key);
    params.value = bindings.in<void>(TensorId::value);
    params.token_meta = bindings.in<int32_t>(TensorId::token_meta);
    params.key_scale = bindings.in<float>(TensorId::key_scale);
    params.before = bindings.state_in();
    params.after = bindings.state_out();
    params.workspace = workspace.data;
    params.workspace_bytes = workspace.bytes;
    return retentive_transition(&params, stream);
}

} // namespace retentive::tensorrt
