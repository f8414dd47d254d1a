/* The operators' parameter structs from tensors by name, and the reference's answers. */
#ifndef RETENTIVE_HARNESS_CALLS_H_
#define RETENTIVE_HARNESS_CALLS_H_

#include "cases.h"
#include "tensors.h"

namespace retentive::harness {

struct Workspace {
    void *data = nullptr;
    size_t bytes = 0;
};

RetentiveState state_at(const Places &places);

RetentiveAttentionParams attention_call(const Case &c, int32_t steps, const Places &inputs, const Places &state,
                                        const Places &outputs, Workspace workspace = {});
/* `attention`: where received, surprise and visual_entropy are. */
RetentiveGateParams gate_call(const Case &c, int32_t steps, const Places &inputs, const Places &state,
                              const Places &attention, const Places &outputs, Workspace workspace = {});
/* `decision`: the gate's outputs. */
RetentiveTransitionParams transition_call(const Case &c, int32_t steps, const Places &inputs, const Places &decision,
                                          const Places &before, const Places &after, Workspace workspace = {});
/* `outputs`: output and, where it is there, victims. */
RetentiveStepParams step_call(const Case &c, int32_t steps, const Places &inputs, const Places &state,
                              const Places &outputs, Workspace workspace = {});

/* What the C++ reference makes of host tensors; std::runtime_error with its message when it refuses. */
HostTensors reference_attention(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &state);
HostTensors reference_gate(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &state,
                           const HostTensors &attention);
HostTensors reference_transition(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &decision,
                                 const HostTensors &before);

/* The same case and tensors with float32 rows: its reference output is not yet rounded to the case's type. */
Case in_float32(const Case &c);
HostTensors in_float32(const HostTensors &tensors, int32_t dtype);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_CALLS_H_ */
