/* Ways to misuse the launch functions. */
#ifndef RETENTIVE_HARNESS_WRONG_CALLS_H_
#define RETENTIVE_HARNESS_WRONG_CALLS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "retentive/params.h"

namespace retentive::harness {

/* T, and the chunk, of the call that is made wrong; it has two tiers, statistics and memory rows in the exact store. */
constexpr int32_t refusal_steps = 3;

/* One thing that is wrong. */
template <typename Params> struct Wrong {
    std::string says; /* what the message must hold */
    int32_t status;
    std::function<void(Params &)> spoil;
};
template <typename Params> using WrongCalls = std::vector<Wrong<Params>>;

/* `workspace`: the bytes that the right call needs. */
WrongCalls<RetentiveAttentionParams> wrong_attention_calls(size_t workspace);
WrongCalls<RetentiveGateParams> wrong_gate_calls(size_t workspace);
WrongCalls<RetentiveTransitionParams> wrong_transition_calls(size_t workspace);
WrongCalls<RetentiveStepParams> wrong_step_calls(size_t workspace);
WrongCalls<RetentiveStepParams> wrong_part_calls(size_t workspace); /* T = 1 */

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_WRONG_CALLS_H_ */
