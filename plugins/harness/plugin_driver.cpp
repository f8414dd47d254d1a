#include "plugin_driver.h"

#include <dlfcn.h>

#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "expressions.h"

namespace retentive::harness {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

nvinfer1::Dims dims_of(const Tensor &tensor) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(tensor.dims.size());
    for (size_t i = 0; i < tensor.dims.size(); ++i) dims.d[i] = tensor.dims[i];
    return dims;
}

PluginTensorDesc desc_of(const Tensor &tensor) { return {dims_of(tensor), tensor.type, tensor.format, 1.0F}; }

std::vector<PluginTensorDesc> descs_of(const std::vector<Tensor> &tensors) {
    std::vector<PluginTensorDesc> descs;
    for (const Tensor &tensor : tensors) descs.push_back(desc_of(tensor));
    return descs;
}

/* A range of shapes; what differs between its ends is a wildcard, as TensorRT describes it. */
std::vector<DynamicPluginTensorDesc> ranges_of(const std::vector<Tensor> &least, const std::vector<Tensor> &most) {
    std::vector<DynamicPluginTensorDesc> ranges;
    for (size_t i = 0; i < most.size(); ++i) {
        DynamicPluginTensorDesc range{desc_of(most[i]), dims_of(least[i]), dims_of(most[i]), dims_of(most[i])};
        for (int32_t axis = 0; axis < range.desc.dims.nbDims; ++axis)
            if (range.min.d[axis] != range.max.d[axis]) range.desc.dims.d[axis] = -1;
        ranges.push_back(range);
    }
    return ranges;
}

template <typename Symbol> Symbol symbol(void *handle, const char *name) {
    void *address = dlsym(handle, name);
    if (address == nullptr) throw std::runtime_error(std::string("the plugin library does not export ") + name);
    return reinterpret_cast<Symbol>(address);
}

template <typename T> std::string join(const PluginField &field) {
    std::string text;
    for (int32_t i = 0; i < field.length; ++i)
        text += (i == 0 ? "" : ",") + std::to_string(static_cast<const T *>(field.data)[i]);
    return text;
}

std::string text_of(const PluginField &field) {
    const std::string name = std::string(field.name) + "=";
    switch (field.type) {
    case PluginFieldType::kINT32: return name + join<int32_t>(field);
    case PluginFieldType::kFLOAT32: return name + join<float>(field);
    case PluginFieldType::kCHAR: return name + static_cast<const char *>(field.data);
    default: throw std::runtime_error("field '" + name + "' has a type that no plugin here serialises");
    }
}

} // namespace

class PluginLibrary::Recorder : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
  public:
    void log(Severity, const char *text) noexcept override {
        const std::lock_guard<std::mutex> lock(mutex_);
        messages_.emplace_back(text);
    }
    nvinfer1::ILogger *findLogger() override { return this; }
    std::vector<std::string> take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return std::exchange(messages_, {});
    }

  private:
    std::mutex mutex_;
    std::vector<std::string> messages_;
};

PluginLibrary::PluginLibrary(const std::string &path)
    : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)), recorder_(std::make_unique<Recorder>()) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    symbol<void (*)(nvinfer1::ILoggerFinder *)>(handle_, "setLoggerFinder")(recorder_.get());
}

PluginLibrary::~PluginLibrary() {
    symbol<void (*)(nvinfer1::ILoggerFinder *)>(handle_, "setLoggerFinder")(nullptr);
    dlclose(handle_);
}

