#include "wrong_calls.h"

#include <cmath>

namespace retentive::harness {
namespace {

constexpr size_t least_alignment = 16;

template <typename T> T *shifted(T *pointer) {
    return reinterpret_cast<T *>(reinterpret_cast<uintptr_t>(pointer) + least_alignment / 2);
}

/* Absent, and at an address that is no multiple of 16. `place` gives the pointer's place in the parameters. */
template <typename Params, typename Place>
void add_pointer(WrongCalls<Params> &calls, const std::string &name, Place place) {
    calls.push_back({name + " is NULL", RETENTIVE_INVALID, [place](Params &p) { place(p) = nullptr; }});
    calls.push_back({name + " is 0x", RETENTIVE_INVALID, [place](Params &p) { place(p) = shifted(place(p)); }});
}

template <typename Params, typename T>
void add_pointer(WrongCalls<Params> &calls, const char *name, T *Params::*member) {
    add_pointer(calls, name, [member](Params &p) -> T *& { return p.*member; });
}

template <typename Params, typename T>
void add_pointer(WrongCalls<Params> &calls, RetentiveState Params::*state, const char *prefix, const char *name,
                 T *RetentiveState::*member) {
    add_pointer(calls, std::string(prefix) + "." + name,
                [state, member](Params &p) -> T *& { return p.*state.*member; });
}

/* The pointers of a state that every operator reads but the gate. */
template <typename Params>
void add_state(WrongCalls<Params> &calls, RetentiveState Params::*state, const char *prefix) {
    add_pointer(calls, state, prefix, "key_rows", &RetentiveState::key_rows);
    add_pointer(calls, state, prefix, "value_rows", &RetentiveState::value_rows);
    add_pointer(calls, state, prefix, "key_codes", &RetentiveState::key_codes);
    add_pointer(calls, state, prefix, "value_codes", &RetentiveState::value_codes);
    add_pointer(calls, state, prefix, "value_scale", &RetentiveState::value_scale);
    add_pointer(calls, state, prefix, "row_meta", &RetentiveState::row_meta);
    add_pointer(calls, state, prefix, "memory_mass", &RetentiveState::memory_mass);
}

template <typename Params>
void add_statistics(WrongCalls<Params> &calls, RetentiveState Params::*state, const char *prefix) {
    add_pointer(calls, state, prefix, "importance", &RetentiveState::importance);
    add_pointer(calls, state, prefix, "entropy", &RetentiveState::entropy);
}

template <typename Params>
void add_geometry(WrongCalls<Params> &calls, const char *what, int32_t status,
                  std::function<void(RetentiveGeometry &)> spoil) {
    calls.push_back({what, status, [spoil = std::move(spoil)](Params &p) { spoil(p.geometry); }});
}

/* What is the same for every operator: sizes, T, workspace. */
template <typename Params> WrongCalls<Params> common() {
    WrongCalls<Params> calls;
    const auto add = [&](const char *what, std::function<void(RetentiveGeometry &)> spoil) {
        add_geometry(calls, what, RETENTIVE_INVALID, std::move(spoil));
    };
    add("batch is 0", [](RetentiveGeometry &g) { g.batch = 0; });
    add("kv_heads is -1", [](RetentiveGeometry &g) { g.kv_heads = -1; });
    add("q_heads is 3", [](RetentiveGeometry &g) { g.q_heads = 3; });
    add("head_dim is 0", [](RetentiveGeometry &g) { g.head_dim = 0; });
    add("dtype is 3", [](RetentiveGeometry &g) { g.dtype = RETENTIVE_INT8; });
    add("coarse_dtype is 2", [](RetentiveGeometry &g) { g.coarse_dtype = RETENTIVE_BFLOAT16; });
    add("exact_rows + coarse_rows is 0 + 0", [](RetentiveGeometry &g) { g.exact_rows = g.coarse_rows = 0; });
    add("coarse_rows is 1;", [](RetentiveGeometry &g) { g.coarse_rows = 1; });
    add("window is 0", [](RetentiveGeometry &g) { g.window = 0; });
    add("window (1000 + ", [](RetentiveGeometry &g) { g.sinks = 1000; });
    add("chunk is 100", [](RetentiveGeometry &g) { g.chunk = 100; });
    add("readout is 0 with 11 memory rows", [](RetentiveGeometry &g) { g.readout = RETENTIVE_READOUT_NONE; });
    add("memory_store is 2", [](RetentiveGeometry &g) { g.memory_store = 2; });
    add_geometry(calls, "head_dim is 68", RETENTIVE_UNSUPPORTED, [](RetentiveGeometry &g) { g.head_dim = 68; });
    add_geometry(calls, "head_dim is 264", RETENTIVE_UNSUPPORTED, [](RetentiveGeometry &g) { g.head_dim = 264; });
    add_geometry(calls, "memory_grid is 32768 x 1", RETENTIVE_UNSUPPORTED,
                 [](RetentiveGeometry &g) { g.memory_grid[0] = 32768, g.memory_grid[1] = 1; });
    add_geometry(calls, "rows * query heads of a KV head is 1000", RETENTIVE_UNSUPPORTED,
                 [](RetentiveGeometry &g) { g.head_dim = 8, g.q_heads = 64 * g.kv_heads, g.exact_rows = 100'000'000; });
    for (const int32_t wrong : {0, -1, refusal_steps + 1})
        calls.push_back(
            {"steps is " + std::to_string(wrong), RETENTIVE_INVALID, [wrong](Params &p) { p.steps = wrong; }});
    return calls;
}

template <typename Params> void add_workspace(WrongCalls<Params> &calls, size_t bytes) {
    if (bytes == 0) return;
    calls.push_back({"workspace_bytes is " + std::to_string(bytes - 1), RETENTIVE_INVALID,
                     [bytes](Params &p) { p.workspace_bytes = bytes - 1; }});
    add_pointer(calls, "workspace", &Params::workspace);
}

template <typename Params> void add_gate(WrongCalls<Params> &calls) {
    calls.push_back({"gate.lambda is nan", RETENTIVE_INVALID, [](Params &p) { p.gate.lambda_ = NAN; }});
    calls.push_back({"gate.importance_decay is 2", RETENTIVE_INVALID, [](Params &p) { p.gate.importance_decay = 2; }});
    calls.push_back({"gate.score is 2", RETENTIVE_INVALID, [](Params &p) { p.gate.score = 2; }});
    calls.push_back({"gate.readout.enabled is 2", RETENTIVE_INVALID, [](Params &p) { p.gate.readout.enabled = 2; }});
}

/* Query, key, value, token_meta, key_scale, output, scale: the attention and the whole step. */
template <typename Params> void add_tokens(WrongCalls<Params> &calls) {
    add_pointer(calls, "key", &Params::key);
    add_pointer(calls, "value", &Params::value);
    add_pointer(calls, "token_meta", &Params::token_meta);
    add_pointer(calls, "key_scale", &Params::key_scale);
}
template <typename Params> void add_queries(WrongCalls<Params> &calls) {
    add_pointer(calls, "query", &Params::query);
    add_pointer(calls, "output", &Params::output);
    calls.push_back({"scale is inf", RETENTIVE_INVALID, [](Params &p) { p.scale = HUGE_VALF; }});
}

} // namespace

WrongCalls<RetentiveAttentionParams> wrong_attention_calls(size_t workspace) {
    using P = RetentiveAttentionParams;
    auto calls = common<P>();
    add_gate(calls);
    add_tokens(calls);
    add_queries(calls);
    add_pointer(calls, "received", &P::received);
    add_pointer(calls, "surprise", &P::surprise);
    add_pointer(calls, "visual_entropy", &P::visual_entropy);
    add_state(calls, &P::state, "state");
    add_workspace(calls, workspace);
    return calls;
}

WrongCalls<RetentiveGateParams> wrong_gate_calls(size_t workspace) {
    using P = RetentiveGateParams;
    auto calls = common<P>();
    add_gate(calls);
    add_pointer(calls, "received", &P::received);
    add_pointer(calls, "surprise", &P::surprise);
    add_pointer(calls, "visual_entropy", &P::visual_entropy);
    add_pointer(calls, "token_meta", &P::token_meta);
    add_pointer(calls, &P::state, "state", "row_meta", &RetentiveState::row_meta);
    add_statistics(calls, &P::state, "state");
    add_pointer(calls, "victims", &P::victims);
    add_pointer(calls, "importance_next", &P::importance_next);
    add_pointer(calls, "entropy_next", &P::entropy_next);
    add_pointer(calls, "absorption", &P::absorption);
    add_pointer(calls, "retention", &P::retention);
    add_workspace(calls, workspace);
    return calls;
}

WrongCalls<RetentiveTransitionParams> wrong_transition_calls(size_t workspace) {
    using P = RetentiveTransitionParams;
    auto calls = common<P>();
    add_tokens(calls);
    add_pointer(calls, "victims", &P::victims);
    add_pointer(calls, "importance_next", &P::importance_next);
    add_pointer(calls, "entropy_next", &P::entropy_next);
    add_pointer(calls, "absorption", &P::absorption);
    add_pointer(calls, "retention", &P::retention);
    add_state(calls, &P::before, "before");
    add_state(calls, &P::after, "after");
    add_statistics(calls, &P::after, "after");
    add_workspace(calls, workspace);
    return calls;
}

WrongCalls<RetentiveStepParams> wrong_step_calls(size_t workspace) {
    using P = RetentiveStepParams;
    auto calls = common<P>();
    add_gate(calls);
    add_tokens(calls);
    add_queries(calls);
    add_state(calls, &P::state, "state");
    add_statistics(calls, &P::state, "state");
    calls.push_back({"victims is 0x", RETENTIVE_INVALID, [](P &p) { p.victims = shifted(p.victims); }});
    add_workspace(calls, workspace);
    return calls;
}

WrongCalls<RetentiveStepParams> wrong_part_calls(size_t workspace) {
    auto calls = wrong_step_calls(workspace);
    calls.push_back(
        {"steps is 2: a step in two parts takes 1", RETENTIVE_INVALID, [](RetentiveStepParams &p) { p.steps = 2; }});
    return calls;
}

} // namespace retentive::harness
