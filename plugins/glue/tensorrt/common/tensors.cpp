#include "common/tensors.h"

#include "common/logging.h"
#include "retentive/validate.h"

namespace retentive::tensorrt {
namespace {

using nvinfer1::DataType;

std::string type_name(DataType type) {
    switch (type) {
    case DataType::kFLOAT: return "float32";
    case DataType::kHALF: return "float16";
    case DataType::kBF16: return "bfloat16";
    case DataType::kINT8: return "int8";
    case DataType::kUINT8: return "uint8";
    case DataType::kINT32: return "int32";
    case DataType::kINT64: return "int64";
    default: return "DataType " + std::to_string(static_cast<int>(type));
    }
}

std::string text(const nvinfer1::Dims &dims) {
    std::string result = "[";
    for (int32_t i = 0; i < dims.nbDims; ++i) result += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    return result + "]";
}

} // namespace

const char *name(TensorId id) {
    static constexpr const char *names[tensor_count] = {
        "query",           "key",          "value",       "token_meta", "key_scale",  "key_rows",       "value_rows",
        "key_codes",       "value_codes",  "value_scale", "row_meta",   "importance", "entropy",        "memory_mass",
        "recall_state",    "visual_state", "output",      "received",   "surprise",   "visual_entropy", "victims",
        "importance_next", "entropy_next", "absorption",  "retention"};
    return names[static_cast<std::size_t>(id)];
}

bool Tensor::accepts(DataType offered) const {
    return offered == type || (either_byte && (offered == DataType::kINT8 || offered == DataType::kUINT8));
}

std::string Tensor::describe() const {
    std::string result = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        const Extent &extent = shape[i];
        result += i == 0 ? "" : ", ";
        if (!extent.per_step)
            result += std::to_string(extent.fixed);
        else
            result += extent.fixed == 0 ? "T" : std::to_string(extent.fixed) + " + T";
    }
    return result + "] " + (either_byte ? "int8 or uint8" : type_name(type));
}

int32_t Signature::input(TensorId id) const {
    for (std::size_t i = 0; i < inputs.size(); ++i)
        if (inputs[i].id == id) return static_cast<int32_t>(i);
    return -1;
}

DataType float_type(const RetentiveGeometry &geometry) {
    return geometry.dtype == RETENTIVE_FLOAT32   ? DataType::kFLOAT
           : geometry.dtype == RETENTIVE_FLOAT16 ? DataType::kHALF
                                                 : DataType::kBF16;
}

std::vector<Tensor> row_state_tensors(const RetentiveGeometry &g) {
    const Extent batch{g.batch}, heads{g.kv_heads}, dim{g.head_dim};
    std::vector<Tensor> tensors;
    const auto add = [&](TensorId id, DataType type, std::vector<Extent> tail, bool either_byte = false) {
        tail.insert(tail.begin(), {batch, heads});
        tensors.push_back({id, type, std::move(tail), either_byte});
    };
    if (const Extent rows{exact_store_rows(g)}; rows.fixed > 0) {
        add(TensorId::key_rows, float_type(g), {rows, dim});
        add(TensorId::value_rows, float_type(g), {rows, dim});
    }
    if (const Extent rows{coarse_store_rows(g)}; rows.fixed > 0) {
        const bool packed = g.coarse_dtype == RETENTIVE_INT4;
        const Extent width{packed ? g.head_dim / 2 : g.head_dim};
        add(TensorId::key_codes, DataType::kINT8, {rows, width}, packed);
        add(TensorId::value_codes, DataType::kINT8, {rows, width}, packed);
        add(TensorId::value_scale, DataType::kFLOAT, {rows});
    }
    add(TensorId::row_meta, DataType::kINT32, {Extent{rows(g)}, Extent{2}});
    if (memory_rows(g) > 0) add(TensorId::memory_mass, DataType::kFLOAT, {Extent{memory_rows(g)}});
    if (g.readout == RETENTIVE_READOUT_RESIDUAL) {
        add(TensorId::recall_state, DataType::kFLOAT, {dim, dim});
        add(TensorId::visual_state, DataType::kFLOAT, {dim, dim});
    }
    return tensors;
}

