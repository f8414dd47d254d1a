#include "common/attributes.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>

#include "common/logging.h"
#include "retentive/validate.h"

namespace retentive::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

/* A word that stands for a number of an enum in params.h. */
struct Choice {
    const char *word;
    int32_t value;
};

constexpr Choice float_types[] = {
    {"float32", RETENTIVE_FLOAT32}, {"float16", RETENTIVE_FLOAT16}, {"bfloat16", RETENTIVE_BFLOAT16}, {nullptr, 0}};
constexpr Choice code_types[] = {{"int8", RETENTIVE_INT8}, {"int4", RETENTIVE_INT4}, {nullptr, 0}};
constexpr Choice stores[] = {{"exact", RETENTIVE_STORE_EXACT}, {"coarse", RETENTIVE_STORE_COARSE}, {nullptr, 0}};
constexpr Choice readouts[] = {{"mass", RETENTIVE_READOUT_MASS},
                               {"residual", RETENTIVE_READOUT_RESIDUAL},
                               {"none", RETENTIVE_READOUT_NONE},
                               {nullptr, 0}};
constexpr Choice scores[] = {
    {"retention", RETENTIVE_SCORE_RETENTION}, {"recency", RETENTIVE_SCORE_RECENCY}, {nullptr, 0}};

enum class Kind { integer, flag, pair, real, word };

struct Attribute {
    const char *name;
    Kind kind;
    std::size_t offset; /* of the int32_t, int32_t[2] or float in Attributes */
    const Choice *choices = nullptr;
    bool required = true;
};

constexpr Attribute attributes_table[] = {
    {"scale", Kind::real, offsetof(Attributes, scale)},
    {"kv_heads", Kind::integer, offsetof(Attributes, geometry.kv_heads)},
    {"q_heads", Kind::integer, offsetof(Attributes, geometry.q_heads)},
    {"head_dim", Kind::integer, offsetof(Attributes, geometry.head_dim)},
    {"exact_rows", Kind::integer, offsetof(Attributes, geometry.exact_rows)},
    {"batch", Kind::integer, offsetof(Attributes, geometry.batch)},
    {"dtype", Kind::word, offsetof(Attributes, geometry.dtype), float_types},
    {"coarse_rows", Kind::integer, offsetof(Attributes, geometry.coarse_rows)},
    {"coarse_dtype", Kind::word, offsetof(Attributes, geometry.coarse_dtype), code_types},
    {"memory_grid", Kind::pair, offsetof(Attributes, geometry.memory_grid)},
    {"frame_grid", Kind::pair, offsetof(Attributes, geometry.frame_grid)},
    {"recall_rows", Kind::integer, offsetof(Attributes, geometry.recall_rows)},
    {"memory_store", Kind::word, offsetof(Attributes, geometry.memory_store), stores},
    {"sinks", Kind::integer, offsetof(Attributes, geometry.sinks)},
    {"window", Kind::integer, offsetof(Attributes, geometry.window)},
    {"chunk", Kind::integer, offsetof(Attributes, geometry.chunk)},
    {"readout", Kind::word, offsetof(Attributes, geometry.readout), readouts},
    {"track_importance", Kind::flag, offsetof(Attributes, geometry.track_importance)},
    {"track_entropy", Kind::flag, offsetof(Attributes, geometry.track_entropy)},
    {"lambda", Kind::real, offsetof(Attributes, gate.lambda_)},
    {"score", Kind::word, offsetof(Attributes, gate.score), scores},
    {"importance_decay", Kind::real, offsetof(Attributes, gate.importance_decay)},
    {"importance_gain", Kind::real, offsetof(Attributes, gate.importance_gain)},
    {"entropy_decay", Kind::real, offsetof(Attributes, gate.entropy_decay)},
    {"entropy_gain", Kind::real, offsetof(Attributes, gate.entropy_gain)},
    {"retention_gate_enabled", Kind::flag, offsetof(Attributes, gate.retention.enabled)},
    {"retention_gate_weight", Kind::real, offsetof(Attributes, gate.retention.weight)},
    {"retention_gate_bias", Kind::real, offsetof(Attributes, gate.retention.bias)},
    {"absorption_gate_enabled", Kind::flag, offsetof(Attributes, gate.absorption.enabled)},
    {"absorption_gate_weight", Kind::real, offsetof(Attributes, gate.absorption.weight)},
    {"absorption_gate_bias", Kind::real, offsetof(Attributes, gate.absorption.bias)},
    {"readout_gate_enabled", Kind::flag, offsetof(Attributes, gate.readout.enabled)},
    {"readout_gate_weight", Kind::real, offsetof(Attributes, gate.readout.weight)},
    {"readout_gate_bias", Kind::real, offsetof(Attributes, gate.readout.bias)},
    {"beta", Kind::real, offsetof(Attributes, gate.beta)},
    {"declare_alias", Kind::flag, offsetof(Attributes, declare_alias), nullptr, false},
};

template <typename T> T *member(Attributes &attributes, const Attribute &attribute) {
    return reinterpret_cast<T *>(reinterpret_cast<char *>(&attributes) + attribute.offset);
}

template <typename T> const T *member(const Attributes &attributes, const Attribute &attribute) {
    return reinterpret_cast<const T *>(reinterpret_cast<const char *>(&attributes) + attribute.offset);
}

PluginFieldType field_type(Kind kind) {
    return kind == Kind::word   ? PluginFieldType::kCHAR
           : kind == Kind::real ? PluginFieldType::kFLOAT32
                                : PluginFieldType::kINT32;
}

