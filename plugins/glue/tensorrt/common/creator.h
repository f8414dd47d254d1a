/* The creator of a plugin class: everything but its name. */
#ifndef RETENTIVE_TENSORRT_CREATOR_H_
#define RETENTIVE_TENSORRT_CREATOR_H_

#include <memory>
#include <vector>

#include "common/plugin.h"

namespace retentive::tensorrt {

class Creator : public nvinfer1::IPluginCreatorV3One {
  public:
    /* `with_alias`: the operator has the attribute declare_alias. */
    explicit Creator(bool with_alias);

    /* Logs which attribute is wrong and returns nullptr when no plugin can be made. The phases do not differ: a
     * serialised plugin carries the attributes of its node. */
    nvinfer1::IPluginV3 *createPlugin(const char *layer, const nvinfer1::PluginFieldCollection *fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    const nvinfer1::PluginFieldCollection *getFieldNames() noexcept override { return &collection_; }
    const char *getPluginVersion() const noexcept override { return plugin_version; }
    const char *getPluginNamespace() const noexcept override { return plugin_namespace; }

  protected:
    virtual std::unique_ptr<Plugin> make(const char *layer, const Attributes &attributes) const = 0;

  private:
    std::vector<nvinfer1::PluginField> names_;
    nvinfer1::PluginFieldCollection collection_;
};

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_CREATOR_H_ */
