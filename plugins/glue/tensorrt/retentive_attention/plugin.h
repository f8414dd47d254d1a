/* RetentiveAttention as a TensorRT plugin; see README.md. */
#ifndef RETENTIVE_TENSORRT_RETENTIVE_ATTENTION_PLUGIN_H_
#define RETENTIVE_TENSORRT_RETENTIVE_ATTENTION_PLUGIN_H_

#include "common/plugin.h"

namespace retentive::tensorrt {

class RetentiveAttention final : public Plugin {
  public:
    static constexpr const char *op = "RetentiveAttention";

    RetentiveAttention(const char *layer, const Attributes &attributes);

  protected:
    std::unique_ptr<Plugin> copy() const override;
    size_t workspace(int32_t steps) const override;
    int32_t launch(int32_t steps, const Bindings &bindings, const Workspace &workspace,
                   cudaStream_t stream) const override;
};

/* The creator that TensorRT's registry gets. */
nvinfer1::IPluginCreatorV3One &retentive_attention_creator();

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_RETENTIVE_ATTENTION_PLUGIN_H_ */
