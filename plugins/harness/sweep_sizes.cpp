#include "sweep_sizes.h"

#include <algorithm>
#include <cmath>

namespace retentive::harness {
namespace {

using Sizes = std::vector<SweepSize>;

constexpr int32_t kv_heads = 8, group = 4, sinks = 4, window = 64;

RetentiveGate sweep_gate() {
    RetentiveGate gate{};
    gate.lambda_ = 0.5F;
    gate.score = RETENTIVE_SCORE_RETENTION;
    gate.importance_decay = gate.entropy_decay = 0.98F;
    gate.importance_gain = gate.entropy_gain = 0.02F;
    return gate; /* sigmoids off */
}

/* bfloat16 rows of 128 channels, all exact. */
RetentiveGeometry exact_layer(int32_t rows) {
    RetentiveGeometry g{};
    g.batch = 1;
    g.kv_heads = kv_heads;
    g.q_heads = kv_heads * group;
    g.head_dim = 128;
    g.dtype = RETENTIVE_BFLOAT16;
    g.coarse_dtype = RETENTIVE_INT4;
    g.exact_rows = rows;
    g.frame_grid[0] = g.frame_grid[1] = 24;
    g.sinks = sinks;
    g.window = g.chunk = window;
    g.track_importance = g.track_entropy = 1;
    return g;
}

/* All rows coarse but those that must be exact, or `exact` of them. */
RetentiveGeometry coarse_layer(int32_t rows, int32_t dtype, int32_t exact = sinks + window) {
    RetentiveGeometry g = exact_layer(exact);
    g.coarse_rows = rows - exact;
    g.coarse_dtype = dtype;
    return g;
}

/* Some of the exact rows become memory: a grid of places on the frame, and rows to be recalled by key. */
RetentiveGeometry with_memory(RetentiveGeometry g, int32_t side = 8, int32_t recall_rows = 64) {
    g.memory_grid[0] = g.memory_grid[1] = side;
    g.recall_rows = recall_rows;
    g.exact_rows -= side * side + recall_rows;
    g.readout = RETENTIVE_READOUT_MASS;
    return g;
}

void add(Sizes &sizes, const char *topic, Operation operation, const RetentiveGeometry &g, int32_t steps = 1) {
    Case layer{};
    layer.name = std::string(topic) + ": " + describe(g, {steps});
    layer.geometry = g;
    layer.gate = sweep_gate();
    layer.scale = 1.0F / std::sqrt(static_cast<float>(g.head_dim));
    layer.steps = {steps};
    layer.seed = 1;
    sizes.push_back({operation, layer});
}

void add_decode(Sizes &sizes) {
    const auto decode = [&](const RetentiveGeometry &g) { add(sizes, "decode", Operation::step, g); };
    for (const int32_t rows : {256, 1024, 4096, 16384, 65536}) decode(exact_layer(rows));
    for (const int32_t rows : {4096, 16384}) {
        RetentiveGeometry g = exact_layer(rows);
        g.batch = 8;
        decode(g);
    }
    for (const int32_t dtype : {RETENTIVE_INT8, RETENTIVE_INT4})
        for (const int32_t rows : {4096, 16384, 65536}) decode(coarse_layer(rows, dtype));
    for (const int32_t rows : {1024, 4096, 16384, 65536})
        add(sizes, "decode, settled aside", Operation::aside, exact_layer(rows));
    for (const int32_t rows : {16384, 65536})
        add(sizes, "decode, settled aside", Operation::aside, coarse_layer(rows, RETENTIVE_INT4));
    add(sizes, "decode, settled aside", Operation::aside, with_memory(exact_layer(16384), 24, 1024));
    for (const int32_t rows : {1024, 4096, 16384, 65536})
        add(sizes, "decode, output alone", Operation::output, exact_layer(rows));
    for (const int32_t dtype : {RETENTIVE_INT8, RETENTIVE_INT4})
        for (const int32_t rows : {16384, 65536})
            add(sizes, "decode, output alone", Operation::output, coarse_layer(rows, dtype));
    for (const int32_t rows : {1024, 4096, 16384, 65536})
        add(sizes, "decode, floor", Operation::floor, exact_layer(rows));
    for (const int32_t dtype : {RETENTIVE_INT8, RETENTIVE_INT4})
        for (const int32_t rows : {16384, 65536})
            add(sizes, "decode, floor", Operation::floor, coarse_layer(rows, dtype));
    decode(with_memory(exact_layer(16384)));
    decode(with_memory(exact_layer(16384), 24, 1024));
    decode(with_memory(coarse_layer(16384, RETENTIVE_INT4, 4096)));
    RetentiveGeometry many = with_memory(exact_layer(16384), 24, 1024);
    many.batch = 8;
    decode(many);
    add(sizes, "decode, settled aside", Operation::aside, many);
    for (const int32_t dtype : {RETENTIVE_FLOAT16, RETENTIVE_FLOAT32}) {
        RetentiveGeometry g = exact_layer(16384);
        g.dtype = dtype;
        decode(g);
    }
    for (const int32_t dim : {64, 256}) {
        RetentiveGeometry g = exact_layer(16384);
        g.head_dim = dim;
        decode(g);
    }
    for (const int32_t rows : {4096, 16384})
        add(sizes, "decode, operator by operator", Operation::operators, exact_layer(rows));
}

void add_prefill(Sizes &sizes, int32_t rows, int32_t steps) {
    RetentiveGeometry g = exact_layer(rows);
    g.window = g.chunk = std::max(steps, window);
    add(sizes, "prefill", Operation::step, g, steps);
    add(sizes, "prefill, operator by operator", Operation::operators, g, steps);
    add(sizes, "prefill, attention", Operation::attention, g, steps);
    add(sizes, "prefill, gate", Operation::gate, g, steps);
    add(sizes, "prefill, transition", Operation::transition, g, steps);
}

/* Few: their check on the CPU takes long. */
void add_prefill(Sizes &sizes) {
    add_prefill(sizes, 4096, 256);
    const auto attention = [&](RetentiveGeometry g, int32_t steps) {
        g.window = g.chunk = 256;
        add(sizes, "prefill, attention", Operation::attention, g, steps);
    };
    attention(exact_layer(4096), 32);
    attention(coarse_layer(4096, RETENTIVE_INT4, sinks + 256), 256);
    RetentiveGeometry g = exact_layer(4096);
    g.dtype = RETENTIVE_FLOAT32;
    attention(g, 256);
}

void add_quick(Sizes &sizes) {
    add(sizes, "decode", Operation::step, exact_layer(256));
    add(sizes, "decode", Operation::step, with_memory(coarse_layer(512, RETENTIVE_INT4, 200)));
    add(sizes, "decode, output alone", Operation::output, coarse_layer(512, RETENTIVE_INT4, 200));
    add(sizes, "decode, floor", Operation::floor, coarse_layer(512, RETENTIVE_INT4, 200));
    add_prefill(sizes, 256, 8);
}

} // namespace

const char *operation_name(Operation operation) {
    static constexpr const char *names[] = {"step",      "aside",     "output", "floor",
                                            "operators", "attention", "gate",   "transition"};
    return names[static_cast<int>(operation)];
}

Sizes select_sizes(bool quick, const std::string &filter) {
    Sizes sizes;
    if (quick) {
        add_quick(sizes);
    } else {
        add_decode(sizes);
        add_prefill(sizes);
    }
    const auto other = [&](const SweepSize &size) { return size.layer.name.find(filter) == std::string::npos; };
    sizes.erase(std::remove_if(sizes.begin(), sizes.end(), other), sizes.end());
    return sizes;
}

} // namespace retentive::harness
