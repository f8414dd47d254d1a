/* The operators' parameter structs as calls of the plugins: which tensors, in which order, of which type and shape. */
#ifndef RETENTIVE_HARNESS_PLUGIN_CALLS_H_
#define RETENTIVE_HARNESS_PLUGIN_CALLS_H_

#include <string>
#include <vector>

#include "plugin_driver.h"
#include "retentive/params.h"

namespace retentive::harness {

/* One operator on one layer. */
struct PluginCall {
    std::string op;
    FieldList attributes;
    int32_t chunk;
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;
    void *workspace;
    size_t workspace_bytes;
};

PluginCall plugin_call(const RetentiveAttentionParams &params);
PluginCall plugin_call(const RetentiveGateParams &params);
PluginCall plugin_call(const RetentiveTransitionParams &params);

/* The node's attributes, retentive_export/ops/contract.py. */
FieldList attributes(const RetentiveGeometry &geometry, const RetentiveGate &gate, float scale);

/* The call through a plugin's whole life: created and configured for this T as for building, checked tensor by tensor,
 * cloned, serialised, recreated as for running, attached, enqueued. Throws std::runtime_error with the step that failed
 * and what the plugin logged. */
void run(PluginLibrary &library, const PluginCall &call, cudaStream_t stream);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_PLUGIN_CALLS_H_ */
