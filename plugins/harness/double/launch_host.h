/* The launch functions on host pointers, for the harness's tests: refusals, limits and workspace as of the kernels, the
 * results of the C++ reference. */
#ifndef RETENTIVE_HARNESS_DOUBLE_LAUNCH_HOST_H_
#define RETENTIVE_HARNESS_DOUBLE_LAUNCH_HOST_H_

#include <cstring>

#include "retentive/reference.h"
#include "retentive/validate.h"

namespace retentive::harness {

/* Any size will do, so that there is one to be guarded, poisoned and refused when it is too small. */
inline size_t host_workspace(const RetentiveGeometry *geometry, int32_t steps) {
    return check(*geometry, true) == RETENTIVE_OK ? 32 + 16 * static_cast<size_t>(steps) : 0;
}

template <typename Params> int32_t refuse(const Params *params) {
    if (params == nullptr) return fail(RETENTIVE_INVALID, "params is NULL");
    return check(*params, true, host_workspace(&params->geometry, params->steps));
}

template <typename Params> int32_t launch_host(const Params *params, int32_t (*reference)(const Params *)) {
    if (const int32_t status = refuse(params)) return status;
    std::memset(params->workspace, 0, host_workspace(&params->geometry, params->steps));
    if (const int32_t status = reference(params)) return fail(status, "%s", retentive_reference_message());
    return RETENTIVE_OK;
}

/* What both parts of a step refuse. The first one does it all: there is no stream here that could be waited for. */
inline int32_t refuse_part(const RetentiveStepParams *params) {
    if (params != nullptr)
        if (const int32_t status = check_part(*params)) return status;
    return refuse(params);
}

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_DOUBLE_LAUNCH_HOST_H_ */
