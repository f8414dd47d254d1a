/* The driver behind a C ABI, for tests in Python (tests/plugins/plugin_driver.py). Handles are opaque; a call that
 * fails in the driver itself, not in the plugin, gives NULL or -1 and leaves its reason in driver_error(). */
#ifndef RETENTIVE_HARNESS_PLUGIN_DRIVER_ABI_H_
#define RETENTIVE_HARNESS_PLUGIN_DRIVER_ABI_H_

#include <stddef.h>
#include <stdint.h>

#include "retentive/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* nvinfer1::PluginField. */
typedef struct DriverField {
    const char *name;
    const void *data;
    int32_t type; /* nvinfer1::PluginFieldType */
    int32_t length;
} DriverField;

/* nvinfer1::PluginTensorDesc and the address. A dimension of -1 is T. */
typedef struct DriverTensor {
    int32_t type;   /* nvinfer1::DataType */
    int32_t format; /* nvinfer1::TensorFormat */
    int32_t rank;
    int64_t dims[8];
    void *data;
} DriverTensor;

/* What is offered to a plugin in one call. */
typedef struct DriverTensors {
    int32_t inputs;
    int32_t outputs;
    const DriverTensor *tensors; /* inputs, then outputs */
} DriverTensors;

/* What the last failing call said; never NULL. */
RETENTIVE_EXPORT const char *driver_error(void);

RETENTIVE_EXPORT void *driver_open(const char *path);
RETENTIVE_EXPORT void driver_close(void *library);
/* A line "op version namespace" for each creator, then one "  name type length" for each of its attributes. */
RETENTIVE_EXPORT const char *driver_creators(void *library);
/* What was logged since the last call, a message a line. */
RETENTIVE_EXPORT const char *driver_messages(void *library);

/* phase: nvinfer1::TensorRTPhase. NULL when the creator refused. */
RETENTIVE_EXPORT void *driver_create(void *library, const char *op, const DriverField *fields, int32_t count,
                                     int32_t phase);
RETENTIVE_EXPORT void *driver_clone(void *plugin);
RETENTIVE_EXPORT void *driver_deserialise(void *plugin);
RETENTIVE_EXPORT void *driver_attach(void *plugin);
RETENTIVE_EXPORT void driver_destroy(void *plugin);

/* The plugin's own answers: 0 is success unless said otherwise. */
RETENTIVE_EXPORT int32_t driver_output_count(void *plugin);
RETENTIVE_EXPORT int32_t driver_output_types(void *plugin, DriverTensors inputs, int32_t *types);
/* `outputs`: rank and dims are filled in, for T = steps. */
RETENTIVE_EXPORT int32_t driver_output_shapes(void *plugin, DriverTensors inputs, int64_t steps, DriverTensor *outputs);
/* 1 when supported. */
RETENTIVE_EXPORT int32_t driver_supports(void *plugin, DriverTensors tensors, int32_t position);
RETENTIVE_EXPORT int32_t driver_configure(void *plugin, DriverTensors least, DriverTensors most);
RETENTIVE_EXPORT int64_t driver_workspace(void *plugin, DriverTensors most);
RETENTIVE_EXPORT int32_t driver_aliased_input(void *plugin, int32_t output);
RETENTIVE_EXPORT int32_t driver_shape_change(void *plugin, DriverTensors tensors);
RETENTIVE_EXPORT int32_t driver_enqueue(void *plugin, DriverTensors tensors, void *workspace, void *stream);
/* "name=values" of each serialised field, a field a line. */
RETENTIVE_EXPORT const char *driver_serialised(void *plugin);

#ifdef __cplusplus
}
#endif

#endif /* RETENTIVE_HARNESS_PLUGIN_DRIVER_ABI_H_ */
