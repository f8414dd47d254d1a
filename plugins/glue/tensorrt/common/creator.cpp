#include "common/creator.h"

#include "common/logging.h"

namespace retentive::tensorrt {

Creator::Creator(bool with_alias)
    : names_(attribute_names(with_alias)), collection_{static_cast<int32_t>(names_.size()), names_.data()} {}

nvinfer1::IPluginV3 *Creator::createPlugin(const char *layer, const nvinfer1::PluginFieldCollection *fields,
                                           nvinfer1::TensorRTPhase) noexcept {
    const Caller caller{getPluginName(), layer, "createPlugin"};
    return guarded<nvinfer1::IPluginV3 *>(caller, nullptr, [&]() -> nvinfer1::IPluginV3 * {
        if (fields == nullptr) refuse("the field collection is a null pointer");
        return make(layer, parse_attributes(*fields)).release();
    });
}

} // namespace retentive::tensorrt
