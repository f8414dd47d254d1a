#include "common/creator.h"
#include "entropy_gate/plugin.h"

namespace retentive::tensorrt {
namespace {

class EntropyGateCreator final : public Creator {
  public:
    EntropyGateCreator() : Creator(/*with_alias=*/false) {}

    const char *getPluginName() const noexcept override { return EntropyGate::op; }

  protected:
    std::unique_ptr<Plugin> make(const char *layer, const Attributes &attributes) const override {
        return std::make_unique<EntropyGate>(layer, attributes);
    }
};

} // namespace

nvinfer1::IPluginCreatorV3One &entropy_gate_creator() {
    static EntropyGateCreator creator;
    return creator;
}

} // namespace retentive::tensorrt
