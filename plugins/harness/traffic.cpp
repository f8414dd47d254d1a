#include <algorithm>
#include <initializer_list>

#include "numbers.h"
#include "retentive/validate.h"
#include "sweep_sizes.h"
#include "tensors.h"

namespace retentive::harness {
namespace {

using Names = std::initializer_list<const char *>;

constexpr Names statistics = {"importance", "entropy"};
constexpr Names matrices = {"recall_state", "visual_state"};
constexpr size_t meta_bytes = 2 * sizeof(int32_t);

size_t bytes_of(const TensorSpecs &specs) {
    size_t bytes = 0;
    for (const TensorSpec &spec : specs) bytes += spec.bytes;
    return bytes;
}

size_t bytes_of(const TensorSpecs &specs, Names names) {
    size_t bytes = 0;
    for (const TensorSpec &spec : specs)
        if (std::find(names.begin(), names.end(), spec.name) != names.end()) bytes += spec.bytes;
    return bytes;
}

/* Counts what one size moves. */
class Counter {
  public:
    explicit Counter(const SweepSize &size)
        : g_(size.layer.geometry), steps_(size.steps()), state_(state_specs(g_)), inputs_(input_specs(g_, steps_)),
          attention_(attention_specs(g_, steps_)), gate_(gate_specs(g_, steps_)) {}

    Traffic attention() const {
        return {bytes_of(state_) - bytes_of(state_, statistics) + bytes_of(inputs_), bytes_of(attention_)};
    }
    /* The first part of a step, which reads the statistics for their sums; what it keeps for the second stays inside. */
    Traffic output() const { return {bytes_of(state_) + bytes_of(inputs_), bytes_of(attention_, {"output"})}; }
    Traffic gate() const {
        return {bytes_of(state_, {"row_meta", "importance", "entropy"}) + bytes_of(inputs_, {"token_meta"}) +
                    bytes_of(attention_, {"received", "surprise", "visual_entropy"}),
                bytes_of(gate_)};
    }
    /* In place: the rows that leave a tier are read where there is something to take them, and memory changes. */
    Traffic transition() const {
        const size_t changed = absorbed_rows() + bytes_of(state_, matrices);
        return {bytes_of(inputs_, {"key", "value", "token_meta", "key_scale"}) + bytes_of(gate_) + leaving_rows() +
                    changed,
                bytes_of(state_, statistics) + written_rows() + changed};
    }
    /* The whole state once; what the three hand on to each other stays inside. */
    Traffic step() const {
        return {bytes_of(state_) + bytes_of(inputs_), bytes_of(state_, statistics) + bytes_of(state_, matrices) +
                                                          bytes_of(step_specs(g_, steps_)) + written_rows() +
                                                          absorbed_rows()};
    }

  private:
    size_t tokens() const { return static_cast<size_t>(g_.batch) * g_.kv_heads * steps_; }
    size_t exact_row() const { return 2 * static_cast<size_t>(g_.head_dim) * element_bytes(g_.dtype) + meta_bytes; }
    size_t coarse_row() const { return 2 * code_bytes(g_) + sizeof(float) + meta_bytes; }
    size_t written_rows() const {
        return tokens() * ((g_.exact_rows > 0 ? exact_row() : 0) + (g_.coarse_rows > 0 ? coarse_row() : 0));
    }
    size_t leaving_rows() const {
        const bool taken = g_.readout != RETENTIVE_READOUT_NONE; /* what leaves the last tier */
        const size_t exact = g_.exact_rows > 0 && (g_.coarse_rows > 0 || taken) ? exact_row() : 0;
        return tokens() * (exact + (g_.coarse_rows > 0 && taken ? coarse_row() : 0));
    }
    /* Memory rows that take in a token: as many as there are tokens, at most all. */
    size_t absorbed_rows() const {
        const size_t heads = static_cast<size_t>(g_.batch) * g_.kv_heads;
        const size_t row = g_.memory_store == RETENTIVE_STORE_EXACT ? exact_row() : coarse_row();
        return heads * static_cast<size_t>(std::min(steps_, memory_rows(g_))) * (row + sizeof(float));
    }

    const RetentiveGeometry &g_;
    int32_t steps_;
    TensorSpecs state_, inputs_, attention_, gate_;
};

Traffic sum(const Traffic &a, const Traffic &b) { return {a.read + b.read, a.written + b.written}; }

} // namespace

Traffic traffic_of(const SweepSize &size) {
    const Counter counter(size);
    switch (size.operation) {
    case Operation::aside:
    case Operation::floor: /* is compared with the step */
    case Operation::step: return counter.step();
    case Operation::output: return counter.output();
    case Operation::attention: return counter.attention();
    case Operation::gate: return counter.gate();
    case Operation::transition: return counter.transition();
    case Operation::operators: return sum(sum(counter.attention(), counter.gate()), counter.transition());
    }
    return {};
}

double attention_operations(const SweepSize &size) {
    if (size.operation == Operation::gate || size.operation == Operation::transition ||
        size.operation == Operation::floor)
        return 0.0;
    const RetentiveGeometry &g = size.layer.geometry;
    const double queries = static_cast<double>(g.batch) * g.q_heads * size.steps();
    return 4.0 * queries * g.head_dim * (rows(g) + 0.5 * (size.steps() + 1)); /* causal among the new tokens */
}

} // namespace retentive::harness
