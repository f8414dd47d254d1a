#include "generate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "retentive/validate.h"

namespace retentive::harness {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

size_t heads(const RetentiveGeometry &g) { return static_cast<size_t>(g.batch) * g.kv_heads; }
float levels(const RetentiveGeometry &g) { return g.coarse_dtype == RETENTIVE_INT4 ? 7.0F : 127.0F; }

/* Channels of real keys differ in size. */
float channel_size(int32_t channel) { return 0.5F + 1.5F * std::fmod(0.618034F * static_cast<float>(channel), 1.0F); }

int32_t code_of(float x, float scale, float level) {
    return scale > 0.0F ? static_cast<int32_t>(std::clamp(std::nearbyint(x / scale), -level, level)) : 0;
}

void store_code(const RetentiveGeometry &g, void *codes, size_t row, int32_t channel, int32_t code) {
    auto *bytes = static_cast<unsigned char *>(codes) + row * code_bytes(g);
    const int32_t half = g.head_dim / 2;
    if (g.coarse_dtype == RETENTIVE_INT8)
        bytes[channel] = static_cast<unsigned char>(code);
    else if (channel < half)
        bytes[channel] = static_cast<unsigned char>((bytes[channel] & 0xf0) | (code + 8));
    else
        bytes[channel - half] = static_cast<unsigned char>((bytes[channel - half] & 0x0f) | (code + 8) << 4);
}

/* Cell of a memory row's anchor; -1 for a recall row (retentive_export/cache/memory.py, `anchors`). */
int32_t anchor(const RetentiveGeometry &g, int32_t memory_row) {
    if (memory_row >= visual_rows(g)) return -1;
    const int32_t i = memory_row / g.memory_grid[1], j = memory_row % g.memory_grid[1];
    return (2 * i + 1) * g.frame_grid[0] / (2 * g.memory_grid[0]) * RETENTIVE_CELL_STRIDE +
           (2 * j + 1) * g.frame_grid[1] / (2 * g.memory_grid[1]);
}

/* Tokens seen before the case starts: more than the rows, so that some have left already. */
int32_t tokens_before(const Case &c) {
    return c.fill == Fill::none ? 0 : local_rows(c.geometry) + local_rows(c.geometry) / 3 + 3;
}

} // namespace

Generator::Generator(const Case &c)
    : case_(c), g_(c.geometry), random_(c.seed),
      next_position_(static_cast<size_t>(c.geometry.batch), tokens_before(c)) {}

HostTensors Generator::state() {
    HostTensors state(state_specs(g_));
    if (exact_store_rows(g_) > 0) fill_rows(state);
    if (coarse_store_rows(g_) > 0) fill_codes(state);
    fill_meta(state);
    fill_statistics(state);
    return state;
}

HostTensors Generator::inputs(int32_t steps) {
    HostTensors inputs(input_specs(g_, steps));
    fill_tokens(inputs, steps);
    fill_token_meta(inputs, steps);
    spoil(inputs, steps);
    if (auto *scale = inputs.as<float>("key_scale"))
        for (int32_t i = 0; i < g_.kv_heads * g_.head_dim; ++i) scale[i] = key_scale(i / g_.head_dim, i % g_.head_dim);
    ++calls_;
    return inputs;
}

/* Rows without a token hold numbers too: they must not matter. */
void Generator::fill_rows(HostTensors &state) {
    void *keys = state.at("key_rows"), *values = state.at("value_rows");
    const auto dim = static_cast<size_t>(g_.head_dim), rows = static_cast<size_t>(exact_store_rows(g_));
    for (size_t i = 0; i < heads(g_) * rows * dim; ++i) {
        store(keys, i, g_.dtype, key_element(static_cast<int32_t>(i % dim)));
        store(values, i, g_.dtype, random_.normal());
    }
    if (case_.hostile != Hostile::infinite_query) return;
    for (size_t row = 0; row < heads(g_) * rows; ++row) /* 1/64 apart: distinct and exact in every type */
        store(keys, row * dim, g_.dtype, static_cast<float>(row % rows * 25 % 64 + 1) / 64.0F);
}

