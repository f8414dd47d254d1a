#include "common/creator.h"
#include "retentive_attention/plugin.h"

namespace retentive::tensorrt {
namespace {

class RetentiveAttentionCreator final : public Creator {
  public:
    RetentiveAttentionCreator() : Creator(/*with_alias=*/false) {}

    const char *getPluginName() const noexcept override { return RetentiveAttention::op; }

  protected:
    std::unique_ptr<Plugin> make(const char *layer, const Attributes &attributes) const override {
        return std::make_unique<RetentiveAttention>(layer, attributes);
    }
};

} // namespace

nvinfer1::IPluginCreatorV3One &retentive_attention_creator() {
    static RetentiveAttentionCreator creator;
    return creator;
}

} // namespace retentive::tensorrt
