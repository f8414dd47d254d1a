/* Attributes of a node: retentive_export/ops/contract.py, attributes(), as plain structs and back. */
#ifndef RETENTIVE_TENSORRT_ATTRIBUTES_H_
#define RETENTIVE_TENSORRT_ATTRIBUTES_H_

#include <vector>

#include <NvInferRuntime.h>

#include "retentive/params.h"

namespace retentive::tensorrt {

/* Everything constant in one layer's step. */
struct Attributes {
    RetentiveGeometry geometry;
    RetentiveGate gate;
    float scale;           /* factor on q k^T */
    int32_t declare_alias; /* StateTransition: tell TensorRT's builder that the state is updated in place */
};

/* Names and types of all attributes, for IPluginCreatorV3One::getFieldNames; declare_alias where the operator has it. */
std::vector<nvinfer1::PluginField> attribute_names(bool with_alias);

/* Attributes from a node or from a serialised engine. Every attribute is required, except declare_alias, which is 0 when
 * absent. Throws PluginError with the attribute, its value and what is accepted. */
Attributes parse_attributes(const nvinfer1::PluginFieldCollection &fields);

/* The same attributes as fields, all of them, which point into `attributes`. parse_attributes() of them gives an equal
 * struct. */
std::vector<nvinfer1::PluginField> serialise_attributes(const Attributes &attributes);

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_ATTRIBUTES_H_ */
