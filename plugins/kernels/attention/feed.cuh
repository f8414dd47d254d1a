// How a warp comes by the rows of its next tile: ahead of time, or when it needs them.
#pragma once

#include "attention/coarse_rows.cuh"
#include "attention/source.cuh"

namespace retentive {

// Rows wait in registers from one tile to the next. For prefill, where the warps of a block read the same rows.
struct Prefetched {
    template <typename Rows> __device__ __forceinline__ void begin(Rows &rows, const Source &from, int tile) const {
        after_keys(rows, from, tile, true);
        after_values(rows, from, tile, true);
    }
    template <typename Rows> __device__ __forceinline__ void keys(Rows &rows, const Source &from, int) const {
        rows.sanitize_keys(from.kind == Source::fresh);
    }
    template <typename Rows> __device__ __forceinline__ void values(Rows &rows, const Source &from, int) const {
        rows.sanitize_values(from.kind == Source::fresh);
    }
    template <typename Rows>
    __device__ __forceinline__ void after_keys(Rows &rows, const Source &from, int tile, bool there) const {
        if (there) rows.load_keys(from.keys, tile * kTileRows, from.rows, from.dim);
    }
    template <typename Rows>
    __device__ __forceinline__ void after_values(Rows &rows, const Source &from, int tile, bool there) const {
        if (there) rows.load_values(from.values, tile * kTileRows, from.rows, from.dim);
    }
};

// Rows are loaded when they are needed: few registers, for types and head sizes that cannot be staged.
struct Direct {
    template <typename Rows> __device__ __forceinline__ void begin(Rows &, const Source &, int) const {}
    template <typename Rows> __device__ __forceinline__ void keys(Rows &rows, const Source &from, int tile) const {
        rows.load_keys(from.keys, tile * kTileRows, from.rows, from.dim);
        rows.sanitize_keys(from.kind == Source::fresh);
    }
    template <typename Rows> __device__ __forceinline__ void values(Rows &rows, const Source &from, int tile) const {
        rows.load_values(from.values, tile * kTileRows, from.rows, from.dim);
        rows.sanitize_values(from.kind == Source::fresh);
    }
    template <typename Rows> __device__ __forceinline__ void after_keys(Rows &, const Source &, int, bool) const {}
    template <typename Rows> __device__ __forceinline__ void after_values(Rows &, const Source &, int, bool) const {}
};

} // namespace retentive