std::vector<Tensor> state_tensors(const RetentiveGeometry &g) {
    std::vector<Tensor> tensors;
    for (const Tensor &tensor : row_state_tensors(g)) {
        tensors.push_back(tensor);
        if (tensor.id != TensorId::row_meta) continue;
        const std::vector<Extent> shape{Extent{g.batch}, Extent{g.kv_heads}, Extent{local_rows(g)}};
        if (g.track_importance != 0) tensors.push_back({TensorId::importance, DataType::kFLOAT, shape});
        if (g.track_entropy != 0) tensors.push_back({TensorId::entropy, DataType::kFLOAT, shape});
    }
    return tensors;
}

void check_count(const char *what, int32_t offered, std::size_t expected) {
    if (offered < 0 || static_cast<std::size_t>(offered) != expected)
        refuse("%d %ss; accepted: %zu, as the node's attributes say", offered, what, expected);
}

void check_type(const char *what, std::size_t index, const Tensor &tensor, DataType offered) {
    if (!tensor.accepts(offered))
        refuse("%s %zu '%s' is %s; accepted: %s", what, index, name(tensor.id), type_name(offered).c_str(),
               tensor.describe().c_str());
}

void check_dims(const char *what, std::size_t index, const Tensor &tensor, const nvinfer1::Dims &offered, int64_t steps,
                bool wildcards) {
    bool good = offered.nbDims == static_cast<int32_t>(tensor.shape.size());
    for (std::size_t i = 0; good && i < tensor.shape.size(); ++i) {
        const Extent &extent = tensor.shape[i];
        const int64_t length = offered.d[i];
        if (wildcards && length == -1) continue;
        good = extent.per_step && steps < 0 ? length > extent.fixed : length == extent.at(steps);
    }
    if (good) return;
    const std::string where = steps >= 0 ? " with T = " + std::to_string(steps) : "";
    refuse("%s %zu '%s' is %s; accepted: %s%s", what, index, name(tensor.id), text(offered).c_str(),
           tensor.describe().c_str(), where.c_str());
}

int32_t steps_of(const Signature &signature, const nvinfer1::Dims &token_meta, const RetentiveGeometry &geometry,
                 bool wildcards) {
    if (token_meta.nbDims != 3)
        refuse("input %d 'token_meta' is %s; accepted: [%d, T, 2]", signature.input(TensorId::token_meta),
               text(token_meta).c_str(), geometry.batch);
    const int64_t steps = token_meta.d[1];
    if (wildcards && steps == -1) return -1;
    if (steps < 1 || steps > geometry.chunk)
        refuse(
            "T is %lld (dimension 1 of 'token_meta'); accepted: 1 .. %d, the chunk, which is at most the window (%d)",
            static_cast<long long>(steps), geometry.chunk, geometry.window);
    return static_cast<int32_t>(steps);
}

Bindings::Bindings(const Signature &signature, const void *const *inputs, void *const *outputs) {
    for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
        const TensorId id = signature.inputs[i].id;
        if (inputs[i] == nullptr) refuse("input %zu '%s' is a null pointer; accepted: device memory", i, name(id));
        // RetentiveState has one pointer type for what is read and what is written.
        inputs_[static_cast<std::size_t>(id)] = const_cast<void *>(inputs[i]);
    }
    for (std::size_t i = 0; i < signature.outputs.size(); ++i) {
        const TensorId id = signature.outputs[i].id;
        if (outputs[i] == nullptr) refuse("output %zu '%s' is a null pointer; accepted: device memory", i, name(id));
        outputs_[static_cast<std::size_t>(id)] = outputs[i];
    }
}

RetentiveState Bindings::state(const Addresses &addresses) {
    const auto at = [&](TensorId id) { return addresses[static_cast<std::size_t>(id)]; };
    const auto floats = [&](TensorId id) { return static_cast<float *>(at(id)); };
    RetentiveState state{};
    state.key_rows = at(TensorId::key_rows);
    state.value_rows = at(TensorId::value_rows);
    state.key_codes = at(TensorId::key_codes);
    state.value_codes = at(TensorId::value_codes);
    state.value_scale = floats(TensorId::value_scale);
    state.row_meta = static_cast<int32_t *>(at(TensorId::row_meta));
    state.importance = floats(TensorId::importance);
    state.entropy = floats(TensorId::entropy);
    state.memory_mass = floats(TensorId::memory_mass);
    state.recall_state = floats(TensorId::recall_state);
    state.visual_state = floats(TensorId::visual_state);
    return state;
}

} // namespace retentive::tensorrt
