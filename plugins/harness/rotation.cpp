#include "rotation.h"

#include <algorithm>
#include <stdexcept>

#include "floor.h"
#include "generate.h"
#include "retentive/launch.h"

namespace retentive::harness {
namespace {

constexpr size_t model_layers = 36; /* of a 4B model */

void accept(int32_t status) {
    if (status != RETENTIVE_OK) throw std::runtime_error(std::string("a launch was refused: ") + retentive_message());
}

/* Enough for whichever of the operators runs: they follow each other on one stream. */
size_t workspace_bytes(const RetentiveGeometry &g, int32_t steps) {
    return std::max({retentive_attention_workspace(&g, steps), retentive_gate_workspace(&g, steps),
                     retentive_transition_workspace(&g, steps), retentive_step_workspace(&g, steps)});
}

} // namespace

RotationPlan plan_rotation(const SweepSize &size, size_t footprint, size_t least_steps) {
    size_t bytes = 0;
    for (const TensorSpec &spec : state_specs(size.layer.geometry)) bytes += spec.bytes;
    const size_t layers = std::max<size_t>((footprint + bytes - 1) / bytes, 2);
    if (size.operation == Operation::aside) { /* each layer once, as in a model: nothing waits for a second part */
        const size_t deep = std::max(layers, std::min(least_steps, model_layers));
        return {deep, deep, bytes};
    }
    return {layers, (least_steps + layers - 1) / layers * layers, bytes};
}

/* A second stream, and a workspace for each layer. */
struct Rotation::Aside {
    Stream stream;
    Event attended, settled;
    std::vector<Buffer> workspaces;

    Aside(Stream &main, size_t bytes, size_t layers) {
        for (size_t i = 0; i < layers; ++i) workspaces.emplace_back(bytes, main, false);
    }
};

Rotation::~Rotation() = default;

Rotation::Rotation(Stream &stream, const SweepSize &size, const RotationPlan &plan)
    : size_(size), layer_(size.layer), plan_(plan),
      workspace_(workspace_bytes(size.layer.geometry, size.steps()), stream, false) {
    Generator generator(layer_);
    const HostTensors state = generator.state(), inputs = generator.inputs(size.steps());
    token_meta_ = inputs.select({{"token_meta", inputs.bytes("token_meta")}});
    inputs_ = std::make_unique<DeviceTensors>(inputs, stream, false);
    attention_ = std::make_unique<DeviceTensors>(attention_specs(layer_.geometry, size.steps()), stream, false);
    decision_ = std::make_unique<DeviceTensors>(gate_specs(layer_.geometry, size.steps()), stream, false);
    for (size_t i = 0; i < plan_.layers; ++i) states_.emplace_back(state, stream, false);
    if (size_.operation == Operation::aside)
        aside_ = std::make_unique<Aside>(stream, retentive_step_workspace(&layer_.geometry, 1), plan_.layers);
    /* What the gate and the transition read when they are timed alone. */
    accept(attend(states_.front(), stream.handle()));
    accept(decide(states_.front(), stream.handle()));
    graph_ = std::make_unique<Graph>(stream, [this](void *handle) { return launch(handle); });
    accept(graph_->replay());
}

std::optional<double> Rotation::kernels() const {
    const auto nodes = graph_->nodes();
    if (!nodes) return std::nullopt;
    return static_cast<double>(nodes->kernels + nodes->others) / static_cast<double>(plan_.steps);
}

double Rotation::time() {
    advance_tokens();
    return graph_->time_replay() / static_cast<double>(plan_.steps);
}

void Rotation::advance_tokens() {
    auto *meta = token_meta_.as<int32_t>("token_meta");
    const size_t tokens = token_meta_.bytes("token_meta") / (2 * sizeof(int32_t));
    for (size_t i = 0; i < tokens; ++i) meta[2 * i] += size_.steps();
    inputs_->upload(token_meta_);
}

int32_t Rotation::launch(void *stream) const {
    if (aside_ != nullptr) return launch_aside(stream);
    for (size_t i = 0; i < plan_.steps; ++i)
        if (const int32_t status = launch_one(states_[i % plan_.layers], stream)) return status;
    return RETENTIVE_OK;
}

int32_t Rotation::launch_one(const Places &state, void *stream) const {
    switch (size_.operation) {
    case Operation::attention: return attend(state, stream);
    case Operation::gate: return decide(state, stream);
    case Operation::transition: return move(state, stream);
    case Operation::operators:
        if (const int32_t status = attend(state, stream)) return status;
        if (const int32_t status = decide(state, stream)) return status;
        return move(state, stream);
    case Operation::output: {
        const RetentiveStepParams params = step(state, workspace());
        return retentive_step_attend(&params, stream);
    }
    case Operation::floor: return launch_floor(step(state, workspace()), stream);
    case Operation::aside:
    case Operation::step: break;
    }
    const RetentiveStepParams params = step(state, workspace());
    return retentive_step(&params, stream);
}

int32_t Rotation::launch_aside(void *stream) const {
    void *beside = aside_->stream.handle();
    for (size_t i = 0; i < plan_.steps; ++i) {
        const Buffer &workspace = aside_->workspaces[i];
        const RetentiveStepParams params = step(states_[i], {workspace.data(), workspace.bytes()});
        if (const int32_t status = retentive_step_attend(&params, stream)) return status;
        aside_->attended.record(stream);
        aside_->attended.hold(beside);
        if (const int32_t status = retentive_step_settle(&params, beside)) return status;
    }
    aside_->settled.record(beside);
    aside_->settled.hold(stream);
    return RETENTIVE_OK;
}

RetentiveStepParams Rotation::step(const Places &state, const Workspace &workspace) const {
    RetentiveStepParams params = step_call(layer_, size_.steps(), *inputs_, state, *attention_, workspace);
    params.victims = static_cast<int64_t *>(decision_->at("victims"));
    return params;
}

int32_t Rotation::attend(const Places &state, void *stream) const {
    const RetentiveAttentionParams params =
        attention_call(layer_, size_.steps(), *inputs_, state, *attention_, workspace());
    return retentive_attention(&params, stream);
}

int32_t Rotation::decide(const Places &state, void *stream) const {
    const RetentiveGateParams params =
        gate_call(layer_, size_.steps(), *inputs_, state, *attention_, *decision_, workspace());
    return retentive_gate(&params, stream);
}

int32_t Rotation::move(const Places &state, void *stream) const {
    const RetentiveTransitionParams params =
        transition_call(layer_, size_.steps(), *inputs_, *decision_, state, state, workspace());
    return retentive_transition(&params, stream);
}

} // namespace retentive::harness
