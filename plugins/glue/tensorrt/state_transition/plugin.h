/* StateTransition as a TensorRT plugin; see README.md. */
#ifndef RETENTIVE_TENSORRT_STATE_TRANSITION_PLUGIN_H_
#define RETENTIVE_TENSORRT_STATE_TRANSITION_PLUGIN_H_

#include "common/plugin.h"

namespace retentive::tensorrt {

class StateTransition final : public Plugin {
  public:
    static constexpr const char *op = "StateTransition";

    StateTransition(const char *layer, const Attributes &attributes);

    /* With declare_alias: the input that a state output replaces. TensorRT asks only when
     * PreviewFeature::kALIASED_PLUGIN_IO_10_03 is set. */
    int32_t getAliasedInput(int32_t output) noexcept override;

  protected:
    std::unique_ptr<Plugin> copy() const override;
    size_t workspace(int32_t steps) const override;
    int32_t launch(int32_t steps, const Bindings &bindings, const Workspace &workspace,
                   cudaStream_t stream) const override;
};

/* The creator that TensorRT's registry gets. */
nvinfer1::IPluginCreatorV3One &state_transition_creator();

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_STATE_TRANSITION_PLUGIN_H_ */
