#include "common/creator.h"
#include "state_transition/plugin.h"

namespace retentive::tensorrt {
namespace {

class StateTransitionCreator final : public Creator {
  public:
    StateTransitionCreator() : Creator(/*with_alias=*/true) {}

    const char *getPluginName() const noexcept override { return StateTransition::op; }

  protected:
    std::unique_ptr<Plugin> make(const char *layer, const Attributes &attributes) const override {
        return std::make_unique<StateTransition>(layer, attributes);
    }
};

} // namespace

nvinfer1::IPluginCreatorV3One &state_transition_creator() {
    static StateTransitionCreator creator;
    return creator;
}

} // namespace retentive::tensorrt
