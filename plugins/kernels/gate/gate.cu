// EntropyGate: two launches, whatever T.
#include "common/launch.cuh"
#include "gate/select.cuh"
#include "operators.h"

namespace retentive {

int32_t launch_gate(const RetentiveGateParams &params, void *stream) {
    const Shape s(params.geometry, params.steps);
    const GateWorkspace at(s);
    const dim3 grid(unsigned(at.blocks), unsigned(s.BH));
    if (const int32_t status = launch("gate_update", gate_update, grid, kFinishThreads, 0, stream, params, s))
        return status;
    if (s.T == 1) return launch("gate_select_one", gate_select_one, grid, kFinishThreads, 0, stream, params, s);
    return launch("gate_select_many", gate_select_many, dim3(unsigned(s.L), unsigned(s.BH)), kSelectThreads, 0, stream,
                  params, s);
}

} // namespace retentive
