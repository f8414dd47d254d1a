#include "step_check.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <utility>

#include "plugin_calls.h"
#include "retentive/launch.h"
#include "retentive/validate.h"
#include "victims.h"

namespace retentive::harness {
namespace {

TensorSpecs joined(TensorSpecs first, const TensorSpecs &second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

/* In a whole step the statistics and, through absorption and retention, the memory follow the device's attention. */
StateLimits step_limits(const Case &c) {
    StateLimits limits;
    limits.statistics = limits_of(c).statistics;
    if (c.gate.absorption.enabled == 0 && c.gate.retention.enabled == 0) return limits;
    limits.memory = limits.statistics;
    limits.code_share = 1e-2;
    return limits;
}

bool residual(const RetentiveGeometry &g) { return g.readout == RETENTIVE_READOUT_RESIDUAL; }

/* Of a step with one token: attention, the rest, and one more for the residual readout or many recall rows. */
size_t step_kernels(const RetentiveGeometry &g) { return residual(g) || g.recall_rows > 256 ? 3 : 2; }

} // namespace

StepCheck::StepCheck(Findings &findings, Stream &stream, const Case &c, int32_t steps, HostTensors inputs,
                     const HostTensors &state, PluginLibrary *plugins)
    : findings_(findings), stream_(stream), case_(c), steps_(steps), inputs_(std::move(inputs)), state_(state),
      plugins_(plugins), device_inputs_(inputs_, stream, true), device_state_(state_, stream, true) {
    const Case wide = in_float32(c);
    const HostTensors wide_inputs = in_float32(inputs_, c.geometry.dtype);
    const HostTensors wide_state = in_float32(state_, c.geometry.dtype);
    attention_ = reference_attention(wide, steps_, wide_inputs, wide_state);
    sensitivity_ = sensitivity_of(wide, steps_, wide_inputs, wide_state, attention_);
    decision_ = reference_gate(c, steps_, inputs_, state_, attention_);
}

template <typename Make, typename Params>
std::optional<HostTensors> StepCheck::run(OperatorRun run, const Make &make,
                                          int32_t (*function)(const Params *, void *)) {
    run.launch = [&](const Places &outputs, Workspace workspace, void *stream) {
        const Params params = make(outputs, workspace);
        return function(&params, stream);
    };
    std::optional<HostTensors> direct = run_operator(findings_, stream_, run);
    if (!direct || plugins_ == nullptr) return direct;
    run.name = "the plugin of " + run.name;
    run.launch = [&](const Places &outputs, Workspace workspace, void *stream) {
        try {
            harness::run(*plugins_, plugin_call(make(outputs, workspace)), static_cast<cudaStream_t>(stream));
            return int32_t{RETENTIVE_OK};
        } catch (const std::exception &error) {
            return retentive::fail(RETENTIVE_INVALID, "%s", error.what());
        }
    };
    if (const auto through = run_operator(findings_, stream_, run)) same_bits(findings_, run.name, *through, *direct);
    return direct;
}

void StepCheck::check_operators() {
    check_workspaces();
    check_attention();
    check_gate();
    check_transition();
}

/* A workspace must serve calls with fewer tokens too. */
void StepCheck::check_workspaces() const {
    using Function = size_t (*)(const RetentiveGeometry *, int32_t);
    const std::pair<const char *, Function> functions[] = {{"attention", retentive_attention_workspace},
                                                           {"gate", retentive_gate_workspace},
                                                           {"transition", retentive_transition_workspace},
                                                           {"step", retentive_step_workspace}};
    for (const auto &[name, function] : functions)
        for (int32_t fewer = 1; fewer < steps_; ++fewer)
            if (function(&case_.geometry, fewer) > function(&case_.geometry, steps_)) {
                findings_.fail(std::string("retentive_") + name +
                               "_workspace asks for more with T = " + std::to_string(fewer));
                break;
            }
}

void StepCheck::check_attention() {
    device_attention_ = run(
        {"retentive_attention", attention_specs(case_.geometry, steps_),
         retentive_attention_workspace(&case_.geometry, steps_)},
        [&](const Places &outputs, Workspace workspace) {
            return attention_call(case_, steps_, device_inputs_, device_state_, outputs, workspace);
        },
        retentive_attention);
    if (device_attention_) compare_attention(findings_, case_, steps_, *device_attention_, attention_, sensitivity_);
}

void StepCheck::check_gate() {
    const DeviceTensors attention(attention_, stream_, true);
    const auto actual = run(
        {"retentive_gate", gate_specs(case_.geometry, steps_), retentive_gate_workspace(&case_.geometry, steps_)},
        [&](const Places &outputs, Workspace workspace) {
            return gate_call(case_, steps_, device_inputs_, device_state_, attention, outputs, workspace);
        },
        retentive_gate);
    if (actual) compare_decision(findings_, case_, steps_, inputs_, state_, *actual, decision_);
    same_bits(findings_, "retentive_gate", attention.download(), attention_);
}

void StepCheck::check_transition() {
    const auto apart = transition("retentive_transition", decision_, false);
    const auto in_place = transition("retentive_transition in place", decision_, true);
    if (!apart) return;
    if (in_place) same_bits(findings_, "retentive_transition in place", *in_place, *apart);
    const HostTensors expected = reference_transition(case_, steps_, inputs_, decision_, state_);
    compare_state(findings_, case_, steps_, state_, *apart, expected, {});
}

std::optional<HostTensors> StepCheck::transition(const std::string &name, const HostTensors &decision, bool in_place) {
    const DeviceTensors device_decision(decision, stream_, true);
    const OperatorRun request{name, state_specs(case_.geometry),
                              retentive_transition_workspace(&case_.geometry, steps_), in_place ? &state_ : nullptr};
    auto after = run(
        request,
        [&](const Places &outputs, Workspace workspace) {
            const Places &before = in_place ? outputs : device_state_;
            return transition_call(case_, steps_, device_inputs_, device_decision, before, outputs, workspace);
        },
        retentive_transition);
    same_bits(findings_, name, device_decision.download(), decision);
    return after;
}

void StepCheck::check_wild_victims() {
    const RetentiveGeometry &g = case_.geometry;
    constexpr int64_t outside[] = {-1, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min(),
                                   int64_t{1} << 32};
    HostTensors wild = decision_.copy();
    auto *victims = wild.as<int64_t>("victims");
    for (size_t i = 0; i < wild.bytes("victims") / sizeof(int64_t); ++i) {
        const bool first_tier = i / static_cast<size_t>(steps_) % static_cast<size_t>(tiers(g)) == 0;
        const int64_t beside = first_tier && g.exact_rows > 0 ? g.exact_rows : first_tier ? local_rows(g) : 0;
        if (i % 3 != 1) victims[i] = i % 2 == 0 ? beside : outside[i / 2 % std::size(outside)];
    }
    const auto actual = transition("retentive_transition of wild victims", wild, true);
    if (!actual) return;
    const HostTensors expected = reference_transition(case_, steps_, inputs_, wild, state_);
    compare_state(findings_, case_, steps_, state_, *actual, expected, {});
}

std::optional<HostTensors> StepCheck::decision_of_step(const HostTensors &actual) {
    /* Where logits are huge, the rounding of a logit decides which rows receive attention: the device's own must do. */
    const bool own = case_.hostile == Hostile::huge_logits && device_attention_;
    const HostTensors decision =
        own ? reference_gate(case_, steps_, inputs_, state_, *device_attention_) : decision_.copy();
    const auto *victims = actual.as<int64_t>("victims");
    const int64_t already = findings_.failure_count();
    compare_victims(findings_, case_, steps_, inputs_, state_, decision, victims, limits_of(case_).score);
    if (findings_.failure_count() > already) return std::nullopt;
    return with_victims(case_, steps_, state_, decision, victims);
}

std::optional<HostTensors> StepCheck::run_step(const std::string &name, const TensorSpecs &outputs, bool in_parts) {
    /* What the second part must not read. */
    const DeviceTensors elsewhere(input_specs(case_.geometry, steps_), stream_, false);
    OperatorRun request{name, joined(state_specs(case_.geometry), outputs),
                        retentive_step_workspace(&case_.geometry, steps_), &state_};
    if (steps_ == 1) request.kernels = step_kernels(case_.geometry) + (in_parts && !residual(case_.geometry) ? 1 : 0);
    request.launch = [&](const Places &places, Workspace workspace, void *stream) {
        const RetentiveStepParams first = step_call(case_, steps_, device_inputs_, places, places, workspace);
        if (!in_parts) return retentive_step(&first, stream);
        if (const int32_t status = retentive_step_attend(&first, stream)) return status;
        RetentiveStepParams second = step_call(case_, steps_, elsewhere, places, places, workspace);
        second.key_scale = first.key_scale;
        return retentive_step_settle(&second, stream);
    };
    return run_operator(findings_, stream_, request);
}

std::optional<HostTensors> StepCheck::check_step() {
    const TensorSpecs outputs = step_specs(case_.geometry, steps_);
    const auto actual = run_step("retentive_step", outputs);
    if (!actual) return std::nullopt;
    if (const auto silent = run_step("retentive_step without victims", {outputs.front()}))
        same_bits(findings_, "retentive_step without victims", *silent, *actual);
    if (steps_ == 1)
        if (const auto parts = run_step("retentive_step in two parts", outputs, true))
            same_bits(findings_, "retentive_step in two parts", *parts, *actual);
    compare_output(findings_, case_, steps_, *actual, attention_, sensitivity_);
    HostTensors after = actual->select(state_specs(case_.geometry));
    if (const auto decision = decision_of_step(*actual)) {
        const HostTensors expected = reference_transition(case_, steps_, inputs_, *decision, state_);
        compare_state(findings_, case_, steps_, state_, after, expected, step_limits(case_));
    }
    return after;
}

void StepCheck::check_inputs_unchanged() {
    same_bits(findings_, "an operator changes its inputs and", device_inputs_.download(), inputs_);
    same_bits(findings_, "an operator changes its state and", device_state_.download(), state_);
    for (const DeviceTensors *tensors : {&device_inputs_, &device_state_})
        for (const std::string &name : tensors->overrun())
            findings_.fail("something is written beside the input " + name);
}

} // namespace retentive::harness