void expect_length(const PluginField &field, int32_t length) {
    if (field.length != length || field.data == nullptr)
        refuse("attribute '%s' has %d values; accepted: %d", field.name, field.data == nullptr ? 0 : field.length,
               length);
}

void read_integers(const PluginField &field, int32_t count, int32_t *result) {
    expect_length(field, count);
    for (int32_t i = 0; i < count; ++i) {
        int64_t value = 0;
        if (field.type == PluginFieldType::kINT32)
            value = static_cast<const int32_t *>(field.data)[i];
        else if (field.type == PluginFieldType::kINT64)
            value = static_cast<const int64_t *>(field.data)[i];
        else
            refuse("attribute '%s' has field type %d; accepted: an integer (kINT32 or kINT64)", field.name,
                   static_cast<int>(field.type));
        if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
            refuse("attribute '%s' is %lld; accepted: a 32-bit integer", field.name, static_cast<long long>(value));
        result[i] = static_cast<int32_t>(value);
    }
}

void read_flag(const PluginField &field, int32_t *result) {
    read_integers(field, 1, result);
    if (*result != 0 && *result != 1) refuse("attribute '%s' is %d; accepted: 0 or 1", field.name, *result);
}

void read_real(const PluginField &field, float *result) {
    expect_length(field, 1);
    if (field.type == PluginFieldType::kFLOAT32)
        *result = *static_cast<const float *>(field.data);
    else if (field.type == PluginFieldType::kFLOAT64)
        *result = static_cast<float>(*static_cast<const double *>(field.data));
    else
        refuse("attribute '%s' has field type %d; accepted: a number (kFLOAT32 or kFLOAT64)", field.name,
               static_cast<int>(field.type));
    if (!std::isfinite(*result))
        refuse("attribute '%s' is %g; accepted: a finite number", field.name, static_cast<double>(*result));
}

void read_word(const PluginField &field, const Choice *choices, int32_t *result) {
    if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 0)
        refuse("attribute '%s' has field type %d; accepted: a string (kCHAR)", field.name,
               static_cast<int>(field.type));
    const char *text = static_cast<const char *>(field.data);
    const std::string word(text, strnlen(text, static_cast<std::size_t>(field.length))); // NUL-terminated or not
    std::string accepted;
    for (const Choice *choice = choices; choice->word != nullptr; ++choice) {
        if (word == choice->word) {
            *result = choice->value;
            return;
        }
        accepted += std::string(accepted.empty() ? "'" : ", '") + choice->word + "'";
    }
    refuse("attribute '%s' is '%.64s'; accepted: %s", field.name, word.c_str(), accepted.c_str());
}

void read(const PluginField &field, const Attribute &attribute, Attributes &result) {
    switch (attribute.kind) {
    case Kind::integer: return read_integers(field, 1, member<int32_t>(result, attribute));
    case Kind::pair: return read_integers(field, 2, member<int32_t>(result, attribute));
    case Kind::flag: return read_flag(field, member<int32_t>(result, attribute));
    case Kind::real: return read_real(field, member<float>(result, attribute));
    case Kind::word: return read_word(field, attribute.choices, member<int32_t>(result, attribute));
    }
}

const PluginField *find(const nvinfer1::PluginFieldCollection &fields, const char *name) {
    for (int32_t i = 0; i < fields.nbFields; ++i)
        if (fields.fields[i].name != nullptr && std::strcmp(fields.fields[i].name, name) == 0) return &fields.fields[i];
    return nullptr;
}

const char *word_of(const Choice *choices, int32_t value) {
    while (choices->value != value) ++choices;
    return choices->word;
}

} // namespace

std::vector<PluginField> attribute_names(bool with_alias) {
    std::vector<PluginField> names;
    for (const Attribute &attribute : attributes_table)
        if (attribute.required || with_alias)
            names.emplace_back(attribute.name, nullptr, field_type(attribute.kind),
                               attribute.kind == Kind::pair ? 2 : 1);
    return names;
}

Attributes parse_attributes(const nvinfer1::PluginFieldCollection &fields) {
    if (fields.nbFields < 0 || (fields.nbFields > 0 && fields.fields == nullptr))
        refuse("the field collection has %d fields and no array", fields.nbFields);
    Attributes result{};
    for (const Attribute &attribute : attributes_table) {
        const PluginField *field = find(fields, attribute.name);
        if (field != nullptr)
            read(*field, attribute, result);
        else if (attribute.required)
            refuse("attribute '%s' is missing; the node must carry all attributes of retentive_export's contract",
                   attribute.name);
    }
    if (check(result.geometry, true) != RETENTIVE_OK || check(result.gate) != RETENTIVE_OK) refuse("%s", message());
    return result;
}

std::vector<PluginField> serialise_attributes(const Attributes &attributes) {
    std::vector<PluginField> fields = attribute_names(true);
    for (std::size_t i = 0; i < fields.size(); ++i) {
        const Attribute &attribute = attributes_table[i];
        fields[i].data = member<char>(attributes, attribute);
        if (attribute.kind == Kind::word) {
            const char *word = word_of(attribute.choices, *member<int32_t>(attributes, attribute));
            fields[i].data = word;
            fields[i].length = static_cast<int32_t>(std::strlen(word)) + 1;
        }
    }
    return fields;
}

} // namespace retentive::tensorrt
