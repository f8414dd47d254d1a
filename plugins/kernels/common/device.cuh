// Device helpers: sanitised loads, conversions, the matrix instruction, reductions in a fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "common/plan.h"

namespace retentive {

// Constants of retentive_export/cache/: rows.LIMIT, rows.FLOAT16_MAX, attention.MASKED, LOGIT_LIMIT, TINY.
constexpr float kLimit = 1e9f;
constexpr float kFloat16Max = 65504.0f;
constexpr float kMasked = -1e30f;
constexpr float kLogitLimit = 1e29f;
constexpr float kTiny = 1e-30f;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNothing = -3e38f; // base-2 logit of a column that is not there: below every masked one, and finite
constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

// NaN becomes 0, magnitudes are cut at 1e9.
__device__ __forceinline__ float sanitize(float x) { return x != x ? 0.0f : clamp(x, -kLimit, kLimit); }

template <typename Element> __device__ __forceinline__ float to_float(Element x) { return static_cast<float>(x); }
template <> __device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
template <> __device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// float32 -> Element; what float16 cannot hold becomes its largest number.
template <typename Element> __device__ __forceinline__ Element from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) {
    return __float2half_rn(clamp(x, -kFloat16Max, kFloat16Max));
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

__device__ __forceinline__ float sigmoid(const RetentiveSigmoid &gate, float x) {
    return gate.enabled ? 1.0f / (1.0f + expf(-(gate.weight * x + gate.bias))) : 1.0f;
}

// 2^x in one instruction; what float32 holds only with fewer bits becomes 0.
__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Number of the warp in its block, in a way that lets the compiler know that all its lanes agree.
__device__ __forceinline__ int warp_index() { return __shfl_sync(kFullWarp, int(threadIdx.x) / kWarpSize, 0); }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
    return x;
}

__device__ __forceinline__ unsigned long long warp_min(unsigned long long x) {
    const unsigned high = unsigned(x >> 32), least = __reduce_min_sync(kFullWarp, high);
    const unsigned low = __reduce_min_sync(kFullWarp, high == least ? unsigned(x) : ~0u);
    return (unsigned long long)(least) << 32 | low;
}

// Sum over the block; every thread gets it. `scratch`: one float per warp, free for reuse on return.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    x = warp_sum(x);
    if (threadIdx.x % kWarpSize == 0) scratch[warp] = x;
    __syncthreads();
    float total = 0.0f;
#pragma unroll 1
    for (int i = 0; i < warps; ++i) total += scratch[i];
    __syncthreads();
    return total;
}

__device__ __forceinline__ int block_max(int x, float *scratch) {
    int *best = reinterpret_cast<int *>(scratch);
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    x = __reduce_max_sync(kFullWarp, x);
    if (threadIdx.x % kWarpSize == 0) best[warp] = x;
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < warps; ++i) x = max(x, best[i]);
    __syncthreads();
    return x;
}

__device__ __forceinline__ int2 load_meta(const int32_t *meta, size_t at) {
    return reinterpret_cast<const int2 *>(meta)[at];
}

// d += a b on the tensor cores, 16 x 8 x 16, float32 accumulation.
template <typename Element>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack(__nv_bfloat16 low, __nv_bfloat16 high) {
    return uint32_t(__bfloat16_as_ushort(low)) | uint32_t(__bfloat16_as_ushort(high)) << 16;
}
__device__ __forceinline__ uint32_t pack(__half low, __half high) {
    return uint32_t(__half_as_ushort(low)) | uint32_t(__half_as_ushort(high)) << 16;
}

template <typename Element> __device__ __forceinline__ uint32_t sanitize_pair(uint32_t word) {
    Element pair[2];
    memcpy(pair, &word, sizeof word);
    return pack(from_float<Element>(sanitize(to_float(pair[0]))), from_float<Element>(sanitize(to_float(pair[1]))));
}

// What the next kernel reads and the next layer overwrites: kept in the L2 cache, past which the rows stream, it never
// goes to memory.
__device__ __forceinline__ uint64_t next_kernel_policy() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ void store_for_next_kernel(float *to, float4 x) {
    asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(to), "f"(x.x), "f"(x.y), "f"(x.z),
                 "f"(x.w), "l"(next_kernel_policy())
                 : "memory");
}
__device__ __forceinline__ void store_for_next_kernel(float *to, float2 x) {
    asm volatile("st.global.L2::cache_hint.v2.f32 [%0], {%1, %2}, %3;" ::"l"(to), "f"(x.x), "f"(x.y),
                 "l"(next_kernel_policy())
                 : "memory");
}

// 16 or 8 bytes of rows that this step does not write.
template <typename Word> __device__ __forceinline__ Word load_word(const void *address) {
    return __ldg(static_cast<const Word *>(address));
}

// Ascending order of floats as unsigned numbers.
__device__ __forceinline__ unsigned ordered(float x) {
    const unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A row's place in an order: by a number, the lower row first among equals.
constexpr unsigned long long kNoKey = ~0ull; // behind all
__device__ __forceinline__ unsigned long long key_of(float order, int row) {
    return (unsigned long long)(ordered(order)) << 32 | unsigned(row);
}
__device__ __forceinline__ int row_of_key(unsigned long long key) { return int(unsigned(key)); }

// True in all threads of the block that comes here last of `blocks`: it then sees what the others wrote before.
__device__ __forceinline__ bool is_last_block(unsigned *ticket, unsigned blocks) {
    __shared__ bool last;
    __syncthreads(); // all the block's writes come before its ticket
    if (threadIdx.x == 0) {
        unsigned before;
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(ticket) : "memory");
        last = before == blocks - 1;
    }
    __syncthreads(); // all its reads behind it
    return last;
}

// Programmatic dependent launch (compute capability 9.0 and later): a kernel launched with it may begin before the one
// ahead of it ends, and must wait before it touches what that one writes or reads.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

} // namespace retentive
