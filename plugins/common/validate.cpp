// Rules of a call: T, the presence and alignment of every pointer, the workspace.
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "retentive/validate.h"

namespace retentive {
namespace {

constexpr uintptr_t kAlignment = 16;

thread_local char last_message[512] = "";

int32_t check_scale(float scale) {
    if (std::isfinite(scale)) return RETENTIVE_OK;
    return fail(RETENTIVE_INVALID, "scale is %g; accepted: a finite number", double(scale));
}

int32_t check_steps(const RetentiveGeometry &g, int32_t steps) {
    if (steps >= 1 && steps <= g.chunk) return RETENTIVE_OK;
    return fail(RETENTIVE_INVALID, "steps is %d; accepted: 1 .. %d, the chunk", steps, g.chunk);
}

struct Pointer {
    const char *name;
    const void *address;
    bool needed = true;
};

template <size_t N> int32_t check_pointers(const char *where, const Pointer (&pointers)[N]) {
    for (const Pointer &pointer : pointers) {
        if (!pointer.needed) continue;
        if (pointer.address == nullptr) return fail(RETENTIVE_INVALID, "%s%s is NULL", where, pointer.name);
        if (reinterpret_cast<uintptr_t>(pointer.address) % kAlignment != 0)
            return fail(RETENTIVE_INVALID, "%s%s is %p; accepted: an address that is a multiple of %d", where,
                        pointer.name, pointer.address, int(kAlignment));
    }
    return RETENTIVE_OK;
}

// The layer's state, `where` being the prefix of its fields' names.
int32_t check_state(const RetentiveGeometry &g, const RetentiveState &state, const char *where, bool statistics) {
    const bool exact = exact_store_rows(g) > 0, coarse = coarse_store_rows(g) > 0;
    const bool residual = g.readout == RETENTIVE_READOUT_RESIDUAL;
    const Pointer pointers[] = {
        {"key_rows", state.key_rows, exact},
        {"value_rows", state.value_rows, exact},
        {"key_codes", state.key_codes, coarse},
        {"value_codes", state.value_codes, coarse},
        {"value_scale", state.value_scale, coarse},
        {"row_meta", state.row_meta},
        {"importance", state.importance, statistics && g.track_importance != 0},
        {"entropy", state.entropy, statistics && g.track_entropy != 0},
        {"memory_mass", state.memory_mass, memory_rows(g) > 0},
        {"recall_state", state.recall_state, residual},
        {"visual_state", state.visual_state, residual},
    };
    return check_pointers(where, pointers);
}

int32_t check_workspace(const void *workspace, size_t given, size_t needed) {
    if (given < needed) return fail(RETENTIVE_INVALID, "workspace_bytes is %zu; accepted: at least %zu", given, needed);
    const Pointer pointers[] = {{"workspace", workspace, needed > 0}};
    return check_pointers("", pointers);
}

} // namespace

int32_t fail(int32_t status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(last_message, sizeof last_message, format, arguments);
    va_end(arguments);
    return status;
}

const char *message() { return last_message; }

int32_t check(const RetentiveAttentionParams &params, bool for_kernels, size_t workspace) {
    const RetentiveGeometry &g = params.geometry;
    if (const int32_t status = check(g, for_kernels)) return status;
    if (const int32_t status = check(params.gate)) return status;
    if (const int32_t status = check_scale(params.scale)) return status;
    if (const int32_t status = check_steps(g, params.steps)) return status;
    const Pointer pointers[] = {
        {"query", params.query},
        {"key", params.key},
        {"value", params.value},
        {"token_meta", params.token_meta},
        {"output", params.output},
        {"key_scale", params.key_scale, g.coarse_rows > 0},
        {"received", params.received},
        {"surprise", params.surprise},
        {"visual_entropy", params.visual_entropy},
    };
    if (const int32_t status = check_pointers("", pointers)) return status;
    if (const int32_t status = check_state(g, params.state, "state.", false)) return status;
    return check_workspace(params.workspace, params.workspace_bytes, workspace);
}

int32_t check(const RetentiveGateParams &params, bool for_kernels, size_t workspace) {
    const RetentiveGeometry &g = params.geometry;
    if (const int32_t status = check(g, for_kernels)) return status;
    if (const int32_t status = check(params.gate)) return status;
    if (const int32_t status = check_steps(g, params.steps)) return status;
    const Pointer pointers[] = {
        {"received", params.received},
        {"surprise", params.surprise},
        {"visual_entropy", params.visual_entropy},
        {"token_meta", params.token_meta},
        {"state.row_meta", params.state.row_meta},
        {"state.importance", params.state.importance, g.track_importance != 0},
        {"state.entropy", params.state.entropy, g.track_entropy != 0},
        {"victims", params.victims},
        {"importance_next", params.importance_next},
        {"entropy_next", params.entropy_next},
        {"absorption", params.absorption},
        {"retention", params.retention},
    };
    if (const int32_t status = check_pointers("", pointers)) return status;
    return check_workspace(params.workspace, params.workspace_bytes, workspace);
}

int32_t check(const RetentiveTransitionParams &params, bool for_kernels, size_t workspace) {
    const RetentiveGeometry &g = params.geometry;
    if (const int32_t status = check(g, for_kernels)) return status;
    if (const int32_t status = check_steps(g, params.steps)) return status;
    const Pointer pointers[] = {
        {"victims", params.victims},
        {"importance_next", params.importance_next},
        {"entropy_next", params.entropy_next},
        {"absorption", params.absorption},
        {"retention", params.retention},
        {"key", params.key},
        {"value", params.value},
        {"token_meta", params.token_meta},
        {"key_scale", params.key_scale, g.coarse_rows > 0},
    };
    if (const int32_t status = check_pointers("", pointers)) return status;
    if (const int32_t status = check_state(g, params.before, "before.", false)) return status;
    if (const int32_t status = check_state(g, params.after, "after.", true)) return status;
    return check_workspace(params.workspace, params.workspace_bytes, workspace);
}

int32_t check(const RetentiveStepParams &params, bool for_kernels, size_t workspace) {
    const RetentiveGeometry &g = params.geometry;
    if (const int32_t status = check(g, for_kernels)) return status;
    if (const int32_t status = check(params.gate)) return status;
    if (const int32_t status = check_scale(params.scale)) return status;
    if (const int32_t status = check_steps(g, params.steps)) return status;
    const Pointer pointers[] = {
        {"query", params.query},
        {"key", params.key},
        {"value", params.value},
        {"token_meta", params.token_meta},
        {"key_scale", params.key_scale, g.coarse_rows > 0},
        {"output", params.output},
        {"victims", params.victims, params.victims != nullptr},
    };
    if (const int32_t status = check_pointers("", pointers)) return status;
    if (const int32_t status = check_state(g, params.state, "state.", true)) return status;
    return check_workspace(params.workspace, params.workspace_bytes, workspace);
}

int32_t check_part(const RetentiveStepParams &params) {
    if (params.steps == 1) return RETENTIVE_OK;
    return fail(RETENTIVE_INVALID, "steps is %d: a step in two parts takes 1", params.steps);
}

} // namespace retentive
