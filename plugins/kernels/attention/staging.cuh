// Tiles of 16 rows on their way through shared memory: copied asynchronously, 16 bytes at a time, so that the bytes in
// flight take no registers; swizzled so that the operand loads of rows.cuh and coarse_rows.cuh meet no bank conflicts.
#pragma once

#include "common/device.cuh"

namespace retentive {

// 16 bytes, or zeros where `there` is false.
__device__ __forceinline__ void copy_async16(void *shared, const void *global, bool there = true) {
    const unsigned to = unsigned(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's groups are under way; then all lanes see the others' bytes.
template <int kPending> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
    __syncwarp();
}

// kRowBytes: 32, 64, 128, 256 or 512 in shared memory; a row may have fewer bytes, in multiples of 16.
template <int kRowBytes> struct Staging {
    static constexpr int kTileBytes = kTileRows * kRowBytes;
    static constexpr int kPieces = kRowBytes / 16; // of 16 bytes

    // Where byte `at` of a row lies. Eight pieces fill all banks: rows that are read together get different ones.
    static __device__ __forceinline__ int place(int row, int at) {
        const int spread = kPieces >= 8 ? ((row >> 1 ^ row << 1) & 2) * 2 + (row & 2) : kPieces == 4 ? row & 2 : 0;
        return row * kRowBytes + (at ^ spread * 16);
    }

    template <typename Word> static __device__ __forceinline__ Word fetch(const char *tile, int row, int at) {
        return *reinterpret_cast<const Word *>(tile + place(row, at));
    }

    // One warp starts to copy rows row .. row + 15 of `from` [n, row_bytes]; rows at or past n are zeros.
    static __device__ __forceinline__ void copy(const char *from, int row, int n, int row_bytes, char *tile) {
        constexpr int kRows = kWarpSize / kPieces > 0 ? kWarpSize / kPieces : 1; // that the warp takes at once
        const int lane = threadIdx.x % kWarpSize, first = lane / kPieces, piece = lane % kPieces * 16;
        if (row_bytes == kRowBytes && row + kTileRows <= n) { // nearly always: all offsets are constants
            const char *at = from + size_t(row) * kRowBytes + lane * 16;
#pragma unroll
            for (int r = 0; r < kTileRows; r += kRows) copy_async16(tile + place(r + first, piece), at + r * kRowBytes);
            return;
        }
#pragma unroll 1
        for (int r = first; r < kTileRows; r += kRows)
            if (piece < row_bytes)
                copy_async16(tile + place(r, piece), from + size_t(min(row + r, n - 1)) * row_bytes + piece,
                             row + r < n);
    }

    // One warp sanitises the first rows of a tile of 16-bit numbers.
    template <typename Element> static __device__ __forceinline__ void sanitize(char *tile, int rows) {
#pragma unroll 1
        for (int i = threadIdx.x % kWarpSize; i < min(rows, kTileRows) * kRowBytes / 4; i += kWarpSize) {
            uint32_t &pair = reinterpret_cast<uint32_t *>(tile)[i];
            pair = sanitize_pair<Element>(pair);
        }
        __syncwarp();
    }

    // Bytes behind a row's end are read, and must not be NaN; they are never overwritten.
    static __device__ __forceinline__ void clear(char *tile) {
        for (int i = threadIdx.x % kWarpSize; i < kTileBytes / 16; i += kWarpSize)
            reinterpret_cast<uint4 *>(tile)[i] = make_uint4(0, 0, 0, 0);
    }
};

} // namespace retentive
