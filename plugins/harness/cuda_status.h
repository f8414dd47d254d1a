#ifndef RETENTIVE_HARNESS_CUDA_STATUS_H_
#define RETENTIVE_HARNESS_CUDA_STATUS_H_

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace retentive::harness {

/* Throws std::runtime_error that names the call and what CUDA says. */
inline void check_cuda(cudaError_t error, const char *call) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_CUDA_STATUS_H_ */
