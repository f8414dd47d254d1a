// Element types of params.h as double, and back with one rounding, ties to even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "retentive/params.h"

namespace retentive::reference {

// Constants of retentive_export/cache/: rows.LIMIT, rows.FLOAT16_MAX, attention.MASKED, LOGIT_LIMIT, TINY.
constexpr double kLimit = 1e9;
constexpr double kFloat16Max = 65504.0;
constexpr double kMasked = -1e30;
constexpr double kLogitLimit = 1e29;
constexpr double kTiny = 1e-30;

// NaN becomes 0, magnitudes are cut at 1e9.
inline double sanitize(double x) { return std::isnan(x) ? 0.0 : std::clamp(x, -kLimit, kLimit); }

inline double sigmoid(const RetentiveSigmoid &gate, double x) {
    return gate.enabled != 0 ? 1.0 / (1.0 + std::exp(-(double(gate.weight) * x + gate.bias))) : 1.0;
}

inline double decode_float16(uint16_t bits) {
    const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
    const double infinity = std::numeric_limits<double>::infinity();
    const double magnitude = exponent == 0x1f ? (fraction == 0 ? infinity : std::nan(""))
                             : exponent == 0  ? std::ldexp(fraction, -24)
                                              : std::ldexp(fraction + 0x400, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

inline double decode_bfloat16(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
}

// A 16-bit format with `mantissa` stored bits and the smallest normal number 2^least. A mantissa that rounds up to the
// next power of two carries into the exponent; a subnormal number has the exponent bits 0 by the same sum.
inline uint16_t encode(double x, int mantissa, int least) {
    const double magnitude = std::abs(x);
    const int exponent = magnitude > 0.0 ? std::max(std::ilogb(magnitude), least) : least;
    const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, mantissa - exponent)));
    const uint32_t bits = (static_cast<uint32_t>(exponent - least) << mantissa) + units;
    return static_cast<uint16_t>(bits | (std::signbit(x) ? 0x8000u : 0u));
}

// What float16 cannot hold becomes its largest number.
inline uint16_t encode_float16(double x) { return encode(std::clamp(x, -kFloat16Max, kFloat16Max), 10, -14); }
inline uint16_t encode_bfloat16(double x) { return encode(x, 7, -126); }

// Element `index` of a tensor of a float type.
inline double load(const void *data, int32_t dtype, size_t index) {
    switch (dtype) {
    case RETENTIVE_FLOAT16: return decode_float16(static_cast<const uint16_t *>(data)[index]);
    case RETENTIVE_BFLOAT16: return decode_bfloat16(static_cast<const uint16_t *>(data)[index]);
    default: return static_cast<const float *>(data)[index];
    }
}

inline void store(void *data, int32_t dtype, size_t index, double x) {
    switch (dtype) {
    case RETENTIVE_FLOAT16: static_cast<uint16_t *>(data)[index] = encode_float16(x); break;
    case RETENTIVE_BFLOAT16: static_cast<uint16_t *>(data)[index] = encode_bfloat16(x); break;
    default: static_cast<float *>(data)[index] = static_cast<float>(x);
    }
}

// x rounded to a float type.
inline double as_stored(double x, int32_t dtype) {
    uint32_t element[1];
    store(element, dtype, 0, x);
    return load(element, dtype, 0);
}

inline size_t bytes_of(int32_t dtype) { return dtype == RETENTIVE_FLOAT32 ? sizeof(float) : sizeof(uint16_t); }

} // namespace retentive::reference
