#include "plugin_calls.h"

#include <stdexcept>
#include <utility>

#include "retentive/validate.h"

namespace retentive::harness {
namespace {

using nvinfer1::DataType;

constexpr DataType f32 = DataType::kFLOAT;
constexpr DataType i32 = DataType::kINT32;
constexpr DataType i64 = DataType::kINT64;

DataType row_type(const RetentiveGeometry &g) {
    return g.dtype == RETENTIVE_FLOAT32 ? f32 : g.dtype == RETENTIVE_FLOAT16 ? DataType::kHALF : DataType::kBF16;
}

/* Collects the tensors of a call; pointers of the parameter structs are const where they are only read. */
class Tensors {
  public:
    Tensors(const RetentiveGeometry &geometry, int32_t steps) : g_(geometry), steps_(steps) {}

    void add(DataType type, std::vector<int64_t> dims, const void *data) {
        tensors_.push_back({type, std::move(dims), const_cast<void *>(data)});
    }
    /* [B, Hkv, ...] */
    void per_head(DataType type, std::vector<int64_t> tail, const void *data) {
        tail.insert(tail.begin(), {g_.batch, g_.kv_heads});
        add(type, std::move(tail), data);
    }
    void query_like(const void *data) { add(row_type(g_), {g_.batch, g_.q_heads, steps_, g_.head_dim}, data); }
    void key_like(const void *data) { per_head(row_type(g_), {steps_, g_.head_dim}, data); }
    void token_meta(const void *data) { add(i32, {g_.batch, steps_, 2}, data); }
    void key_scale(const void *data) {
        if (g_.coarse_rows > 0) add(f32, {g_.kv_heads, g_.head_dim}, data);
    }
    void state(const RetentiveState &state, bool statistics);
    void statistics(const RetentiveState &state);
    std::vector<Tensor> take() { return std::move(tensors_); }

