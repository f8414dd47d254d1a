#include "common/plugin.h"

#include <utility>

#include "retentive/launch.h"

namespace retentive::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

/* Dimensions as far as TensorRT already knows them, -1 where it does not. */
nvinfer1::Dims known_dims(const DimsExprs &offered) {
    nvinfer1::Dims dims{};
    dims.nbDims = offered.nbDims;
    for (int32_t i = 0; i < offered.nbDims; ++i)
        dims.d[i] = offered.d[i]->isConstant() ? offered.d[i]->getConstantValue() : -1;
    return dims;
}

/* Dimensions of a profile: what is fixed in `desc`, and both ends of its range. */
void check_range(const char *what, std::size_t index, const Tensor &tensor, const DynamicPluginTensorDesc &offered,
                 int64_t least, int64_t most) {
    check_type(what, index, tensor, offered.desc.type);
    check_dims(what, index, tensor, offered.desc.dims, least == most ? least : -1, true);
    check_dims(what, index, tensor, offered.min, least);
    check_dims(what, index, tensor, offered.max, most);
}

} // namespace

Plugin::Plugin(const char *op, const char *layer, const Attributes &attributes, Signature signature)
    : op_(op), layer_(layer == nullptr ? "" : layer), attributes_(attributes), signature_(std::move(signature)) {}

nvinfer1::IPluginCapability *Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore *>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuildV2 *>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3 *Plugin::clone() noexcept {
    return guarded<nvinfer1::IPluginV3 *>(caller("clone"), nullptr, [&] { return copy().release(); });
}

int32_t Plugin::getOutputDataTypes(DataType *types, int32_t output_count, const DataType *input_types,
                                   int32_t input_count) const noexcept {
    return guarded<int32_t>(caller("getOutputDataTypes"), RETENTIVE_INVALID, [&] {
        check_counts(input_count, output_count);
        for (std::size_t i = 0; i < signature_.inputs.size(); ++i)
            check_type("input", i, signature_.inputs[i], input_types[i]);
        for (std::size_t i = 0; i < signature_.outputs.size(); ++i) {
            const Tensor &output = signature_.outputs[i];
            const int32_t same = signature_.input(output.id);
            types[i] = same >= 0 ? input_types[same] : output.type;
        }
        return RETENTIVE_OK;
    });
}

int32_t Plugin::getOutputShapes(const DimsExprs *inputs, int32_t input_count, const DimsExprs *, int32_t,
                                DimsExprs *outputs, int32_t output_count, nvinfer1::IExprBuilder &builder) noexcept {
    return guarded<int32_t>(caller("getOutputShapes"), RETENTIVE_INVALID, [&] {
        check_counts(input_count, output_count);
        const DimsExprs &token_meta = inputs[signature_.input(TensorId::token_meta)];
        const int64_t known = steps_of(signature_, known_dims(token_meta), attributes_.geometry, true);
        for (std::size_t i = 0; i < signature_.inputs.size(); ++i)
            check_dims("input", i, signature_.inputs[i], known_dims(inputs[i]), known, true);
        const nvinfer1::IDimensionExpr *steps = token_meta.d[1];
        for (std::size_t i = 0; i < signature_.outputs.size(); ++i) {
            const std::vector<Extent> &shape = signature_.outputs[i].shape;
            outputs[i].nbDims = static_cast<int32_t>(shape.size());
            for (std::size_t axis = 0; axis < shape.size(); ++axis) {
                const nvinfer1::IDimensionExpr *fixed = builder.constant(shape[axis].fixed);
                outputs[i].d[axis] = shape[axis].per_step
                                         ? builder.operation(nvinfer1::DimensionOperation::kSUM, *fixed, *steps)
                                         : fixed;
            }
        }
        return RETENTIVE_OK;
    });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc *tensors, int32_t input_count,
                                       int32_t output_count) noexcept {
    return guarded<bool>(caller("supportsFormatCombination"), false, [&] {
        check_counts(input_count, output_count);
        if (position < 0 || position >= input_count + output_count)
            refuse("position %d; accepted: 0 .. %d", position, input_count + output_count - 1);
        const bool is_input = position < input_count;
        const Tensor &tensor = is_input ? signature_.inputs[position] : signature_.outputs[position - input_count];
        const PluginTensorDesc &offered = tensors[position].desc;
        const int32_t same = is_input ? -1 : signature_.input(tensor.id);
        return offered.format == nvinfer1::TensorFormat::kLINEAR && tensor.accepts(offered.type) &&
               (same < 0 || offered.type == tensors[same].desc.type);
    });
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc *inputs, int32_t input_count,
                                const DynamicPluginTensorDesc *outputs, int32_t output_count) noexcept {
    return guarded<int32_t>(caller("configurePlugin"), RETENTIVE_INVALID, [&] {
        check_counts(input_count, output_count);
        const DynamicPluginTensorDesc &token_meta = inputs[signature_.input(TensorId::token_meta)];
        const int64_t least = steps_of(signature_, token_meta.min, attributes_.geometry);
        const int64_t most = steps_of(signature_, token_meta.max, attributes_.geometry);
        for (std::size_t i = 0; i < signature_.inputs.size(); ++i)
            check_range("input", i, signature_.inputs[i], inputs[i], least, most);
        for (std::size_t i = 0; i < signature_.outputs.size(); ++i)
            check_range("output", i, signature_.outputs[i], outputs[i], least, most);
        return RETENTIVE_OK;
    });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc *inputs, int32_t input_count,
                                const DynamicPluginTensorDesc *, int32_t output_count) const noexcept {
    return guarded<size_t>(caller("getWorkspaceSize"), 0, [&] {
        check_counts(input_count, output_count);
        const nvinfer1::Dims &most = inputs[signature_.input(TensorId::token_meta)].max;
        return workspace(steps_of(signature_, most, attributes_.geometry));
    });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc *inputs, int32_t input_count, const PluginTensorDesc *outputs,
                              int32_t output_count) noexcept {
    return guarded<int32_t>(caller("onShapeChange"), RETENTIVE_INVALID, [&] {
        check_counts(input_count, output_count);
        check_call(inputs, outputs);
        return RETENTIVE_OK;
    });
}

