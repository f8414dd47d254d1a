#include "refusals.h"

#include "calls.h"
#include "generate.h"
#include "retentive/launch.h"
#include "wrong_calls.h"

namespace retentive::harness {
namespace {

constexpr unsigned char poison = 0xff;

Case refusal_case() {
    CaseRequest request;
    request.topic = "refusals";
    request.tiers = Tiers::mixed;
    request.memory = Memory::both;
    request.steps = {refusal_steps};
    return make_case(request);
}

TensorSpecs workspace_specs(size_t bytes) { return bytes > 0 ? TensorSpecs{{"workspace", bytes}} : TensorSpecs{}; }

/* Right calls of every operator, to be made wrong one by one. */
class Refusals {
  public:
    explicit Refusals(Findings &findings);
    void run();

  private:
    template <typename Params>
    void refuse(const char *name, int32_t (*function)(const Params *, void *), const Params &right,
                const WrongCalls<Params> &calls);
    template <typename Params>
    void check_call(const std::string &what, const Wrong<Params> &wrong, const Params *params,
                    int32_t (*function)(const Params *, void *));
    void check_nothing_written(const std::string &what);
    void check_workspaces();
    Workspace workspace(size_t bytes) const { return {workspace_.at("workspace"), bytes}; }

    Findings &findings_;
    const Case case_ = refusal_case();
    const RetentiveGeometry &g_ = case_.geometry;
    Stream stream_;
    Generator generator_{case_};
    DeviceTensors inputs_{generator_.inputs(refusal_steps), stream_, true};
    DeviceTensors state_{generator_.state(), stream_, true};
    DeviceTensors after_{state_specs(g_), stream_, true};
    DeviceTensors attention_{attention_specs(g_, refusal_steps), stream_, true};
    DeviceTensors decision_{gate_specs(g_, refusal_steps), stream_, true};
    DeviceTensors workspace_{workspace_specs(retentive_step_workspace(&g_, refusal_steps) +
                                             retentive_attention_workspace(&g_, refusal_steps) +
                                             retentive_gate_workspace(&g_, refusal_steps) +
                                             retentive_transition_workspace(&g_, refusal_steps)),
                             stream_, true};
    DeviceTensors *const all_[6] = {&inputs_, &state_, &after_, &attention_, &decision_, &workspace_};
    std::vector<HostTensors> before_;
};

Refusals::Refusals(Findings &findings) : findings_(findings) {
    for (DeviceTensors *outputs : {&after_, &attention_, &decision_, &workspace_}) outputs->fill(poison);
    for (const DeviceTensors *tensors : all_) before_.push_back(tensors->download());
}

void Refusals::run() {
    const size_t attention = retentive_attention_workspace(&g_, refusal_steps);
    const size_t gate = retentive_gate_workspace(&g_, refusal_steps);
    const size_t transition = retentive_transition_workspace(&g_, refusal_steps);
    const size_t step = retentive_step_workspace(&g_, refusal_steps), part = retentive_step_workspace(&g_, 1);
    refuse("retentive_attention", retentive_attention,
           attention_call(case_, refusal_steps, inputs_, state_, attention_, workspace(attention)),
           wrong_attention_calls(attention));
    refuse("retentive_gate", retentive_gate,
           gate_call(case_, refusal_steps, inputs_, state_, attention_, decision_, workspace(gate)),
           wrong_gate_calls(gate));
    refuse("retentive_transition", retentive_transition,
           transition_call(case_, refusal_steps, inputs_, decision_, state_, after_, workspace(transition)),
           wrong_transition_calls(transition));
    const auto call = [this](int32_t steps, size_t bytes) {
        RetentiveStepParams params = step_call(case_, steps, inputs_, state_, attention_, workspace(bytes));
        params.victims = static_cast<int64_t *>(decision_.at("victims"));
        return params;
    };
    refuse("retentive_step", retentive_step, call(refusal_steps, step), wrong_step_calls(step));
    const RetentiveStepParams one = call(1, part);
    refuse("retentive_step_attend", retentive_step_attend, one, wrong_part_calls(part));
    refuse("retentive_step_settle", retentive_step_settle, one, wrong_part_calls(part));
    check_workspaces();
}

template <typename Params>
void Refusals::refuse(const char *name, int32_t (*function)(const Params *, void *), const Params &right,
                      const WrongCalls<Params> &calls) {
    const std::string prefix = std::string(name) + ", where ";
    check_call<Params>(prefix + "params is NULL,", {"params is NULL", RETENTIVE_INVALID, nullptr}, nullptr, function);
    for (const Wrong<Params> &wrong : calls) {
        Params params = right;
        wrong.spoil(params);
        check_call(prefix + wrong.says + ",", wrong, &params, function);
    }
}

template <typename Params>
void Refusals::check_call(const std::string &what, const Wrong<Params> &wrong, const Params *params,
                          int32_t (*function)(const Params *, void *)) {
    const int32_t status = function(params, stream_.handle());
    const std::string message = retentive_message();
    findings_.count("refused calls", 1);
    if (status != wrong.status)
        findings_.fail(what + " gives status " + std::to_string(status) + " instead of " +
                       std::to_string(wrong.status));
    else if (message.find(wrong.says) == std::string::npos)
        findings_.fail(what + " says '" + message + "'");
    check_nothing_written(what);
}

void Refusals::check_nothing_written(const std::string &what) {
    stream_.synchronize();
    for (size_t i = 0; i < before_.size(); ++i)
        for (const std::string &name : all_[i]->download().differing(before_[i]))
            findings_.fail(what + " writes " + name);
}

/* No bytes for a geometry that cannot be. */
void Refusals::check_workspaces() {
    RetentiveGeometry impossible = g_;
    impossible.kv_heads = 0;
    for (const auto function : {retentive_attention_workspace, retentive_gate_workspace, retentive_transition_workspace,
                                retentive_step_workspace})
        if (function(&impossible, 1) != 0) findings_.fail("a workspace is asked for where kv_heads is 0");
}

} // namespace

Findings check_refusals() {
    Findings findings;
    Refusals(findings).run();
    return findings;
}

} // namespace retentive::harness
