#include "case_check.h"

#include "compare.h"
#include "generate.h"
#include "operator_run.h"
#include "step_check.h"

namespace retentive::harness {

Findings check_case(const Case &c, PluginLibrary *plugins) {
    Findings findings;
    Stream stream;
    Generator generator(c);
    HostTensors state = generator.state();
    for (size_t i = 0; i < c.steps.size(); ++i) {
        findings.set_context("T = " + std::to_string(c.steps[i]) + ", step " + std::to_string(i) + ": ");
        StepCheck step(findings, stream, c, c.steps[i], generator.inputs(c.steps[i]), state, plugins);
        step.check_operators();
        if (i == 0) step.check_wild_victims();
        std::optional<HostTensors> after = step.check_step();
        step.check_inputs_unchanged();
        /* From there on both go on from what the device made. */
        if (!after || !findings.passed()) break;
        state = std::move(*after);
    }
    return findings;
}

} // namespace retentive::harness
