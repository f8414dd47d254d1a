/* An operator's tensors on the host and on the device, under the names of the contract (retentive/params.h). */
#ifndef RETENTIVE_HARNESS_TENSORS_H_
#define RETENTIVE_HARNESS_TENSORS_H_

#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "retentive/params.h"

namespace retentive::harness {

struct TensorSpec {
    std::string name;
    size_t bytes;
};
using TensorSpecs = std::vector<TensorSpec>;

/* The tensors that exist for a geometry, in the contract's order. */
TensorSpecs state_specs(const RetentiveGeometry &geometry);
TensorSpecs input_specs(const RetentiveGeometry &geometry, int32_t steps);     /* query .. key_scale */
TensorSpecs attention_specs(const RetentiveGeometry &geometry, int32_t steps); /* output .. visual_entropy */
TensorSpecs gate_specs(const RetentiveGeometry &geometry, int32_t steps);      /* victims .. retention */
TensorSpecs step_specs(const RetentiveGeometry &geometry, int32_t steps);      /* output, victims */
/* Bytes of one coarse row's codes. */
size_t code_bytes(const RetentiveGeometry &geometry);

/* Where tensors lie, by name. */
class Places {
  public:
    virtual ~Places() = default;
    /* nullptr for a tensor that is not there. */
    virtual void *at(const std::string &name) const = 0;
};

class HostTensors final : public Places {
  public:
    HostTensors() = default;
    explicit HostTensors(const TensorSpecs &specs); /* zeros */
    HostTensors copy() const;
    /* A copy of those that `specs` names. */
    HostTensors select(const TensorSpecs &specs) const;

    void *at(const std::string &name) const override;
    template <typename T> T *as(const std::string &name) const { return static_cast<T *>(at(name)); }
    const TensorSpecs &specs() const { return specs_; }
    size_t bytes(const std::string &name) const;
    /* Names of the tensors whose bytes differ; both hold the same ones. */
    std::vector<std::string> differing(const HostTensors &other) const;

  private:
    TensorSpecs specs_;
    std::vector<std::unique_ptr<unsigned char[]>> data_; /* aligned to 16 bytes by operator new */
};

/* `guarded`: each tensor stands 16 bytes behind the start of its allocation, the least alignment that the contract
 * allows, between guard bytes. */
class DeviceTensors final : public Places {
  public:
    DeviceTensors(const TensorSpecs &specs, Stream &stream, bool guarded);
    DeviceTensors(const HostTensors &source, Stream &stream, bool guarded);

    void *at(const std::string &name) const override;
    void fill(unsigned char byte);
    /* Those that the source has. */
    void upload(const HostTensors &source);
    HostTensors download() const;
    /* Names of the tensors that something was written beside. */
    std::vector<std::string> overrun() const;

  private:
    TensorSpecs specs_;
    std::vector<Buffer> buffers_;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_TENSORS_H_ */
