#include "entropy_gate/plugin.h"

#include "retentive/launch.h"
#include "retentive/validate.h"

namespace retentive::tensorrt {
namespace {

using nvinfer1::DataType;

Signature make_signature(const RetentiveGeometry &g) {
    const Extent batch{g.batch}, heads{g.kv_heads};
    Signature signature;
    signature.inputs = {
        {TensorId::received, DataType::kFLOAT, {batch, heads, with_steps(rows(g))}},
        {TensorId::surprise, DataType::kFLOAT, {batch, heads, with_steps(rows(g))}},
        {TensorId::visual_entropy, DataType::kFLOAT, {batch, heads}},
        {TensorId::token_meta, DataType::kINT32, {batch, steps_extent, Extent{2}}},
    };
    for (Tensor &tensor : state_tensors(g)) {
        const bool read =
            tensor.id == TensorId::row_meta || tensor.id == TensorId::importance || tensor.id == TensorId::entropy;
        if (read) signature.inputs.push_back(std::move(tensor));
    }
    const Extent statistics = with_steps(local_rows(g));
    signature.outputs = {
        {TensorId::victims, DataType::kINT64, {batch, heads, Extent{tiers(g)}, steps_extent}},
        {TensorId::importance_next, DataType::kFLOAT, {batch, heads, statistics}},
        {TensorId::entropy_next, DataType::kFLOAT, {batch, heads, statistics}},
        {TensorId::absorption, DataType::kFLOAT, {batch, heads, steps_extent}},
        {TensorId::retention, DataType::kFLOAT, {batch, heads}},
    };
    return signature;
}

} // namespace

EntropyGate::EntropyGate(const char *layer, const Attributes &attributes)
    : Plugin(op, layer, attributes, make_signature(attributes.geometry)) {}

std::unique_ptr<Plugin> EntropyGate::copy() const { return std::make_unique<EntropyGate>(layer(), attributes()); }

size_t EntropyGate::workspace(int32_t steps) const { return retentive_gate_workspace(&attributes().geometry, steps); }

int32_t EntropyGate::launch(int32_t steps, const Bindings &bindings, const Workspace &workspace,
                            cudaStream_t stream) const {
    RetentiveGateParams params{};
    params.geometry = attributes().geometry;
    params.gate = attributes().gate;
    params.steps = steps;
    params.received = bindings.in<float>(TensorId::received);
    params.surprise = bindings.in<float>(TensorId::surprise);
    params.visual_entropy = bindings.in<float>(TensorId::visual_entropy);
    params.token_meta = bindings.in<int32_t>(TensorId::token_meta);
    params.state = bindings.state_in();
    params.victims = bindings.out<int64_t>(TensorId::victims);
    params.importance_next = bindings.out<float>(TensorId::importance_next);
    params.entropy_next = bindings.out<float>(TensorId::entropy_next);
    params.absorption = bindings.out<float>(TensorId::absorption);
    params.retention = bindings.out<float>(TensorId::retention);
    params.workspace = workspace.data;
    params.workspace_bytes = workspace.bytes;
    return retentive_gate(&params, stream);
}

} // namespace retentive::tensorrt
