/* One operator on the device, run in all the ways that must give the same bits. */
#ifndef RETENTIVE_HARNESS_OPERATOR_RUN_H_
#define RETENTIVE_HARNESS_OPERATOR_RUN_H_

#include <functional>
#include <optional>
#include <string>

#include "calls.h"
#include "device.h"
#include "findings.h"
#include "tensors.h"

namespace retentive::harness {

struct OperatorRun {
    std::string name;
    TensorSpecs outputs;
    size_t workspace_bytes;
    /* Contents of those outputs that are read too: the state where it is replaced in place. */
    const HostTensors *before = nullptr;
    /* Number of kernels that it must take. */
    std::optional<size_t> kernels = std::nullopt;
    std::function<int32_t(const Places &outputs, Workspace workspace, void *stream)> launch = nullptr;
};

/* Runs it into poisoned outputs and workspace of exactly the bytes asked for, with guards around them; once more, and
 * captured into a graph, over another poison. What it wrote; nothing when a launch was refused. */
std::optional<HostTensors> run_operator(Findings &findings, Stream &stream, const OperatorRun &run);

/* A failure when a tensor's bytes differ; `what` leads the message. */
void same_bits(Findings &findings, const std::string &what, const HostTensors &actual, const HostTensors &expected);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_OPERATOR_RUN_H_ */