  private:
    RetentiveGeometry g_;
    int64_t steps_;
    std::vector<Tensor> tensors_;
};

void Tensors::statistics(const RetentiveState &state) {
    if (g_.track_importance != 0) per_head(f32, {local_rows(g_)}, state.importance);
    if (g_.track_entropy != 0) per_head(f32, {local_rows(g_)}, state.entropy);
}

void Tensors::state(const RetentiveState &state, bool with_statistics) {
    if (const int64_t rows = exact_store_rows(g_); rows > 0) {
        per_head(row_type(g_), {rows, g_.head_dim}, state.key_rows);
        per_head(row_type(g_), {rows, g_.head_dim}, state.value_rows);
    }
    if (const int64_t rows = coarse_store_rows(g_); rows > 0) {
        const int64_t width = g_.coarse_dtype == RETENTIVE_INT4 ? g_.head_dim / 2 : g_.head_dim;
        per_head(DataType::kINT8, {rows, width}, state.key_codes);
        per_head(DataType::kINT8, {rows, width}, state.value_codes);
        per_head(f32, {rows}, state.value_scale);
    }
    per_head(i32, {rows(g_), 2}, state.row_meta);
    if (with_statistics) statistics(state);
    if (memory_rows(g_) > 0) per_head(f32, {memory_rows(g_)}, state.memory_mass);
    if (g_.readout == RETENTIVE_READOUT_RESIDUAL) {
        per_head(f32, {g_.head_dim, g_.head_dim}, state.recall_state);
        per_head(f32, {g_.head_dim, g_.head_dim}, state.visual_state);
    }
}

[[noreturn]] void failed(PluginLibrary &library, const PluginCall &call, const std::string &step) {
    std::string text = call.op + ": " + step + " failed";
    for (const std::string &message : library.take_messages()) text += "; " + message;
    throw std::runtime_error(text);
}

} // namespace

FieldList attributes(const RetentiveGeometry &g, const RetentiveGate &gate, float scale) {
    static constexpr const char *types[] = {"float32", "float16", "bfloat16", "int8", "int4"};
    static constexpr const char *readouts[] = {"none", "mass", "residual"};
    FieldList fields;
    fields.add_real("scale", scale);
    const std::pair<const char *, int32_t> integers[] = {{"kv_heads", g.kv_heads},
                                                         {"q_heads", g.q_heads},
                                                         {"head_dim", g.head_dim},
                                                         {"exact_rows", g.exact_rows},
                                                         {"batch", g.batch},
                                                         {"coarse_rows", g.coarse_rows},
                                                         {"recall_rows", g.recall_rows},
                                                         {"sinks", g.sinks},
                                                         {"window", g.window},
                                                         {"chunk", g.chunk},
                                                         {"track_importance", g.track_importance},
                                                         {"track_entropy", g.track_entropy}};
    for (const auto &[name, value] : integers) fields.add_integers(name, {value});
    fields.add_word("dtype", types[g.dtype]);
    // Read only with coarse rows; the exporter writes it always.
    fields.add_word("coarse_dtype", g.coarse_dtype == RETENTIVE_INT4 ? "int4" : "int8");
    fields.add_integers("memory_grid", {g.memory_grid[0], g.memory_grid[1]});
    fields.add_integers("frame_grid", {g.frame_grid[0], g.frame_grid[1]});
    fields.add_word("memory_store", g.memory_store == RETENTIVE_STORE_EXACT ? "exact" : "coarse");
    fields.add_word("readout", readouts[g.readout]);
    fields.add_real("lambda", gate.lambda_);
    fields.add_word("score", gate.score == RETENTIVE_SCORE_RETENTION ? "retention" : "recency");
    fields.add_real("importance_decay", gate.importance_decay);
    fields.add_real("importance_gain", gate.importance_gain);
    fields.add_real("entropy_decay", gate.entropy_decay);
    fields.add_real("entropy_gain", gate.entropy_gain);
    const std::pair<std::string, RetentiveSigmoid> gates[] = {
        {"retention_gate_", gate.retention}, {"absorption_gate_", gate.absorption}, {"readout_gate_", gate.readout}};
    for (const auto &[prefix, sigmoid] : gates) {
        fields.add_integers(prefix + "enabled", {sigmoid.enabled});
        fields.add_real(prefix + "weight", sigmoid.weight);
        fields.add_real(prefix + "bias", sigmoid.bias);
    }
    fields.add_real("beta", gate.beta);
    return fields;
}

PluginCall plugin_call(const RetentiveAttentionParams &p) {
    const RetentiveGeometry &g = p.geometry;
    Tensors in(g, p.steps), out(g, p.steps);
    in.query_like(p.query);
    in.key_like(p.key);
    in.key_like(p.value);
    in.token_meta(p.token_meta);
    in.key_scale(p.key_scale);
    in.state(p.state, false);
    out.query_like(p.output);
    out.per_head(f32, {rows(g) + p.steps}, p.received);
    out.per_head(f32, {rows(g) + p.steps}, p.surprise);
    out.per_head(f32, {}, p.visual_entropy);
    return {"RetentiveAttention", attributes(g, p.gate, p.scale), g.chunk, in.take(), out.take(), p.workspace,
            p.workspace_bytes};
}

PluginCall plugin_call(const RetentiveGateParams &p) {
    const RetentiveGeometry &g = p.geometry;
    Tensors in(g, p.steps), out(g, p.steps);
    in.per_head(f32, {rows(g) + p.steps}, p.received);
    in.per_head(f32, {rows(g) + p.steps}, p.surprise);
    in.per_head(f32, {}, p.visual_entropy);
    in.token_meta(p.token_meta);
    in.per_head(i32, {rows(g), 2}, p.state.row_meta);
    in.statistics(p.state);
    out.per_head(i64, {tiers(g), p.steps}, p.victims);
    out.per_head(f32, {local_rows(g) + p.steps}, p.importance_next);
    out.per_head(f32, {local_rows(g) + p.steps}, p.entropy_next);
    out.per_head(f32, {p.steps}, p.absorption);
    out.per_head(f32, {}, p.retention);
    return {"EntropyGate", attributes(g, p.gate, 1.0F), g.chunk, in.take(), out.take(), p.workspace, p.workspace_bytes};
}

PluginCall plugin_call(const RetentiveTransitionParams &p) {
    const RetentiveGeometry &g = p.geometry;
    Tensors in(g, p.steps), out(g, p.steps);
    in.per_head(i64, {tiers(g), p.steps}, p.victims);
    in.per_head(f32, {local_rows(g) + p.steps}, p.importance_next);
    in.per_head(f32, {local_rows(g) + p.steps}, p.entropy_next);
    in.per_head(f32, {p.steps}, p.absorption);
    in.per_head(f32, {}, p.retention);
    in.key_like(p.key);
    in.key_like(p.value);
    in.token_meta(p.token_meta);
    in.key_scale(p.key_scale);
    in.state(p.before, false);
    out.state(p.after, true);
    const RetentiveGate gate{}; // the transition reads no constant of the gate
    return {"StateTransition", attributes(g, gate, 1.0F), g.chunk, in.take(), out.take(),
            p.workspace,       p.workspace_bytes};
}

void run(PluginLibrary &library, const PluginCall &call, cudaStream_t stream) {
    const auto built =
        DrivenPlugin::create(library.creator(call.op), call.attributes.collection(), nvinfer1::TensorRTPhase::kBUILD);
    if (built == nullptr) failed(library, call, "createPlugin");
    const int32_t positions = static_cast<int32_t>(call.inputs.size() + call.outputs.size());
    for (int32_t position = 0; position < positions; ++position)
        if (!built->supports(position, call.inputs, call.outputs))
            failed(library, call, "supportsFormatCombination of position " + std::to_string(position));
    if (built->configure(call.inputs, call.inputs, call.outputs, call.outputs) != 0)
        failed(library, call, "configurePlugin");
    const size_t needed = built->workspace(call.inputs, call.outputs);
    if (needed > call.workspace_bytes)
        failed(library, call,
               "workspace of " + std::to_string(call.workspace_bytes) + " bytes, where " + std::to_string(needed) +
                   " are needed: the call");
    const auto copy = built->clone();
    const auto loaded = copy == nullptr ? nullptr : copy->deserialise();
    const auto attached = loaded == nullptr ? nullptr : loaded->attach();
    if (attached == nullptr) failed(library, call, "clone, deserialise or attach");
    if (attached->shape_change(call.inputs, call.outputs) != 0) failed(library, call, "onShapeChange");
    if (attached->enqueue(call.inputs, call.outputs, call.workspace, stream) != 0) failed(library, call, "enqueue");
}

} // namespace retentive::harness