void Generator::fill_codes(HostTensors &state) {
    void *keys = state.at("key_codes"), *values = state.at("value_codes");
    auto *scales = state.as<float>("value_scale");
    const float level = levels(g_);
    const auto rows = static_cast<size_t>(coarse_store_rows(g_));
    std::vector<float> value(static_cast<size_t>(g_.head_dim));
    for (size_t row = 0; row < heads(g_) * rows; ++row) {
        const auto head = static_cast<int32_t>(row / rows % g_.kv_heads);
        for (float &x : value) x = random_.normal();
        float largest = 0.0F;
        for (const float x : value) largest = std::max(largest, std::fabs(x));
        scales[row] = largest / level;
        for (int32_t d = 0; d < g_.head_dim; ++d) {
            store_code(g_, keys, row, d, code_of(key_element(d), key_scale(head, d), level));
            store_code(g_, values, row, d, code_of(value[static_cast<size_t>(d)], scales[row], level));
        }
    }
}

void Generator::fill_meta(HostTensors &state) {
    auto *meta = state.as<int32_t>("row_meta");
    auto *mass = state.as<float>("memory_mass");
    const int32_t local = local_rows(g_), memory = memory_rows(g_), seen = std::max(tokens_before(case_), local);
    std::vector<int32_t> positions(static_cast<size_t>(seen));
    for (size_t head = 0; head < heads(g_); ++head) {
        std::iota(positions.begin(), positions.end(), 0);
        for (int32_t i = 0; i < local; ++i) std::swap(positions[i], positions[i + random_.below(seen - i)]);
        const int32_t recalled =
            random_.chance(0.5) ? g_.recall_rows : g_.recall_rows * 3 / 5; /* used from the front */
        for (int32_t row = 0; row < local + memory; ++row, meta += 2) {
            const int32_t memory_row = row - local, recall_row = memory_row - visual_rows(g_);
            bool there = occupied(row);
            if (recall_row >= 0) there = there && recall_row < recalled;
            const int32_t where = memory_row < 0 ? cell() : anchor(g_, memory_row);
            meta[0] = !there ? -1 : memory_row < 0 ? positions[row] : random_.below(seen);
            meta[1] = there ? where : -1;
            if (memory_row < 0) continue;
            const bool massless = case_.hostile == Hostile::zero_mass && random_.chance(0.4);
            *mass++ = there && !massless ? 1.0F + 20.0F * static_cast<float>(random_.uniform()) : 0.0F;
        }
    }
}

void Generator::fill_statistics(HostTensors &state) {
    for (const char *name : {"importance", "entropy"}) {
        auto *statistic = state.as<float>(name);
        for (size_t i = 0; statistic != nullptr && i < heads(g_) * local_rows(g_); ++i)
            statistic[i] = case_.hostile == Hostile::no_weight ? 0.0F : 0.01F * std::exp2(2.0F * random_.normal());
    }
    for (const char *name : {"recall_state", "visual_state"})
        if (auto *matrix = state.as<float>(name))
            for (size_t i = 0; i < heads(g_) * g_.head_dim * g_.head_dim; ++i) matrix[i] = 3.0F * random_.normal();
}

void Generator::fill_tokens(HostTensors &inputs, int32_t steps) {
    const auto dim = static_cast<size_t>(g_.head_dim), tokens = heads(g_) * static_cast<size_t>(steps);
    const float size = case_.hostile == Hostile::huge_logits ? 1e4F : 2.0F;
    const float most = g_.dtype == RETENTIVE_FLOAT16 ? 6e4F : 1e6F;
    for (size_t i = 0; i < tokens * groups(g_) * dim; ++i)
        store(inputs.at("query"), i, g_.dtype, std::clamp(size * random_.normal(), -most, most));
    for (size_t i = 0; i < tokens * dim; ++i) {
        store(inputs.at("key"), i, g_.dtype, key_element(static_cast<int32_t>(i % dim)));
        store(inputs.at("value"), i, g_.dtype, random_.normal());
    }
}