std::vector<nvinfer1::IPluginCreatorV3One *> PluginLibrary::creators() const {
    using GetCreators = nvinfer1::IPluginCreatorInterface *const *(*)(int32_t &);
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface *const *all = symbol<GetCreators>(handle_, "getCreators")(count);
    std::vector<nvinfer1::IPluginCreatorV3One *> creators;
    for (int32_t i = 0; i < count; ++i) {
        if (std::strcmp(all[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0)
            throw std::runtime_error("a creator is no IPluginCreatorV3One");
        creators.push_back(static_cast<nvinfer1::IPluginCreatorV3One *>(all[i]));
    }
    return creators;
}

nvinfer1::IPluginCreatorV3One &PluginLibrary::creator(const std::string &op) const {
    for (nvinfer1::IPluginCreatorV3One *creator : creators())
        if (op == creator->getPluginName()) return *creator;
    throw std::runtime_error("the plugin library has no creator named '" + op + "'");
}

std::vector<std::string> PluginLibrary::take_messages() { return recorder_->take(); }

void FieldList::add_integers(const std::string &name, const std::vector<int32_t> &values) {
    add(name, PluginFieldType::kINT32, values.data(), values.size() * sizeof(int32_t),
        static_cast<int32_t>(values.size()));
}

void FieldList::add_real(const std::string &name, float value) {
    add(name, PluginFieldType::kFLOAT32, &value, sizeof value, 1);
}

void FieldList::add_word(const std::string &name, const std::string &word) {
    add(name, PluginFieldType::kCHAR, word.c_str(), word.size() + 1, static_cast<int32_t>(word.size()));
}

void FieldList::add(const std::string &name, PluginFieldType type, const void *data, size_t bytes, int32_t length) {
    const char *start = static_cast<const char *>(data);
    fields_.push_back({name, type, length, {start, start + bytes}});
}

nvinfer1::PluginFieldCollection FieldList::collection() const {
    view_.clear();
    for (const Field &field : fields_)
        view_.emplace_back(field.name.c_str(), field.bytes.data(), field.type, field.length);
    return {static_cast<int32_t>(view_.size()), view_.data()};
}

std::unique_ptr<DrivenPlugin> DrivenPlugin::create(nvinfer1::IPluginCreatorV3One &creator,
                                                   const nvinfer1::PluginFieldCollection &fields,
                                                   nvinfer1::TensorRTPhase phase) {
    nvinfer1::IPluginV3 *plugin = creator.createPlugin("driven", &fields, phase);
    return plugin == nullptr ? nullptr : std::unique_ptr<DrivenPlugin>(new DrivenPlugin(creator, plugin));
}

std::unique_ptr<DrivenPlugin> DrivenPlugin::wrap(nvinfer1::IPluginV3 *plugin) const {
    return plugin == nullptr ? nullptr : std::unique_ptr<DrivenPlugin>(new DrivenPlugin(creator_, plugin));
}

std::unique_ptr<DrivenPlugin> DrivenPlugin::clone() const { return wrap(plugin_->clone()); }

std::unique_ptr<DrivenPlugin> DrivenPlugin::deserialise() const {
    const nvinfer1::PluginFieldCollection *fields = runtime().getFieldsToSerialize();
    return fields == nullptr ? nullptr : create(creator_, *fields, nvinfer1::TensorRTPhase::kRUNTIME);
}

std::unique_ptr<DrivenPlugin> DrivenPlugin::attach() const { return wrap(runtime().attachToContext(nullptr)); }

template <typename Capability> Capability &DrivenPlugin::as(nvinfer1::PluginCapabilityType type) const {
    nvinfer1::IPluginCapability *capability = plugin_->getCapabilityInterface(type);
    if (capability == nullptr)
        throw std::runtime_error("the plugin lacks capability " + std::to_string(static_cast<int>(type)));
    return static_cast<Capability &>(*capability);
}

nvinfer1::IPluginV3OneBuildV2 &DrivenPlugin::build() const {
    return as<nvinfer1::IPluginV3OneBuildV2>(nvinfer1::PluginCapabilityType::kBUILD);
}

nvinfer1::IPluginV3OneRuntime &DrivenPlugin::runtime() const {
    return as<nvinfer1::IPluginV3OneRuntime>(nvinfer1::PluginCapabilityType::kRUNTIME);
}

int32_t DrivenPlugin::output_count() const { return build().getNbOutputs(); }

int32_t DrivenPlugin::output_types(const std::vector<DataType> &inputs, std::vector<DataType> &outputs) const {
    outputs.resize(static_cast<size_t>(output_count()));
    return build().getOutputDataTypes(outputs.data(), output_count(), inputs.data(),
                                      static_cast<int32_t>(inputs.size()));
}

int32_t DrivenPlugin::output_shapes(const std::vector<Tensor> &inputs, int64_t steps,
                                    std::vector<std::vector<int64_t>> &outputs) const {
    Expressions expressions;
    std::vector<nvinfer1::DimsExprs> in(inputs.size());
    std::vector<nvinfer1::DimsExprs> out(static_cast<size_t>(output_count()));
    for (size_t i = 0; i < inputs.size(); ++i) {
        in[i].nbDims = static_cast<int32_t>(inputs[i].dims.size());
        for (size_t axis = 0; axis < inputs[i].dims.size(); ++axis) {
            const int64_t length = inputs[i].dims[axis];
            in[i].d[axis] = length < 0 ? expressions.unknown(steps) : expressions.constant(length);
        }
    }
    const int32_t status = build().getOutputShapes(in.data(), static_cast<int32_t>(in.size()), nullptr, 0, out.data(),
                                                   output_count(), expressions.builder());
    outputs.clear();
    for (size_t i = 0; status == 0 && i < out.size(); ++i) {
        outputs.emplace_back();
        for (int32_t axis = 0; axis < out[i].nbDims; ++axis)
            outputs.back().push_back(expressions.value(*out[i].d[axis]));
    }
    return status;
}

bool DrivenPlugin::supports(int32_t position, const std::vector<Tensor> &inputs,
                            const std::vector<Tensor> &outputs) const {
    std::vector<DynamicPluginTensorDesc> all = ranges_of(inputs, inputs);
    for (const DynamicPluginTensorDesc &range : ranges_of(outputs, outputs)) all.push_back(range);
    return build().supportsFormatCombination(position, all.data(), static_cast<int32_t>(inputs.size()),
                                             static_cast<int32_t>(outputs.size()));
}

int32_t DrivenPlugin::configure(const std::vector<Tensor> &least_inputs, const std::vector<Tensor> &most_inputs,
                                const std::vector<Tensor> &least_outputs,
                                const std::vector<Tensor> &most_outputs) const {
    const auto inputs = ranges_of(least_inputs, most_inputs), outputs = ranges_of(least_outputs, most_outputs);
    return build().configurePlugin(inputs.data(), static_cast<int32_t>(inputs.size()), outputs.data(),
                                   static_cast<int32_t>(outputs.size()));
}

size_t DrivenPlugin::workspace(const std::vector<Tensor> &most_inputs, const std::vector<Tensor> &most_outputs) const {
    const auto inputs = ranges_of(most_inputs, most_inputs), outputs = ranges_of(most_outputs, most_outputs);
    return build().getWorkspaceSize(inputs.data(), static_cast<int32_t>(inputs.size()), outputs.data(),
                                    static_cast<int32_t>(outputs.size()));
}

int32_t DrivenPlugin::aliased_input(int32_t output) const { return build().getAliasedInput(output); }

int32_t DrivenPlugin::shape_change(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const {
    const auto in = descs_of(inputs), out = descs_of(outputs);
    return runtime().onShapeChange(in.data(), static_cast<int32_t>(in.size()), out.data(),
                                   static_cast<int32_t>(out.size()));
}

int32_t DrivenPlugin::enqueue(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs, void *workspace,
                              cudaStream_t stream) const {
    std::vector<const void *> in;
    std::vector<void *> out;
    for (const Tensor &tensor : inputs) in.push_back(tensor.data);
    for (const Tensor &tensor : outputs) out.push_back(tensor.data);
    return runtime().enqueue(descs_of(inputs).data(), descs_of(outputs).data(), in.data(), out.data(), workspace,
                             stream);
}

std::vector<std::string> DrivenPlugin::serialised() const {
    const nvinfer1::PluginFieldCollection *fields = runtime().getFieldsToSerialize();
    std::vector<std::string> lines;
    for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) lines.push_back(text_of(fields->fields[i]));
    return lines;
}

} // namespace retentive::harness
