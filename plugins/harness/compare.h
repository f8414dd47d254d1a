/* Comparisons with the reference, each with a limit that says what rounding may do. */
#ifndef RETENTIVE_HARNESS_COMPARE_H_
#define RETENTIVE_HARNESS_COMPARE_H_

#include <vector>

#include "cases.h"
#include "findings.h"
#include "tensors.h"

namespace retentive::harness {

/* What float32 accumulation, operands of the rows' type and quantised rows cost, by the case's types. */
struct Limits {
    double output;     /* error beyond one rounding to the output's type, norm over norm of a query's output */
    double statistics; /* over the largest value of a head */
    double score;      /* relative difference of two rows' retention scores that is a near tie in a whole step */
};
Limits limits_of(const Case &c);

/* -p log p near p = 1 has the absolute error of a float32 logarithm, some 1e-6 of 1: where all of a head's terms are small
 * they are compared with this instead of with the largest. */
double surprise_floor(const Case &c);

/* How far the reference's own answer moves when its queries are changed by 2^-15: where logits are huge, the error
 * that a float32 logit must have decides between rows, and no limit on the output holds. Zeros for other cases. */
struct Sensitivity {
    std::vector<double> output;   /* [B * Hq * T] */
    std::vector<double> received; /* [B * Hkv] */
    std::vector<double> surprise;
    std::vector<double> visual_entropy;
};
Sensitivity sensitivity_of(const Case &c, int32_t steps, const HostTensors &inputs, const HostTensors &state,
                           const HostTensors &reference);

/* `reference`: reference_attention of the case in float32. */
void compare_attention(Findings &findings, const Case &c, int32_t steps, const HostTensors &actual,
                       const HostTensors &reference, const Sensitivity &sensitivity);
void compare_output(Findings &findings, const Case &c, int32_t steps, const HostTensors &actual,
                    const HostTensors &reference, const Sensitivity &sensitivity);

/* The gate's outputs, both from the same statistics. */
void compare_decision(Findings &findings, const Case &c, int32_t steps, const HostTensors &inputs,
                      const HostTensors &state, const HostTensors &actual, const HostTensors &reference);

/* Largest |actual - reference| over the largest |reference| of each head, or over `floor` where that is smaller. */
void compare_heads(Findings &findings, const std::string &metric, const float *actual, const float *reference,
                   size_t heads, size_t columns, double limit, double floor,
                   const std::vector<double> *slack = nullptr);

/* How closely a state after a step must match the reference's. */
struct StateLimits {
    double statistics = 0.0;  /* importance and entropy, over the head's largest */
    double memory = 1e-5;     /* memory rows beyond one rounding, over the row's largest; mass; matrix states */
    double code_share = 1e-3; /* share of the written codes that may be off by one */
};
void compare_state(Findings &findings, const Case &c, int32_t steps, const HostTensors &before,
                   const HostTensors &actual, const HostTensors &reference, const StateLimits &limits);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_COMPARE_H_ */
