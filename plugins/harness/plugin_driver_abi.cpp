#include "plugin_driver_abi.h"

#include <exception>
#include <string>
#include <vector>

#include "plugin_driver.h"

namespace {

using retentive::harness::DrivenPlugin;
using retentive::harness::PluginLibrary;
using retentive::harness::Tensor;

thread_local std::string error_text;
thread_local std::string answer;

/* body(), or `failure` with the reason kept for driver_error(). */
template <typename Result, typename Body> Result attempt(Result failure, Body &&body) {
    try {
        return body();
    } catch (const std::exception &error) {
        error_text = error.what();
    }
    return failure;
}

const char *lines(const std::vector<std::string> &texts) {
    answer.clear();
    for (const std::string &text : texts) answer += text + "\n";
    return answer.c_str();
}

std::vector<Tensor> tensors_of(const DriverTensor *first, int32_t count) {
    std::vector<Tensor> tensors;
    for (const DriverTensor *tensor = first; tensor != first + count; ++tensor)
        tensors.push_back({static_cast<nvinfer1::DataType>(tensor->type),
                           {tensor->dims, tensor->dims + tensor->rank},
                           tensor->data,
                           static_cast<nvinfer1::TensorFormat>(tensor->format)});
    return tensors;
}

std::vector<Tensor> inputs_of(const DriverTensors &all) { return tensors_of(all.tensors, all.inputs); }
std::vector<Tensor> outputs_of(const DriverTensors &all) { return tensors_of(all.tensors + all.inputs, all.outputs); }

PluginLibrary &library_of(void *library) { return *static_cast<PluginLibrary *>(library); }
DrivenPlugin &plugin_of(void *plugin) { return *static_cast<DrivenPlugin *>(plugin); }

} // namespace

const char *driver_error(void) { return error_text.c_str(); }

void *driver_open(const char *path) {
    return attempt<void *>(nullptr, [&] { return new PluginLibrary(path); });
}

void driver_close(void *library) { delete static_cast<PluginLibrary *>(library); }

const char *driver_creators(void *library) {
    return attempt<const char *>(nullptr, [&] {
        std::vector<std::string> texts;
        for (nvinfer1::IPluginCreatorV3One *creator : library_of(library).creators()) {
            texts.push_back(std::string(creator->getPluginName()) + " " + creator->getPluginVersion() + " " +
                            creator->getPluginNamespace());
            const nvinfer1::PluginFieldCollection &names = *creator->getFieldNames();
            for (int32_t i = 0; i < names.nbFields; ++i)
                texts.push_back("  " + std::string(names.fields[i].name) + " " +
                                std::to_string(static_cast<int32_t>(names.fields[i].type)) + " " +
                                std::to_string(names.fields[i].length));
        }
        return lines(texts);
    });
}

const char *driver_messages(void *library) { return lines(library_of(library).take_messages()); }

void *driver_create(void *library, const char *op, const DriverField *fields, int32_t count, int32_t phase) {
    return attempt<void *>(nullptr, [&] {
        std::vector<nvinfer1::PluginField> list;
        for (const DriverField *field = fields; field != fields + count; ++field)
            list.emplace_back(field->name, field->data, static_cast<nvinfer1::PluginFieldType>(field->type),
                              field->length);
        return DrivenPlugin::create(library_of(library).creator(op), {count, list.data()},
                                    static_cast<nvinfer1::TensorRTPhase>(phase))
            .release();
    });
}

void *driver_clone(void *plugin) {
    return attempt<void *>(nullptr, [&] { return plugin_of(plugin).clone().release(); });
}

void *driver_deserialise(void *plugin) {
    return attempt<void *>(nullptr, [&] { return plugin_of(plugin).deserialise().release(); });
}

void *driver_attach(void *plugin) {
    return attempt<void *>(nullptr, [&] { return plugin_of(plugin).attach().release(); });
}

void driver_destroy(void *plugin) { delete static_cast<DrivenPlugin *>(plugin); }

int32_t driver_output_count(void *plugin) {
    return attempt<int32_t>(-1, [&] { return plugin_of(plugin).output_count(); });
}

int32_t driver_output_types(void *plugin, DriverTensors inputs, int32_t *types) {
    return attempt<int32_t>(-1, [&] {
        std::vector<nvinfer1::DataType> offered, answers;
        for (const Tensor &tensor : inputs_of(inputs)) offered.push_back(tensor.type);
        const int32_t status = plugin_of(plugin).output_types(offered, answers);
        for (size_t i = 0; status == 0 && i < answers.size(); ++i) types[i] = static_cast<int32_t>(answers[i]);
        return status;
    });
}

int32_t driver_output_shapes(void *plugin, DriverTensors inputs, int64_t steps, DriverTensor *outputs) {
    return attempt<int32_t>(-1, [&] {
        std::vector<std::vector<int64_t>> shapes;
        const int32_t status = plugin_of(plugin).output_shapes(inputs_of(inputs), steps, shapes);
        for (size_t i = 0; i < shapes.size(); ++i) {
            outputs[i].rank = static_cast<int32_t>(shapes[i].size());
            for (size_t axis = 0; axis < shapes[i].size(); ++axis) outputs[i].dims[axis] = shapes[i][axis];
        }
        return status;
    });
}

int32_t driver_supports(void *plugin, DriverTensors tensors, int32_t position) {
    return attempt<int32_t>(
        -1, [&] { return plugin_of(plugin).supports(position, inputs_of(tensors), outputs_of(tensors)) ? 1 : 0; });
}

int32_t driver_configure(void *plugin, DriverTensors least, DriverTensors most) {
    return attempt<int32_t>(-1, [&] {
        return plugin_of(plugin).configure(inputs_of(least), inputs_of(most), outputs_of(least), outputs_of(most));
    });
}

int64_t driver_workspace(void *plugin, DriverTensors most) {
    return attempt<int64_t>(
        -1, [&] { return static_cast<int64_t>(plugin_of(plugin).workspace(inputs_of(most), outputs_of(most))); });
}

int32_t driver_aliased_input(void *plugin, int32_t output) {
    return attempt<int32_t>(-2, [&] { return plugin_of(plugin).aliased_input(output); });
}

int32_t driver_shape_change(void *plugin, DriverTensors tensors) {
    return attempt<int32_t>(-1,
                            [&] { return plugin_of(plugin).shape_change(inputs_of(tensors), outputs_of(tensors)); });
}

int32_t driver_enqueue(void *plugin, DriverTensors tensors, void *workspace, void *stream) {
    return attempt<int32_t>(-1, [&] {
        return plugin_of(plugin).enqueue(inputs_of(tensors), outputs_of(tensors), workspace,
                                         static_cast<cudaStream_t>(stream));
    });
}

const char *driver_serialised(void *plugin) {
    return attempt<const char *>(nullptr, [&] { return lines(plugin_of(plugin).serialised()); });
}