int32_t Plugin::enqueue(const PluginTensorDesc *input_descs, const PluginTensorDesc *output_descs,
                        const void *const *inputs, void *const *outputs, void *workspace_data,
                        cudaStream_t stream) noexcept {
    return guarded<int32_t>(caller("enqueue"), RETENTIVE_INVALID, [&]() -> int32_t {
        if (inputs == nullptr || outputs == nullptr)
            refuse("the array of %s is a null pointer", inputs == nullptr ? "inputs" : "outputs");
        const int32_t steps = check_call(input_descs, output_descs);
        const Bindings bindings(signature_, inputs, outputs);
        const size_t bytes = workspace(steps);
        const int32_t status = launch(steps, bindings, {bytes == 0 ? nullptr : workspace_data, bytes}, stream);
        if (status != RETENTIVE_OK) log_error(caller("enqueue"), retentive_message());
        return status;
    });
}

nvinfer1::IPluginV3 *Plugin::attachToContext(nvinfer1::IPluginResourceContext *) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection *Plugin::getFieldsToSerialize() noexcept {
    return guarded<const nvinfer1::PluginFieldCollection *>(caller("getFieldsToSerialize"), nullptr, [&] {
        serialised_ = serialise_attributes(attributes_);
        collection_ = {static_cast<int32_t>(serialised_.size()), serialised_.data()};
        return &collection_;
    });
}

void Plugin::check_counts(int32_t input_count, int32_t output_count) const {
    check_count("input", input_count, signature_.inputs.size());
    check_count("output", output_count, signature_.outputs.size());
}

/* T of the call. */
int32_t Plugin::check_call(const PluginTensorDesc *inputs, const PluginTensorDesc *outputs) const {
    if (inputs == nullptr || outputs == nullptr)
        refuse("the descriptions of %s are a null pointer", inputs == nullptr ? "inputs" : "outputs");
    const int32_t steps =
        steps_of(signature_, inputs[signature_.input(TensorId::token_meta)].dims, attributes_.geometry);
    const auto check = [&](const char *what, const std::vector<Tensor> &tensors, const PluginTensorDesc *descs) {
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            check_type(what, i, tensors[i], descs[i].type);
            check_dims(what, i, tensors[i], descs[i].dims, steps);
            if (descs[i].format != nvinfer1::TensorFormat::kLINEAR)
                refuse("%s %zu '%s' has tensor format %d; accepted: kLINEAR", what, i, name(tensors[i].id),
                       static_cast<int>(descs[i].format));
        }
    };
    check("input", signature_.inputs, inputs);
    check("output", signature_.outputs, outputs);
    return steps;
}

} // namespace retentive::tensorrt
