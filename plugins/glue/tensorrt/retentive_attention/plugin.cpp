#include "retentive_attention/plugin.h"

#include "retentive/launch.h"
#include "retentive/validate.h"

namespace retentive::tensorrt {
namespace {

using nvinfer1::DataType;

Signature make_signature(const RetentiveGeometry &g) {
    const Extent batch{g.batch}, heads{g.kv_heads}, query_heads{g.q_heads}, dim{g.head_dim};
    const DataType type = float_type(g);
    Signature signature;
    signature.inputs = {
        {TensorId::query, type, {batch, query_heads, steps_extent, dim}},
        {TensorId::key, type, {batch, heads, steps_extent, dim}},
        {TensorId::value, type, {batch, heads, steps_extent, dim}},
        {TensorId::token_meta, DataType::kINT32, {batch, steps_extent, Extent{2}}},
    };
    if (g.coarse_rows > 0) signature.inputs.push_back({TensorId::key_scale, DataType::kFLOAT, {heads, dim}});
    for (Tensor &tensor : row_state_tensors(g)) signature.inputs.push_back(std::move(tensor));
    signature.outputs = {
        {TensorId::output, type, {batch, query_heads, steps_extent, dim}},
        {TensorId::received, DataType::kFLOAT, {batch, heads, with_steps(rows(g))}},
        {TensorId::surprise, DataType::kFLOAT, {batch, heads, with_steps(rows(g))}},
        {TensorId::visual_entropy, DataType::kFLOAT, {batch, heads}},
    };
    return signature;
}

} // namespace

RetentiveAttention::RetentiveAttention(const char *layer, const Attributes &attributes)
    : Plugin(op, layer, attributes, make_signature(attributes.geometry)) {}

std::unique_ptr<Plugin> RetentiveAttention::copy() const {
    return std::make_unique<RetentiveAttention>(layer(), attributes());
}

size_t RetentiveAttention::workspace(int32_t steps) const {
    return retentive_attention_workspace(&attributes().geometry, steps);
}

int32_t RetentiveAttention::launch(int32_t steps, const Bindings &bindings, const Workspace &workspace,
                                   cudaStream_t stream) const {
    RetentiveAttentionParams params{};
    params.geometry = attributes().geometry;
    params.gate = attributes().gate;
    params.scale = attributes().scale;
    params.steps = steps;
    params.query = bindings.in<void>(TensorId::query);
    params.key = bindings.in<void>(TensorId::key);
    params.value = bindings.in<void>(TensorId::value);
    params.token_meta = bindings.in<int32_t>(TensorId::token_meta);
    params.key_scale = bindings.in<float>(TensorId::key_scale);
    params.state = bindings.state_in();
    params.output = bindings.out<void>(TensorId::output);
    params.received = bindings.out<float>(TensorId::received);
    params.surprise = bindings.out<float>(TensorId::surprise);
    params.visual_entropy = bindings.out<float>(TensorId::visual_entropy);
    params.workspace = workspace.data;
    params.workspace_bytes = workspace.bytes;
    return retentive_attention(&params, stream);
}

} // namespace retentive::tensorrt
