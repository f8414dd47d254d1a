// Rows on their way through shared memory: copied asynchronously, 16 bytes at a time, so that the bytes in flight take
// no registers; swizzled so that the operand loads of split_rows.cuh meet no bank conflicts.
#pragma once

#include "common/device.cuh"

namespace retentive {

__device__ __forceinline__ unsigned shared_address(const void *shared) {
    return unsigned(__cvta_generic_to_shared(shared));
}

// 16 bytes, or zeros where `there` is false.
__device__ __forceinline__ void copy_async16(void *shared, const void *global, bool there = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(there ? 16 : 0)
                 : "memory");
}
// 4 or 8 bytes.
template <int kBytes> __device__ __forceinline__ void copy_async(void *shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(shared)), "l"(global), "n"(kBytes)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's groups are under way; then all lanes see the others' bytes.
template <int kPending> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
    __syncwarp();
}

// Bring bytes (a multiple of 16) into the L2 cache: a hint, which reads nothing that a program could see, so that it may
// come before wait_for_previous_kernel().
__device__ __forceinline__ void prefetch(const void *from, unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#else
    (void)from, (void)bytes; // nothing starts early there
#endif
}

// Where a piece of 16 bytes lies: eight fill all banks. Rows of 16-bit numbers are read by ldmatrix, the same piece of
// eight rows at once; codes by lanes 4 g + t, for keys from row g or StageLanes::first_row(), for values from rows 2 t.
template <int kRowBytes, bool kCodes> __device__ __forceinline__ int place_of(int row, int piece) {
    if constexpr (!kCodes)
        piece ^= row & 7;
    else if constexpr (kRowBytes >= 128)
        piece ^= ((row ^ row >> 4) & 1) << 2 ^ (row & 6);
    else if constexpr (kRowBytes == 64)
        piece ^= row & 2, row ^= (row >> 2 ^ row >> 4) & 1;
    else
        row ^= row >> 4 & 1;
    return row * kRowBytes + piece * 16;
}

// Stages of kRows rows (16 or 32) of kRowBytes bytes (32 to 512, a power of two); rows of 16-bit numbers may have fewer
// bytes, in multiples of 16.
template <int kRows, int kRowBytes, bool kCodes> struct Staging {
    static constexpr int kPieces = kRowBytes / 16;
    static constexpr int kAtOnce = kWarpSize / kPieces; // rows
    static_assert(kAtOnce >= 1 && kAtOnce <= kRows);

    // One warp starts to copy rows row .. row + kRows - 1 of `from` [n, row_bytes]; rows at or past n are zeros.
    static __device__ __forceinline__ void copy(const char *from, int row, int n, int row_bytes, char *stage) {
        const int lane = threadIdx.x % kWarpSize, first = lane / kPieces, piece = lane % kPieces;
        if (__builtin_expect((kCodes || row_bytes == kRowBytes) && row + kRows <= n, 1)) { // all offsets are constants
            const char *at = from + size_t(row) * kRowBytes + lane * 16;
#pragma unroll
            for (int r = 0; r < kRows; r += kAtOnce)
                copy_async16(stage + place_of<kRowBytes, kCodes>(r + first, piece), at + r * kRowBytes);
            return;
        }
#pragma unroll 1
        for (int r = first; r < kRows; r += kAtOnce)
            if (piece * 16 < row_bytes)
                copy_async16(stage + place_of<kRowBytes, kCodes>(r, piece),
                             from + size_t(min(row + r, n - 1)) * row_bytes + piece * 16, row + r < n);
    }

    // One warp sanitises the first rows of a stage of 16-bit numbers.
    template <typename Element> static __device__ __forceinline__ void sanitize(char *stage, int rows) {
#pragma unroll 1
        for (int i = threadIdx.x % kWarpSize; i < rows * kRowBytes / 4; i += kWarpSize) {
            uint32_t &pair = reinterpret_cast<uint32_t *>(stage)[i];
            pair = sanitize_pair<Element>(pair);
        }
        __syncwarp();
    }
};

// Bytes behind a row's end are read, and must not be NaN; they are never overwritten.
__device__ __forceinline__ void clear_stage(char *stage, int bytes) {
    for (int i = threadIdx.x % kWarpSize; i < bytes / 16; i += kWarpSize)
        reinterpret_cast<uint4 *>(stage)[i] = make_uint4(0, 0, 0, 0);
    __syncwarp();
}

} // namespace retentive
