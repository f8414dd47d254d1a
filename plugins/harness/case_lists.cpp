#include <algorithm>

#include "cases.h"

namespace retentive::harness {
namespace {

using Requests = std::vector<CaseRequest>;

constexpr int32_t float_types[] = {RETENTIVE_FLOAT32, RETENTIVE_FLOAT16, RETENTIVE_BFLOAT16};
constexpr int32_t groups_tried[] = {1, 2, 3, 4, 5, 7, 8, 16};

/* The stores that a layer can have. */
struct Store {
    Tiers tiers;
    int32_t coarse;
};
constexpr Store stores[] = {{Tiers::exact, RETENTIVE_INT8},
                            {Tiers::mixed, RETENTIVE_INT8},
                            {Tiers::mixed, RETENTIVE_INT4},
                            {Tiers::coarse, RETENTIVE_INT8},
                            {Tiers::coarse, RETENTIVE_INT4}};

CaseRequest of(const char *topic, const Store &store, int32_t dtype, int32_t dim) {
    CaseRequest request;
    request.topic = topic;
    request.tiers = store.tiers;
    request.coarse = store.coarse;
    request.dtype = dtype;
    request.dim = dim;
    return request;
}

void add_rows(Requests &requests) {
    const CaseRequest kinds[] = {
        of("rows", stores[0], RETENTIVE_BFLOAT16, 128), of("rows", stores[2], RETENTIVE_FLOAT16, 64),
        of("rows", stores[3], RETENTIVE_FLOAT32, 96), of("rows", stores[4], RETENTIVE_BFLOAT16, 128)};
    for (const CaseRequest &kind : kinds)
        for (const int32_t rows : {1, 5, 63, 64, 65, 127, 1000, 1024, 4097, 16384}) {
            if (rows == 1 && kind.tiers == Tiers::mixed) continue; /* two tiers need two rows */
            requests.push_back(kind);
            requests.back().rows = rows;
            requests.back().group = 4;
        }
}

void add_shapes(Requests &requests) {
    for (const int32_t group : groups_tried) {
        requests.push_back(of("group", stores[0], RETENTIVE_BFLOAT16, 128));
        requests.back().group = group;
        requests.back().rows = 200;
        requests.back().steps = {1, 17};
        for (const Store &store : {stores[1], stores[2], stores[4]}) { /* codes have an order for few queries */
            requests.push_back(of("group", store, RETENTIVE_BFLOAT16, store.tiers == Tiers::coarse ? 256 : 128));
            requests.back().group = group, requests.back().rows = group < 4 ? 3000 : 500;
            requests.back().memory = Memory::both, requests.back().store = RETENTIVE_STORE_COARSE;
            requests.back().steps = {1, 2, 4};
        }
    }
    for (const Store &store : stores) { /* more queries of one token than two tiles have */
        requests.push_back(
            of("many query heads", store, RETENTIVE_BFLOAT16, store.coarse == RETENTIVE_INT8 ? 128 : 80));
        requests.back().group = 40, requests.back().rows = 200, requests.back().steps = {1, 1};
    }
    const CaseRequest kinds[] = {of("steps", stores[0], RETENTIVE_BFLOAT16, 128),
                                 of("steps", stores[0], RETENTIVE_FLOAT32, 64),
                                 of("steps", stores[2], RETENTIVE_FLOAT16, 80)};
    for (const CaseRequest &kind : kinds)
        for (const int32_t steps : {1, 2, 3, 16, 17, 63, 128}) {
            requests.push_back(kind);
            requests.back().rows = 1000;
            requests.back().steps = {steps};
            requests.back().padding = steps > 3 ? Padding::end : Padding::none;
        }
    CaseRequest longest = of("longest chunk", stores[0], RETENTIVE_BFLOAT16, 64);
    longest.heads = 1, longest.rows = 1100, longest.steps = {1024};
    requests.push_back(longest);
    CaseRequest decode = of("decode of 8 heads", stores[0], RETENTIVE_BFLOAT16, 128);
    decode.heads = 8, decode.group = 4, decode.rows = 16384;
    requests.push_back(decode);
    decode.batch = 3, decode.rows = 2048, decode.memory = Memory::both, decode.gates = true;
    requests.push_back(decode);
    decode = of("decode of 24 heads", stores[0], RETENTIVE_FLOAT16, 80);
    decode.batch = 3, decode.heads = 8, decode.group = 4, decode.rows = 3000, decode.steps = {1, 3};
    requests.push_back(decode); /* several tiles a warp, with channels behind the last one */
    CaseRequest prefill = of("prefill of 4097 rows", stores[0], RETENTIVE_BFLOAT16, 128);
    prefill.group = 4, prefill.rows = 4097, prefill.steps = {128};
    requests.push_back(prefill);
    prefill.dtype = RETENTIVE_FLOAT32;
    requests.push_back(prefill);
    prefill = of("prefill of 4097 rows", stores[2], RETENTIVE_BFLOAT16, 128);
    prefill.group = 4, prefill.rows = 4097, prefill.steps = {128}, prefill.memory = Memory::both;
    requests.push_back(prefill);
}

void add_contents(Requests &requests) {
    for (const Fill fill : {Fill::partly, Fill::none, Fill::no_exact, Fill::no_coarse, Fill::no_memory})
        for (const int32_t dtype : float_types) {
            static constexpr const char *names[] = {"full", "partly", "none", "no exact", "no coarse", "no memory"};
            requests.push_back(of("", stores[2], dtype, 80));
            CaseRequest &request = requests.back();
            request.topic = std::string("occupied rows: ") + names[static_cast<int>(fill)];
            request.fill = fill;
            request.memory = Memory::both;
            request.steps = {1, 16};
        }
    for (const Padding padding : {Padding::end, Padding::scattered, Padding::one_element})
        for (const Fill fill : {Fill::full, Fill::none}) {
            static constexpr const char *names[] = {"none", "end", "scattered", "one element"};
            requests.push_back(of("", stores[1], RETENTIVE_FLOAT16, 64));
            CaseRequest &request = requests.back();
            request.topic = std::string("padding: ") + names[static_cast<int>(padding)] +
                            (fill == Fill::none ? ", empty rows" : "");
            request.padding = padding;
            request.fill = fill;
            request.batch = 2;
            request.memory = Memory::both;
            request.store = RETENTIVE_STORE_COARSE;
            request.steps = {17, 1, 3};
        }
    for (const Content content : {Content::text, Content::visual}) {
        requests.push_back(
            of(content == Content::text ? "text alone" : "visual alone", stores[0], RETENTIVE_FLOAT32, 64));
        requests.back().content = content;
        requests.back().memory = content == Content::text ? Memory::grid : Memory::recall;
        requests.back().steps = {1, 16};
    }
}

void add_hostile(Requests &requests) {
    static constexpr struct {
        Hostile hostile;
        const char *name;
    } kinds[] = {{Hostile::not_finite, "NaN and infinity"},
                 {Hostile::huge_logits, "huge logits"},
                 {Hostile::zero_mass, "zero mass"},
                 {Hostile::no_weight, "no weight"}};
    for (const auto &kind : kinds)
        for (const int32_t dtype : float_types)
            for (const Store &store : {stores[0], stores[1], stores[2]}) {
                requests.push_back(of("", store, dtype, 64));
                CaseRequest &request = requests.back();
                request.topic = std::string("hostile: ") + kind.name;
                request.hostile = kind.hostile;
                request.memory = Memory::both;
                request.steps = {1, 16};
            }
    for (const int32_t dtype : float_types) {
        requests.push_back(of("hostile: infinite query", stores[0], dtype, 64));
        requests.back().hostile = Hostile::infinite_query;
        requests.back().rows = 63;
    }
}

void add_policies(Requests &requests) {
    for (const int32_t dtype : float_types)
        for (const int32_t dim : {40, 64, 128}) {
            requests.push_back(of("residual", stores[dim == 64 ? 2 : 0], dtype, dim));
            requests.back().residual = true;
            requests.back().gates = true;
            requests.back().steps = {1, 17};
        }
    for (const int32_t track : {0, 1, 2, 3}) {
        requests.push_back(of("recency", stores[1], RETENTIVE_BFLOAT16, 96));
        requests.back().topic += ", statistics " + std::to_string(track);
        requests.back().recency = true;
        requests.back().track = track;
        requests.back().steps = {1, 16};
    }
    for (const int32_t track : {0, 1, 2}) {
        requests.push_back(of("retention score", stores[0], RETENTIVE_FLOAT16, 64));
        requests.back().topic += ", statistics " + std::to_string(track);
        requests.back().track = track;
        requests.back().steps = {1, 16};
    }
}

/* Recall rows, more than one block looks at and as many. */
void add_recall(Requests &requests) {
    for (const int32_t dtype : float_types)
        for (const Store &store : stores) {
            requests.push_back(of("many recall rows", store, dtype, dtype == RETENTIVE_FLOAT32 ? 64 : 128));
            CaseRequest &request = requests.back();
            request.memory = store.tiers == Tiers::mixed ? Memory::both : Memory::recall;
            request.recall_rows = store.tiers == Tiers::coarse ? 257 : 500;
            request.store = store.coarse == RETENTIVE_INT8 ? RETENTIVE_STORE_EXACT : RETENTIVE_STORE_COARSE;
            request.fill = store.tiers == Tiers::exact ? Fill::partly : Fill::full;
            request.gates = dtype != RETENTIVE_FLOAT16;
            request.rows = 900;
            request.steps = {1, 9, 1, 1};
        }
    for (const int32_t dim : {40, 80, 96, 256}) /* parts of 128, 102 and 32 rows, the last one not whole */
        for (const Store &store : {stores[0], stores[2]}) {
            requests.push_back(of("recall rows in parts", store, RETENTIVE_BFLOAT16, dim));
            CaseRequest &request = requests.back();
            request.memory = Memory::recall;
            request.recall_rows = dim == 96 ? 256 : 257; /* with 96 one block looks at all of them */
            request.store = store.tiers == Tiers::mixed ? RETENTIVE_STORE_COARSE : RETENTIVE_STORE_EXACT;
            request.rows = 400;
            request.steps = {1, 1};
        }
}

/* A prompt in chunks into empty rows, then decoding until rows have been replaced many times. */
void add_runs(Requests &requests) {
    std::vector<int32_t> steps(6, 16);
    steps.resize(steps.size() + 32, 1);
    for (const int32_t dtype : float_types)
        for (const Store &store : stores) {
            requests.push_back(of("run", store, dtype, dtype == RETENTIVE_FLOAT32 ? 64 : 128));
            CaseRequest &request = requests.back();
            request.fill = Fill::none;
            request.memory = Memory::both;
            request.store = store.coarse == RETENTIVE_INT8 ? RETENTIVE_STORE_COARSE : RETENTIVE_STORE_EXACT;
            request.gates = store.tiers == Tiers::mixed;
            request.group = 4;
            request.rows = 80;
            request.steps = steps;
        }
    requests.push_back(of("run", stores[0], RETENTIVE_BFLOAT16, 64));
    requests.back().residual = true;
    requests.back().fill = Fill::none;
    requests.back().rows = 60;
    requests.back().steps = steps;
}

} // namespace

Requests sweep_requests() {
    constexpr int32_t rows[] = {5, 63, 64, 65, 127, 1000}, steps[] = {1, 2, 3, 16, 17, 63};
    constexpr Memory memories[] = {Memory::none, Memory::grid, Memory::recall, Memory::both};
    Requests requests;
    int32_t turn = 0; /* steps coprime to the lengths, so that combinations do not repeat */
    for (const int32_t dim : {40, 64, 80, 96, 128, 256})
        for (const int32_t dtype : float_types)
            for (const Store &store : stores) {
                CaseRequest request = of("sweep", store, dtype, dim);
                request.group = groups_tried[(3 * turn) % 8];
                request.batch = 1 + turn % 3;
                request.heads = 1 + turn / 3 % 3;
                request.rows = rows[(5 * turn + turn / 6) % 6];
                request.memory = memories[(turn + turn / 4) % 4];
                request.store = turn / 2 % 2;
                request.fill = turn % 5 == 4 ? Fill::partly : Fill::full;
                request.padding = turn % 4 == 1 ? Padding::scattered : Padding::none;
                request.gates = turn % 3 == 1;
                request.steps = {steps[(turn + turn / 6) % 6], 1};
                requests.push_back(request);
                ++turn;
            }
    return requests;
}

Requests special_requests() {
    Requests requests;
    add_rows(requests);
    add_shapes(requests);
    add_contents(requests);
    add_hostile(requests);
    add_policies(requests);
    add_recall(requests);
    add_runs(requests);
    return requests;
}

Requests quick_requests() {
    Requests requests;
    int32_t turn = 0;
    for (const int32_t dim : {40, 96, 256}) /* the kernels know 64, 128 and 256 channels */
        for (const int32_t dtype : float_types)
            for (const Store &store : {stores[0], stores[1], stores[2]}) {
                CaseRequest request = of("quick", store, dtype, dim);
                request.group = groups_tried[turn % 5];
                request.rows = 50 + turn;
                request.memory = turn % 2 == 0 ? Memory::both : Memory::none;
                request.residual = turn % 6 == 5;
                request.store = turn / 2 % 2;
                request.gates = turn % 3 == 0;
                request.fill = turn % 4 == 3 ? Fill::partly : Fill::full;
                request.padding = turn % 5 == 2 ? Padding::scattered : Padding::none;
                request.steps = {turn % 2 == 0 ? 9 : 17, 1};
                requests.push_back(request);
                ++turn;
            }
    CaseRequest coarse = of("quick, coarse rows alone", stores[4], RETENTIVE_BFLOAT16, 64);
    coarse.steps = {9, 1};
    requests.push_back(coarse);
    CaseRequest recency = of("quick, recency without statistics", stores[0], RETENTIVE_FLOAT16, 64);
    recency.recency = true, recency.track = 0, recency.steps = {9, 1}, recency.batch = 2;
    requests.push_back(recency);
    CaseRequest split = of("quick, several blocks along the rows", stores[2], RETENTIVE_BFLOAT16, 128);
    split.rows = 700, split.heads = 1, split.group = 4, split.memory = Memory::both;
    requests.push_back(split);
    CaseRequest recall = of("quick, many recall rows", stores[2], RETENTIVE_FLOAT16, 64);
    recall.rows = 320, recall.recall_rows = 270, recall.heads = 1, recall.memory = Memory::recall, recall.gates = true;
    requests.push_back(recall);
    CaseRequest queries = of("quick, many queries in several blocks", stores[2], RETENTIVE_BFLOAT16, 128);
    queries.rows = 600, queries.heads = 1, queries.group = 4, queries.memory = Memory::both, queries.steps = {40, 1};
    requests.push_back(queries);
    for (CaseRequest &request : requests) request.quick = true;
    return requests;
}

} // namespace retentive::harness
