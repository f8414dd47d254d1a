// The C ABI: parameters are checked first, and no exception leaves.
#include "retentive/reference.h"

#include <exception>

#include "operators.h"
#include "retentive/validate.h"

namespace retentive::reference {
namespace {

template <typename Params> int32_t call(const Params *params, void (*operation)(const Params &)) noexcept {
    if (params == nullptr) return fail(RETENTIVE_INVALID, "params is NULL");
    if (const int32_t status = check(*params, false, 0)) return status;
    try {
        operation(*params);
    } catch (const std::exception &error) { // only allocation throws
        return fail(RETENTIVE_UNSUPPORTED, "the working memory of these sizes cannot be had: %s", error.what());
    }
    return RETENTIVE_OK;
}

} // namespace
} // namespace retentive::reference

int32_t retentive_reference_attention(const RetentiveAttentionParams *params) {
    return retentive::reference::call(params, retentive::reference::attention);
}

int32_t retentive_reference_gate(const RetentiveGateParams *params) {
    return retentive::reference::call(params, retentive::reference::gate);
}

int32_t retentive_reference_transition(const RetentiveTransitionParams *params) {
    return retentive::reference::call(params, retentive::reference::transition);
}

int32_t retentive_reference_step(const RetentiveStepParams *params) {
    return retentive::reference::call(params, retentive::reference::step);
}

const char *retentive_reference_message(void) { return retentive::message(); }
