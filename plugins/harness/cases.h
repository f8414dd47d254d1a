/* What is checked: geometries, contents and numbers of tokens, each with a name to select it by. */
#ifndef RETENTIVE_HARNESS_CASES_H_
#define RETENTIVE_HARNESS_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "retentive/params.h"

namespace retentive::harness {

enum class Tiers { exact, mixed, coarse };
enum class Memory { none, grid, recall, both };
/* Which rows hold tokens at the start. */
enum class Fill { full, partly, none, no_exact, no_coarse, no_memory };
/* Which new tokens are padding: the last third, every third, all of the last batch element. */
enum class Padding { none, end, scattered, one_element };
enum class Content { mixed, text, visual };
enum class Hostile {
    none,
    not_finite,     /* NaN in queries, keys and values, infinite keys and values */
    infinite_query, /* infinite channel in the queries; the keys are such that one row wins by far */
    huge_logits,    /* queries 10,000 times as large */
    zero_mass,      /* occupied memory rows without mass, key channels with scale 0 */
    no_weight,      /* importance and entropy all zero: every score ties */
};

/* One layer, its state at the start, and the steps made on it. */
struct Case {
    std::string name;
    RetentiveGeometry geometry;
    RetentiveGate gate;
    float scale;
    std::vector<int32_t> steps; /* T of each step */
    Fill fill;
    Padding padding;
    Content content;
    Hostile hostile;
    uint64_t seed;
    bool quick; /* part of the reduced list */
};

/* What a case is made from; what does not fit (rows fewer than the window needs) is raised until it does. */
struct CaseRequest {
    std::string topic;
    int32_t dim = 64;
    int32_t dtype = RETENTIVE_BFLOAT16;
    int32_t group = 2;
    int32_t heads = 2;
    int32_t batch = 1;
    int32_t rows = 127; /* R, memory included */
    Tiers tiers = Tiers::exact;
    int32_t coarse = RETENTIVE_INT4;
    Memory memory = Memory::none;
    int32_t recall_rows = 0; /* 0: by the number of rows */
    int32_t store = RETENTIVE_STORE_EXACT;
    bool residual = false;
    std::vector<int32_t> steps = {1};
    Fill fill = Fill::full;
    Padding padding = Padding::none;
    Content content = Content::mixed;
    Hostile hostile = Hostile::none;
    bool gates = false;
    bool recency = false;
    int32_t track = 3; /* 1 importance, 2 entropy */
    bool quick = false;
};
Case make_case(const CaseRequest &request);
/* "d64 bfloat16 g2 h2 b1 x40+y80(int4)+m11 t17,1" */
std::string describe(const RetentiveGeometry &geometry, const std::vector<int32_t> &steps);

/* Every combination of head size, type and store, with the other parameters in rotation. */
std::vector<CaseRequest> sweep_requests();
/* One parameter at a time, hostile contents, long runs. */
std::vector<CaseRequest> special_requests();
/* The reduced list: small, and together they reach every kernel and type, T = 1 and T > 1. */
std::vector<CaseRequest> quick_requests();

/* Cases whose name holds `filter`; names are unique. */
std::vector<Case> select_cases(bool quick, const std::string &filter);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_CASES_H_ */
