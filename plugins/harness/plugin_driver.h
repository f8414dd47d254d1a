/* Drives the real creators and plugin objects of libretentive_plugins.so through their TensorRT interface, in the order
 * in which TensorRT does it, with no libnvinfer. The library is opened with dlopen, as TensorRT opens it. */
#ifndef RETENTIVE_HARNESS_PLUGIN_DRIVER_H_
#define RETENTIVE_HARNESS_PLUGIN_DRIVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

namespace retentive::harness {

/* One tensor offered to a plugin; a dimension of -1 is T, not known while building. `data` is read by enqueue alone. */
struct Tensor {
    nvinfer1::DataType type;
    std::vector<int64_t> dims;
    void *data = nullptr;
    nvinfer1::TensorFormat format = nvinfer1::TensorFormat::kLINEAR;
};

/* A plugin library as TensorRT loads it, with a logger that keeps what it is told. */
class PluginLibrary {
  public:
    /* Throws std::runtime_error when the library or a symbol of the protocol is missing. */
    explicit PluginLibrary(const std::string &path);
    ~PluginLibrary();
    PluginLibrary(const PluginLibrary &) = delete;
    PluginLibrary &operator=(const PluginLibrary &) = delete;

    std::vector<nvinfer1::IPluginCreatorV3One *> creators() const;
    /* Throws std::runtime_error when there is no creator of that name. */
    nvinfer1::IPluginCreatorV3One &creator(const std::string &op) const;
    /* What was logged since the last call. */
    std::vector<std::string> take_messages();

  private:
    class Recorder;

    void *handle_;
    std::unique_ptr<Recorder> recorder_;
};

/* Attributes of a node, as TensorRT's ONNX parser hands them over. Owns what the fields point to. */
class FieldList {
  public:
    void add_integers(const std::string &name, const std::vector<int32_t> &values);
    void add_real(const std::string &name, float value);
    void add_word(const std::string &name, const std::string &word);
    nvinfer1::PluginFieldCollection collection() const;

  private:
    struct Field {
        std::string name;
        nvinfer1::PluginFieldType type;
        int32_t length;
        std::vector<char> bytes;
    };
    void add(const std::string &name, nvinfer1::PluginFieldType type, const void *data, size_t bytes, int32_t length);

    std::vector<Field> fields_;
    mutable std::vector<nvinfer1::PluginField> view_;
};

/* One plugin object. The calls return what the plugin returned: 0 is success. */
class DrivenPlugin {
  public:
    /* nullptr when the creator refused. */
    static std::unique_ptr<DrivenPlugin> create(nvinfer1::IPluginCreatorV3One &creator,
                                                const nvinfer1::PluginFieldCollection &fields,
                                                nvinfer1::TensorRTPhase phase);
    /* Plugins made as TensorRT makes them later: a copy while building; from the serialised fields when an engine is
     * loaded; attached to an execution context. nullptr on failure. */
    std::unique_ptr<DrivenPlugin> clone() const;
    std::unique_ptr<DrivenPlugin> deserialise() const;
    std::unique_ptr<DrivenPlugin> attach() const;

    int32_t output_count() const;
    int32_t output_types(const std::vector<nvinfer1::DataType> &inputs, std::vector<nvinfer1::DataType> &outputs) const;
    /* Dimensions of the outputs when T is `steps`; dimensions of -1 in `inputs` are T. */
    int32_t output_shapes(const std::vector<Tensor> &inputs, int64_t steps,
                          std::vector<std::vector<int64_t>> &outputs) const;
    bool supports(int32_t position, const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const;
    /* A profile whose smallest and largest shapes are these. */
    int32_t configure(const std::vector<Tensor> &least_inputs, const std::vector<Tensor> &most_inputs,
                      const std::vector<Tensor> &least_outputs, const std::vector<Tensor> &most_outputs) const;
    size_t workspace(const std::vector<Tensor> &most_inputs, const std::vector<Tensor> &most_outputs) const;
    int32_t aliased_input(int32_t output) const;
    int32_t shape_change(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const;
    int32_t enqueue(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs, void *workspace,
                    cudaStream_t stream) const;
    /* "name=values" of each serialised field. */
    std::vector<std::string> serialised() const;

  private:
    DrivenPlugin(nvinfer1::IPluginCreatorV3One &creator, nvinfer1::IPluginV3 *plugin)
        : creator_(creator), plugin_(plugin) {}
    std::unique_ptr<DrivenPlugin> wrap(nvinfer1::IPluginV3 *plugin) const;
    template <typename Capability> Capability &as(nvinfer1::PluginCapabilityType type) const;
    nvinfer1::IPluginV3OneBuildV2 &build() const;
    nvinfer1::IPluginV3OneRuntime &runtime() const;

    nvinfer1::IPluginCreatorV3One &creator_;
    std::unique_ptr<nvinfer1::IPluginV3> plugin_;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_PLUGIN_DRIVER_H_ */
