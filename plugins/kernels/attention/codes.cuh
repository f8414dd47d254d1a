// Codes as numbers that bfloat16 holds exactly.
#pragma once

#include "common/device.cuh"

namespace retentive {

// Byte `i` of a word of int8 codes: the byte plus 128 becomes the low mantissa bits of 2^23.
__device__ __forceinline__ float int8_code(uint32_t codes, int i) {
    return __uint_as_float(__byte_perm(codes ^ 0x80808080u, 0x4b000000u, 0x7440 + i)) - 8388736.0f;
}

__device__ __forceinline__ uint32_t bfloat16_pair(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return pack(both.x, both.y);
}

// Bytes `first` and `first` + 1 of a word of int8 codes.
__device__ __forceinline__ uint32_t int8_pair(uint32_t codes, int first) {
    return bfloat16_pair(int8_code(codes, first), int8_code(codes, first + 1));
}

// Two numbers 128 + nibble, less 128 and the offset of 8 that int4 codes are stored with.
__device__ __forceinline__ uint32_t less_136(uint32_t pair) {
    __nv_bfloat162 x;
    memcpy(&x, &pair, sizeof pair);
    x = __hsub2(x, __floats2bfloat162_rn(136.0f, 136.0f));
    return pack(x.x, x.y);
}

// Bytes 0 and 1 (`upper`: 2 and 3) of a word of nibbles, a byte each.
__device__ __forceinline__ uint32_t int4_pair(uint32_t nibbles, bool upper) {
    return less_136(__byte_perm(nibbles, 0x43434343u, upper ? 0x4342 : 0x4140));
}

} // namespace retentive
