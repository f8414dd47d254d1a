/* What TensorRT looks for in a plugin library: its creators, and a place to leave its logger. */
#include "common/logging.h"
#include "entropy_gate/plugin.h"
#include "retentive/launch.h"
#include "retentive_attention/plugin.h"
#include "state_transition/plugin.h"

extern "C" RETENTIVE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder *finder) {
    retentive::tensorrt::set_logger_finder(finder);
}

extern "C" RETENTIVE_EXPORT nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
    static nvinfer1::IPluginCreatorInterface *const creators[] = {
        &retentive::tensorrt::retentive_attention_creator(),
        &retentive::tensorrt::entropy_gate_creator(),
        &retentive::tensorrt::state_transition_creator(),
    };
    count = 3;
    return creators;
}
