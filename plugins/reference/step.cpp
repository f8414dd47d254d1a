// A layer's whole step, in place: the three operators, their results between them in temporary buffers.
#include <cstdint>
#include <vector>

#include "operators.h"
#include "retentive/validate.h"

namespace retentive::reference {

void step(const RetentiveStepParams &params) {
    const RetentiveGeometry &g = params.geometry;
    const size_t heads = size_t(g.batch) * size_t(g.kv_heads), steps = size_t(params.steps);
    std::vector<float> received(heads * (size_t(rows(g)) + steps)), surprise(received.size()), visual_entropy(heads);
    RetentiveAttentionParams attend{};
    attend.geometry = g;
    attend.gate = params.gate;
    attend.scale = params.scale;
    attend.steps = params.steps;
    attend.query = params.query;
    attend.key = params.key;
    attend.value = params.value;
    attend.token_meta = params.token_meta;
    attend.key_scale = params.key_scale;
    attend.state = params.state;
    attend.output = params.output;
    attend.received = received.data();
    attend.surprise = surprise.data();
    attend.visual_entropy = visual_entropy.data();
    attention(attend);

    std::vector<int64_t> victims(heads * size_t(tiers(g)) * steps);
    std::vector<float> importance(heads * (size_t(local_rows(g)) + steps)), entropy(importance.size());
    std::vector<float> absorption(heads * steps), retention(heads);
    RetentiveGateParams decide{};
    decide.geometry = g;
    decide.gate = params.gate;
    decide.steps = params.steps;
    decide.received = received.data();
    decide.surprise = surprise.data();
    decide.visual_entropy = visual_entropy.data();
    decide.token_meta = params.token_meta;
    decide.state = params.state;
    decide.victims = params.victims != nullptr ? params.victims : victims.data();
    decide.importance_next = importance.data();
    decide.entropy_next = entropy.data();
    decide.absorption = absorption.data();
    decide.retention = retention.data();
    gate(decide);

    RetentiveTransitionParams move{};
    move.geometry = g;
    move.steps = params.steps;
    move.victims = decide.victims;
    move.importance_next = importance.data();
    move.entropy_next = entropy.data();
    move.absorption = absorption.data();
    move.retention = retention.data();
    move.key = params.key;
    move.value = params.value;
    move.token_meta = params.token_meta;
    move.key_scale = params.key_scale;
    move.before = params.state;
    move.after = params.state;
    transition(move);
}

} // namespace retentive::reference
