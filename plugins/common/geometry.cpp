// The rules of CacheGeometry (retentive_export/spec/geometry.py) and GateConfig (retentive_export/spec/gate.py).
#include <cmath>
#include <cstdint>
#include <limits>

#include "retentive/validate.h"

namespace retentive {
namespace {

constexpr int64_t kMostInt32 = std::numeric_limits<int32_t>::max();
constexpr int32_t kMostGroups = 64;        // query heads that the kernels serve with one KV head
constexpr int32_t kMostHeads = 65535;      // batch * kv_heads is a grid dimension
constexpr int32_t kMostGridRows = 32768;   // a cell, y * 65536 + x, is an int32
constexpr int32_t kMostMemorySide = 32767; // twice that times 65536 is an unsigned int

struct Number {
    const char *name;
    int32_t value;
    int32_t least;
    int32_t most = kMostInt32;
};

template <size_t N> int32_t check_ranges(const Number (&numbers)[N]) {
    for (const Number &number : numbers) {
        if (number.value < number.least || number.value > number.most) {
            if (number.most == kMostInt32)
                return fail(RETENTIVE_INVALID, "%s is %d; accepted: %d or more", number.name, number.value,
                            number.least);
            return fail(RETENTIVE_INVALID, "%s is %d; accepted: %d .. %d", number.name, number.value, number.least,
                        number.most);
        }
    }
    return RETENTIVE_OK;
}

int32_t check_sizes(const RetentiveGeometry &g) {
    const Number numbers[] = {
        {"batch", g.batch, 1},
        {"kv_heads", g.kv_heads, 1},
        {"q_heads", g.q_heads, 1},
        {"head_dim", g.head_dim, 1},
        {"dtype", g.dtype, RETENTIVE_FLOAT32, RETENTIVE_BFLOAT16},
        {"exact_rows", g.exact_rows, 0},
        {"coarse_rows", g.coarse_rows, 0},
        {"memory_grid[0]", g.memory_grid[0], 0},
        {"memory_grid[1]", g.memory_grid[1], 0},
        {"frame_grid[0]", g.frame_grid[0], 1, kMostGridRows},
        {"frame_grid[1]", g.frame_grid[1], 1, RETENTIVE_CELL_STRIDE},
        {"recall_rows", g.recall_rows, 0},
        {"memory_store", g.memory_store, RETENTIVE_STORE_EXACT, RETENTIVE_STORE_COARSE},
        {"sinks", g.sinks, 0},
        {"window", g.window, 1},
        {"chunk", g.chunk, 1},
        {"readout", g.readout, RETENTIVE_READOUT_NONE, RETENTIVE_READOUT_RESIDUAL},
        {"track_importance", g.track_importance, 0, 1},
        {"track_entropy", g.track_entropy, 0, 1},
    };
    if (const int32_t status = check_ranges(numbers)) return status;
    if (g.q_heads % g.kv_heads != 0)
        return fail(RETENTIVE_INVALID, "q_heads is %d; accepted: a multiple of kv_heads (%d)", g.q_heads, g.kv_heads);
    // Products of two int32 numbers fit in 64 bits; their sum with two more is looked at piece by piece.
    const int64_t visual = int64_t(g.memory_grid[0]) * g.memory_grid[1];
    const int64_t local = int64_t(g.exact_rows) + g.coarse_rows;
    if (visual > kMostInt32 || local + visual + g.recall_rows + g.chunk > kMostInt32)
        return fail(RETENTIVE_INVALID,
                    "exact_rows + coarse_rows + memory_grid + recall_rows + chunk is %d + %d + %d x %d + %d + %d; "
                    "accepted: %lld rows in all",
                    g.exact_rows, g.coarse_rows, g.memory_grid[0], g.memory_grid[1], g.recall_rows, g.chunk,
                    static_cast<long long>(kMostInt32));
    return RETENTIVE_OK;
}

int32_t check_protection(const RetentiveGeometry &g) {
    const int64_t kept = int64_t(g.sinks) + g.window;
    if (g.chunk > g.window)
        return fail(RETENTIVE_INVALID, "chunk is %d; accepted: 1 .. %d, the window", g.chunk, g.window);
    if (local_rows(g) < kept)
        return fail(RETENTIVE_INVALID,
                    "exact_rows + coarse_rows is %d + %d; accepted: at least sinks + window (%d + %d) rows",
                    g.exact_rows, g.coarse_rows, g.sinks, g.window);
    if (g.exact_rows == 0 || g.coarse_rows == 0) return RETENTIVE_OK;
    if (g.exact_rows < kept)
        return fail(RETENTIVE_INVALID,
                    "exact_rows is %d; accepted: with coarse rows, at least sinks + window (%d + %d)", g.exact_rows,
                    g.sinks, g.window);
    if (g.coarse_rows < g.chunk)
        return fail(RETENTIVE_INVALID, "coarse_rows is %d; accepted: 0, or at least the chunk (%d)", g.coarse_rows,
                    g.chunk);
    return RETENTIVE_OK;
}

int32_t check_memory(const RetentiveGeometry &g) {
    if (g.coarse_rows > 0 && g.coarse_dtype != RETENTIVE_INT8 && g.coarse_dtype != RETENTIVE_INT4)
        return fail(RETENTIVE_INVALID, "coarse_dtype is %d; accepted: %d (int8) or %d (int4)", g.coarse_dtype,
                    RETENTIVE_INT8, RETENTIVE_INT4);
    if (g.coarse_rows > 0 && g.coarse_dtype == RETENTIVE_INT4 && g.head_dim % 2 != 0)
        return fail(RETENTIVE_INVALID, "head_dim is %d; accepted: an even number, int4 packs two channels in a byte",
                    g.head_dim);
    const int32_t memory = memory_rows(g);
    if (memory > 0 && g.readout != RETENTIVE_READOUT_MASS)
        return fail(RETENTIVE_INVALID, "readout is %d with %d memory rows; accepted: %d (mass), which alone reads them",
                    g.readout, memory, RETENTIVE_READOUT_MASS);
    if (memory == 0 && g.readout == RETENTIVE_READOUT_MASS)
        return fail(RETENTIVE_INVALID,
                    "readout is %d (mass) without memory rows; accepted: with memory_grid or "
                    "recall_rows above 0",
                    g.readout);
    if (memory > 0 && g.memory_store == RETENTIVE_STORE_COARSE && g.coarse_rows == 0)
        return fail(RETENTIVE_INVALID, "memory_store is %d (coarse) without coarse_rows; accepted: %d (exact)",
                    g.memory_store, RETENTIVE_STORE_EXACT);
    return RETENTIVE_OK;
}

int32_t check_kernel_limits(const RetentiveGeometry &g) {
    if (g.head_dim % 8 != 0 || g.head_dim > RETENTIVE_MAX_HEAD_DIM)
        return fail(RETENTIVE_UNSUPPORTED, "head_dim is %d; accepted by the kernels: a multiple of 8, at most %d",
                    g.head_dim, RETENTIVE_MAX_HEAD_DIM);
    if (g.chunk > RETENTIVE_MAX_STEPS)
        return fail(RETENTIVE_UNSUPPORTED, "chunk is %d; accepted by the kernels: at most %d", g.chunk,
                    RETENTIVE_MAX_STEPS);
    for (const int32_t side : g.memory_grid)
        if (side > kMostMemorySide)
            return fail(RETENTIVE_UNSUPPORTED, "memory_grid is %d x %d; accepted by the kernels: sides of at most %d",
                        g.memory_grid[0], g.memory_grid[1], kMostMemorySide);
    if (groups(g) > kMostGroups)
        return fail(RETENTIVE_UNSUPPORTED,
                    "q_heads is %d with %d kv_heads; accepted by the kernels: at most %d times "
                    "kv_heads",
                    g.q_heads, g.kv_heads, kMostGroups);
    if (int64_t(g.batch) * g.kv_heads > kMostHeads)
        return fail(RETENTIVE_UNSUPPORTED, "batch * kv_heads is %d * %d; accepted by the kernels: at most %d", g.batch,
                    g.kv_heads, kMostHeads);
    if ((int64_t(rows(g)) + g.chunk) * g.head_dim > kMostInt32)
        return fail(RETENTIVE_UNSUPPORTED,
                    "(rows + chunk) * head_dim is (%d + %d) * %d; accepted by the kernels: at most %lld elements in "
                    "one KV head",
                    rows(g), g.chunk, g.head_dim, static_cast<long long>(kMostInt32));
    if ((int64_t(rows(g)) + kRoundedRows) * groups(g) > kMostInt32)
        return fail(
            RETENTIVE_UNSUPPORTED,
            "rows * query heads of a KV head is %d * %d; accepted by the kernels: about %lld logits in one KV head",
            rows(g), groups(g), static_cast<long long>(kMostInt32));
    return RETENTIVE_OK;
}

int32_t check_finite(const char *name, float value) {
    if (std::isfinite(value)) return RETENTIVE_OK;
    return fail(RETENTIVE_INVALID, "%s is %g; accepted: a finite number", name, double(value));
}

int32_t check_share(const char *name, float value) {
    if (value >= 0.0f && value <= 1.0f) return RETENTIVE_OK; // false for NaN
    return fail(RETENTIVE_INVALID, "%s is %g; accepted: 0 .. 1", name, double(value));
}

int32_t check_gain(const char *name, float value) {
    if (value >= 0.0f && std::isfinite(value)) return RETENTIVE_OK;
    return fail(RETENTIVE_INVALID, "%s is %g; accepted: a finite number, 0 or more", name, double(value));
}

int32_t check_sigmoid(const char *name, const RetentiveSigmoid &sigmoid) {
    if (sigmoid.enabled != 0 && sigmoid.enabled != 1)
        return fail(RETENTIVE_INVALID, "gate.%s.enabled is %d; accepted: 0 or 1", name, sigmoid.enabled);
    if (!std::isfinite(sigmoid.weight) || !std::isfinite(sigmoid.bias))
        return fail(RETENTIVE_INVALID, "gate.%s.weight is %g and gate.%s.bias %g; accepted: finite numbers", name,
                    double(sigmoid.weight), name, double(sigmoid.bias));
    return RETENTIVE_OK;
}

} // namespace

int32_t check(const RetentiveGeometry &geometry, bool for_kernels) {
    if (const int32_t status = check_sizes(geometry)) return status;
    if (const int32_t status = check_protection(geometry)) return status;
    if (const int32_t status = check_memory(geometry)) return status;
    return for_kernels ? check_kernel_limits(geometry) : int32_t(RETENTIVE_OK);
}

int32_t check(const RetentiveGate &gate) {
    if (const int32_t status = check_share("gate.lambda", gate.lambda_)) return status;
    if (const int32_t status = check_share("gate.importance_decay", gate.importance_decay)) return status;
    if (const int32_t status = check_share("gate.entropy_decay", gate.entropy_decay)) return status;
    if (const int32_t status = check_gain("gate.importance_gain", gate.importance_gain)) return status;
    if (const int32_t status = check_gain("gate.entropy_gain", gate.entropy_gain)) return status;
    if (const int32_t status = check_sigmoid("retention", gate.retention)) return status;
    if (const int32_t status = check_sigmoid("absorption", gate.absorption)) return status;
    if (const int32_t status = check_sigmoid("readout", gate.readout)) return status;
    const Number numbers[] = {{"gate.score", gate.score, RETENTIVE_SCORE_RETENTION, RETENTIVE_SCORE_RECENCY}};
    if (const int32_t status = check_ranges(numbers)) return status;
    return check_finite("gate.beta", gate.beta);
}

} // namespace retentive
