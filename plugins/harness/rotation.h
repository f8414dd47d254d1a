/* One operation on layer after layer, as in a decode loop: states in rotation, so that caches do not serve them. */
#ifndef RETENTIVE_HARNESS_ROTATION_H_
#define RETENTIVE_HARNESS_ROTATION_H_

#include <memory>
#include <optional>
#include <vector>

#include "calls.h"
#include "device.h"
#include "sweep_sizes.h"
#include "tensors.h"

namespace retentive::harness {

/* How much is put into one graph. */
struct RotationPlan {
    size_t layers;      /* states, together `footprint` bytes or more */
    size_t steps;       /* a multiple of layers */
    size_t state_bytes; /* of one layer */
};
RotationPlan plan_rotation(const SweepSize &size, size_t footprint, size_t least_steps);

class Rotation {
  public:
    Rotation(Stream &stream, const SweepSize &size, const RotationPlan &plan);
    ~Rotation();

    /* Kernels of one step; nothing where there are no graphs. */
    std::optional<double> kernels() const;
    /* Microseconds a step; each run's tokens follow those of the run before. */
    double time();

  private:
    int32_t launch(void *stream) const;
    int32_t launch_one(const Places &state, void *stream) const;
    int32_t launch_aside(void *stream) const;
    RetentiveStepParams step(const Places &state, const Workspace &workspace) const;
    Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }
    int32_t attend(const Places &state, void *stream) const;
    int32_t decide(const Places &state, void *stream) const;
    int32_t move(const Places &state, void *stream) const;
    void advance_tokens();

    const SweepSize &size_;
    const Case &layer_;
    RotationPlan plan_;
    HostTensors token_meta_;
    std::vector<DeviceTensors> states_;
    std::unique_ptr<DeviceTensors> inputs_, attention_, decision_;
    Buffer workspace_;
    struct Aside;
    std::unique_ptr<Aside> aside_; /* where steps are settled aside */
    std::unique_ptr<Graph> graph_;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_ROTATION_H_ */
