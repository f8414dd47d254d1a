// Launching: dependent launch where the GPU has it, errors as status codes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "retentive/validate.h"

namespace retentive {

inline int32_t cuda_status(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return RETENTIVE_OK;
    (void)cudaGetLastError(); // not sticky: the next call must not report it again
    return fail(RETENTIVE_CUDA, "%s: %s", what, cudaGetErrorString(error));
}

// `run` is called with a number of the type that rows have.
template <typename Run> int32_t with_element(const RetentiveGeometry &geometry, Run run) {
    switch (geometry.dtype) {
    case RETENTIVE_FLOAT32: return run(float{});
    case RETENTIVE_FLOAT16: return run(__half{});
    default: return run(__nv_bfloat16{});
    }
}

inline bool has_dependent_launch() {
    int device = 0, major = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return false;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return false;
    return major >= 9;
}

// Launch `kernel` behind what is on the stream. It may start early, and therefore begins with
// wait_for_previous_kernel().
template <typename... Parameters, typename... Arguments>
int32_t launch(const char *name, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, void *stream,
               const Arguments &...arguments) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = shared;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = has_dependent_launch() ? 1 : 0;
    return cuda_status(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

} // namespace retentive
