#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace retentive::harness {

size_t element_bytes(int32_t dtype) { return dtype == RETENTIVE_FLOAT32 ? 4 : 2; }

const char *dtype_name(int32_t dtype) {
    static constexpr const char *names[] = {"float32", "float16", "bfloat16", "int8", "int4"};
    return names[dtype];
}

float load(const void *data, size_t i, int32_t dtype) {
    switch (dtype) {
    case RETENTIVE_FLOAT16: return __half2float(static_cast<const __half *>(data)[i]);
    case RETENTIVE_BFLOAT16: return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]);
    default: return static_cast<const float *>(data)[i];
    }
}

void store(void *data, size_t i, int32_t dtype, float x) {
    switch (dtype) {
    case RETENTIVE_FLOAT16: static_cast<__half *>(data)[i] = __float2half_rn(x); break;
    case RETENTIVE_BFLOAT16: static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16_rn(x); break;
    default: static_cast<float *>(data)[i] = x;
    }
}

double half_ulp(double x, int32_t dtype) {
    const int digits = dtype == RETENTIVE_FLOAT32 ? 24 : dtype == RETENTIVE_FLOAT16 ? 11 : 8;
    const int smallest = dtype == RETENTIVE_FLOAT16 ? -14 : -126; // exponent of the smallest normal number
    const int exponent = x == 0.0 ? smallest : std::max(std::ilogb(std::fabs(x)), smallest);
    return std::ldexp(1.0, exponent - digits);
}

uint64_t Random::next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

int32_t Random::below(int32_t n) { return static_cast<int32_t>(next() % static_cast<uint64_t>(n)); }

float Random::normal() {
    const uint64_t bits = next();
    const uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    return (static_cast<float>(sum) / 65536.0F - 2.0F) * 1.7320508F;
}

} // namespace retentive::harness