void Generator::fill_token_meta(HostTensors &inputs, int32_t steps) {
    auto *meta = inputs.as<int32_t>("token_meta");
    for (int32_t element = 0; element < g_.batch; ++element)
        for (int32_t token = 0; token < steps; ++token, meta += 2) {
            const int32_t where = cell();
            const bool padding = padded(element, token, steps);
            meta[0] = padding ? -1 : next_position_[static_cast<size_t>(element)]++;
            meta[1] = padding ? -1 : where;
        }
}

/* Hostile numbers in the new tokens. Infinite keys stand in another channel at each step: two of them in one channel
 * would tie, and which of two tied logits is larger is up to rounding. */
void Generator::spoil(HostTensors &inputs, int32_t steps) {
    const auto dim = static_cast<size_t>(g_.head_dim), tokens = heads(g_) * static_cast<size_t>(steps);
    void *query = inputs.at("query"), *key = inputs.at("key"), *value = inputs.at("value");
    if (case_.hostile == Hostile::infinite_query) {
        for (size_t i = 0; i < tokens * groups(g_); ++i)
            store(query, i * dim, g_.dtype, i % 2 == 0 ? infinity : -infinity);
        for (size_t i = 0; i < tokens; ++i) store(key, i * dim, g_.dtype, 0.0F);
    }
    if (case_.hostile != Hostile::not_finite) return;
    for (size_t i = 0; i < tokens * groups(g_); ++i) store(query, i * dim + i % dim, g_.dtype, nan);
    for (size_t i = 0; i < tokens; ++i) {
        store(key, i * dim + (3 * i + 1) % dim, g_.dtype, nan);
        store(value, i * dim + (5 * i + 2) % dim, g_.dtype, nan);
    }
    for (size_t head = 0; head < heads(g_); ++head) {
        const size_t last = (head + 1) * static_cast<size_t>(steps) - 1;
        store(key, last * dim + static_cast<size_t>(7 * calls_ + 4) % dim, g_.dtype,
              head % 2 == 0 ? infinity : -infinity);
        store(value, last * dim + 9 % dim, g_.dtype, infinity);
        store(value, last * dim + 10 % dim, g_.dtype, -infinity);
    }
}

bool Generator::occupied(int32_t row) {
    const bool exact = row < g_.exact_rows, memory = row >= local_rows(g_);
    switch (case_.fill) {
    case Fill::full: return !memory || row >= local_rows(g_) + visual_rows(g_) || random_.chance(0.8);
    case Fill::partly: return random_.chance(0.6);
    case Fill::none: return false;
    case Fill::no_exact: return !exact;
    case Fill::no_coarse: return exact || memory;
    case Fill::no_memory: return !memory;
    }
    return true;
}

bool Generator::padded(int32_t element, int32_t token, int32_t steps) const {
    switch (case_.padding) {
    case Padding::none: return false;
    case Padding::end: return token >= steps - steps / 3;
    case Padding::scattered: return token % 3 == 1;
    case Padding::one_element: return element == g_.batch - 1;
    }
    return false;
}

/* A visual token's place on the frame's grid, or -1 for text. */
int32_t Generator::cell() {
    const int32_t y = random_.below(g_.frame_grid[0]), x = random_.below(g_.frame_grid[1]);
    const bool visual = case_.content == Content::visual || (case_.content == Content::mixed && random_.chance(0.6));
    return visual ? y * RETENTIVE_CELL_STRIDE + x : -1;
}

float Generator::key_element(int32_t channel) { return channel_size(channel) * random_.normal(); }

/* A key of 3.3 times its channel's size or more saturates. */
float Generator::key_scale(int32_t head, int32_t channel) const {
    if (case_.hostile == Hostile::zero_mass && head == 0 && channel == 3) return 0.0F;
    return 3.3F * channel_size(channel) / levels(g_);
}

} // namespace retentive::harness
