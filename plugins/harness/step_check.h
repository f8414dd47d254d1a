/* The checks of one step of a case. */
#ifndef RETENTIVE_HARNESS_STEP_CHECK_H_
#define RETENTIVE_HARNESS_STEP_CHECK_H_

#include <optional>
#include <string>

#include "calls.h"
#include "compare.h"
#include "findings.h"
#include "operator_run.h"

namespace retentive::harness {

class PluginLibrary;

class StepCheck {
  public:
    StepCheck(Findings &findings, Stream &stream, const Case &c, int32_t steps, HostTensors inputs,
              const HostTensors &state, PluginLibrary *plugins);

    /* Each operator alone, on what the reference makes of the one before it. */
    void check_operators();
    /* Victims that are no rows of their tier: their tokens are dropped, and memory beside the rows stays untouched. */
    void check_wild_victims();
    /* The whole step in place; the state after it, or nothing when it was refused. */
    std::optional<HostTensors> check_step();
    void check_inputs_unchanged();

  private:
    void check_attention();
    void check_gate();
    void check_transition();
    void check_workspaces() const;
    std::optional<HostTensors> transition(const std::string &name, const HostTensors &decision, bool in_place);
    std::optional<HostTensors> run_step(const std::string &name, const TensorSpecs &outputs, bool in_parts = false);
    /* The gate's decision in a whole step, of which only the victims are seen; nothing when these are wrong. */
    std::optional<HostTensors> decision_of_step(const HostTensors &actual);
    /* Runs an operator and, where there are plugins, its plugin. `make`: the parameters for outputs and workspace. */
    template <typename Make, typename Params>
    std::optional<HostTensors> run(OperatorRun run, const Make &make, int32_t (*function)(const Params *, void *));

    Findings &findings_;
    Stream &stream_;
    const Case &case_;
    int32_t steps_;
    HostTensors inputs_;
    const HostTensors &state_;
    PluginLibrary *plugins_;

    HostTensors attention_; /* the reference's, not yet rounded to the case's type */
    Sensitivity sensitivity_;
    HostTensors decision_; /* the reference's on attention_ */
    std::optional<HostTensors> device_attention_;

    DeviceTensors device_inputs_, device_state_;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_STEP_CHECK_H_ */
