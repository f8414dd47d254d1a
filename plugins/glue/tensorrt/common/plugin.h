/* What the three plugins share: the whole IPluginV3 interface, driven by the operator's signature. An operator adds its
 * name, its signature, its workspace and its launch. */
#ifndef RETENTIVE_TENSORRT_PLUGIN_H_
#define RETENTIVE_TENSORRT_PLUGIN_H_

#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

#include "common/attributes.h"
#include "common/logging.h"
#include "common/tensors.h"

namespace retentive::tensorrt {

constexpr const char *plugin_version = "1";
constexpr const char *plugin_namespace = "com.retentivekv";

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuildV2,
               public nvinfer1::IPluginV3OneRuntime {
  public:
    Plugin(const char *op, const char *layer, const Attributes &attributes, Signature signature);

    // IPluginV3
    nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3 *clone() noexcept override;

    // Core
    const char *getPluginName() const noexcept override { return op_; }
    const char *getPluginVersion() const noexcept override { return plugin_version; }
    const char *getPluginNamespace() const noexcept override { return plugin_namespace; }

    // Build
    int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(signature_.outputs.size()); }
    int32_t getOutputDataTypes(nvinfer1::DataType *types, int32_t output_count, const nvinfer1::DataType *input_types,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs *inputs, int32_t input_count,
                            const nvinfer1::DimsExprs *shape_inputs, int32_t shape_input_count,
                            nvinfer1::DimsExprs *outputs, int32_t output_count,
                            nvinfer1::IExprBuilder &builder) noexcept override;
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc *tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc *inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc *outputs, int32_t output_count) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc *inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc *outputs,
                            int32_t output_count) const noexcept override;

    // Runtime
    int32_t onShapeChange(const nvinfer1::PluginTensorDesc *inputs, int32_t input_count,
                          const nvinfer1::PluginTensorDesc *outputs, int32_t output_count) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc *input_descs, const nvinfer1::PluginTensorDesc *output_descs,
                    const void *const *inputs, void *const *outputs, void *workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *context) noexcept override;
    const nvinfer1::PluginFieldCollection *getFieldsToSerialize() noexcept override;

  protected:
    /* The memory of one call; its size is what workspace() says for these steps. */
    struct Workspace {
        void *data;
        size_t bytes;
    };

    virtual std::unique_ptr<Plugin> copy() const = 0;
    /* Bytes of device memory for `steps` tokens or fewer. */
    virtual size_t workspace(int32_t steps) const = 0;
    /* RetentiveStatus; on failure retentive_message() has the reason. */
    virtual int32_t launch(int32_t steps, const Bindings &bindings, const Workspace &workspace,
                           cudaStream_t stream) const = 0;

    const Attributes &attributes() const { return attributes_; }
    const Signature &signature() const { return signature_; }
    const char *layer() const { return layer_.c_str(); }

  private:
    Caller caller(const char *method) const { return {op_, layer_.c_str(), method}; }
    void check_counts(int32_t input_count, int32_t output_count) const;
    int32_t check_call(const nvinfer1::PluginTensorDesc *inputs, const nvinfer1::PluginTensorDesc *outputs) const;

    const char *op_;
    std::string layer_; /* the name that TensorRT gave the layer; for messages alone */
    Attributes attributes_;
    Signature signature_;
    std::vector<nvinfer1::PluginField> serialised_;
    nvinfer1::PluginFieldCollection collection_{};
};

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_PLUGIN_H_ */
