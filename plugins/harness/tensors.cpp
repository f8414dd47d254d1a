#include "tensors.h"

#include <cstring>
#include <stdexcept>

#include "numbers.h"
#include "retentive/validate.h"

namespace retentive::harness {
namespace {

size_t find(const TensorSpecs &specs, const std::string &name) {
    size_t i = 0;
    while (i < specs.size() && specs[i].name != name) ++i;
    return i;
}

/* Collects specs of tensors [B, Hkv, ...]. */
class Specs {
  public:
    explicit Specs(const RetentiveGeometry &g) : heads_(static_cast<size_t>(g.batch) * g.kv_heads) {}
    void per_head(const char *name, size_t elements, size_t bytes) { add(name, heads_ * elements * bytes); }
    void add(const char *name, size_t bytes) {
        if (bytes > 0) specs_.push_back({name, bytes});
    }
    TensorSpecs take() { return std::move(specs_); }

  private:
    size_t heads_;
    TensorSpecs specs_;
};

} // namespace

size_t code_bytes(const RetentiveGeometry &g) {
    return static_cast<size_t>(g.coarse_dtype == RETENTIVE_INT4 ? g.head_dim / 2 : g.head_dim);
}

TensorSpecs state_specs(const RetentiveGeometry &g) {
    const size_t dim = g.head_dim, exact = exact_store_rows(g), coarse = coarse_store_rows(g);
    const size_t matrix = g.readout == RETENTIVE_READOUT_RESIDUAL ? dim * dim : 0;
    Specs specs(g);
    specs.per_head("key_rows", exact * dim, element_bytes(g.dtype));
    specs.per_head("value_rows", exact * dim, element_bytes(g.dtype));
    specs.per_head("key_codes", coarse * code_bytes(g), 1);
    specs.per_head("value_codes", coarse * code_bytes(g), 1);
    specs.per_head("value_scale", coarse, 4);
    specs.per_head("row_meta", 2 * static_cast<size_t>(rows(g)), 4);
    if (g.track_importance != 0) specs.per_head("importance", local_rows(g), 4);
    if (g.track_entropy != 0) specs.per_head("entropy", local_rows(g), 4);
    specs.per_head("memory_mass", memory_rows(g), 4);
    specs.per_head("recall_state", matrix, 4);
    specs.per_head("visual_state", matrix, 4);
    return specs.take();
}

TensorSpecs input_specs(const RetentiveGeometry &g, int32_t steps) {
    const size_t tokens = static_cast<size_t>(steps) * g.head_dim;
    Specs specs(g);
    specs.per_head("query", tokens * groups(g), element_bytes(g.dtype));
    specs.per_head("key", tokens, element_bytes(g.dtype));
    specs.per_head("value", tokens, element_bytes(g.dtype));
    specs.add("token_meta", static_cast<size_t>(g.batch) * steps * 2 * 4);
    if (g.coarse_rows > 0) specs.add("key_scale", static_cast<size_t>(g.kv_heads) * g.head_dim * 4);
    return specs.take();
}

TensorSpecs attention_specs(const RetentiveGeometry &g, int32_t steps) {
    const size_t columns = static_cast<size_t>(rows(g)) + steps;
    Specs specs(g);
    specs.per_head("output", static_cast<size_t>(groups(g)) * steps * g.head_dim, element_bytes(g.dtype));
    specs.per_head("received", columns, 4);
    specs.per_head("surprise", columns, 4);
    specs.per_head("visual_entropy", 1, 4);
    return specs.take();
}

TensorSpecs gate_specs(const RetentiveGeometry &g, int32_t steps) {
    const size_t columns = static_cast<size_t>(local_rows(g)) + steps;
    Specs specs(g);
    specs.per_head("victims", static_cast<size_t>(tiers(g)) * steps, 8);
    specs.per_head("importance_next", columns, 4);
    specs.per_head("entropy_next", columns, 4);
    specs.per_head("absorption", steps, 4);
    specs.per_head("retention", 1, 4);
    return specs.take();
}

TensorSpecs step_specs(const RetentiveGeometry &g, int32_t steps) {
    return {attention_specs(g, steps).front(), gate_specs(g, steps).front()};
}

HostTensors::HostTensors(const TensorSpecs &specs) : specs_(specs) {
    for (const TensorSpec &spec : specs_) data_.push_back(std::make_unique<unsigned char[]>(spec.bytes));
}

HostTensors HostTensors::copy() const {
    HostTensors twin(specs_);
    for (size_t i = 0; i < specs_.size(); ++i) std::memcpy(twin.data_[i].get(), data_[i].get(), specs_[i].bytes);
    return twin;
}

HostTensors HostTensors::select(const TensorSpecs &specs) const {
    HostTensors part(specs);
    for (const TensorSpec &spec : specs) std::memcpy(part.at(spec.name), at(spec.name), spec.bytes);
    return part;
}

void *HostTensors::at(const std::string &name) const {
    const size_t i = find(specs_, name);
    return i < specs_.size() ? data_[i].get() : nullptr;
}

size_t HostTensors::bytes(const std::string &name) const {
    const size_t i = find(specs_, name);
    return i < specs_.size() ? specs_[i].bytes : 0;
}

std::vector<std::string> HostTensors::differing(const HostTensors &other) const {
    std::vector<std::string> names;
    for (size_t i = 0; i < specs_.size(); ++i)
        if (std::memcmp(data_[i].get(), other.at(specs_[i].name), specs_[i].bytes) != 0)
            names.push_back(specs_[i].name);
    return names;
}

DeviceTensors::DeviceTensors(const TensorSpecs &specs, Stream &stream, bool guarded) : specs_(specs) {
    for (const TensorSpec &spec : specs_) buffers_.emplace_back(spec.bytes, stream, guarded);
}

DeviceTensors::DeviceTensors(const HostTensors &source, Stream &stream, bool guarded)
    : DeviceTensors(source.specs(), stream, guarded) {
    upload(source);
}

void *DeviceTensors::at(const std::string &name) const {
    const size_t i = find(specs_, name);
    return i < specs_.size() ? buffers_[i].data() : nullptr;
}

void DeviceTensors::fill(unsigned char byte) {
    for (Buffer &buffer : buffers_) buffer.fill(byte);
}

void DeviceTensors::upload(const HostTensors &source) {
    for (size_t i = 0; i < specs_.size(); ++i)
        if (const void *data = source.at(specs_[i].name)) buffers_[i].upload(data);
}

HostTensors DeviceTensors::download() const {
    HostTensors target(specs_);
    for (size_t i = 0; i < specs_.size(); ++i) buffers_[i].download(target.at(specs_[i].name));
    return target;
}

std::vector<std::string> DeviceTensors::overrun() const {
    std::vector<std::string> names;
    for (size_t i = 0; i < specs_.size(); ++i)
        if (!buffers_[i].guards_intact()) names.push_back(specs_[i].name);
    return names;
}

} // namespace retentive::harness
