// How a warp comes by the rows of its next tile: straight from global memory, or through shared memory.
#pragma once

#include "attention/coarse_rows.cuh"

namespace retentive {

// Rows of one head: of one of the two stores, or the step's own tokens.
struct Source {
    enum Kind { exact, coarse, fresh };

    const char *keys, *values;
    int rows, dim, row_bytes;
    Kind kind;

    __device__ __forceinline__ Source(const void *all_keys, const void *all_values, int bh, int count, int channels,
                                      int bytes, Kind what)
        : keys(static_cast<const char *>(all_keys) + size_t(bh) * count * bytes),
          values(static_cast<const char *>(all_values) + size_t(bh) * count * bytes), rows(count), dim(channels),
          row_bytes(bytes), kind(what) {}
};

// Rows wait in registers from one tile to the next. For prefill, where the warps of a block read the same rows.
struct Prefetched {
    __device__ __forceinline__ explicit Prefetched(char *) {}
    __device__ __forceinline__ void start(const Source &, int) const {}
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
    __device__ __forceinline__ explicit Direct(char *) {}
    __device__ __forceinline__ void start(const Source &, int) const {}
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

// A tile of keys and one of values in the warp's own shared memory, each refilled as soon as it has been read. For
// decode.
template <int kRowBytes> struct Staged {
    using Tile = Staging<kRowBytes>;
    static constexpr int kBytes = 2 * Tile::kTileBytes; // of a warp

    char *buffer;
    bool started = false; // the first tile is under way: it may be sent for long before it is needed

    __device__ __forceinline__ explicit Staged(char *memory) : buffer(memory) {}

    __device__ __forceinline__ void start(const Source &from, int tile) {
        if (from.row_bytes < kRowBytes) {
            Tile::clear(buffer), Tile::clear(buffer + Tile::kTileBytes);
            __syncwarp();
        }
        copy(from.keys, from, tile, true, buffer);
        copy(from.values, from, tile, true, buffer + Tile::kTileBytes);
        started = true;
    }
    template <typename Rows> __device__ __forceinline__ void begin(Rows &, const Source &from, int tile) {
        if (!started) start(from, tile);
        started = false;
    }
    // Under way are at most the group that is waited for and the one sent for after it.
    template <typename Rows> __device__ __forceinline__ void keys(Rows &rows, const Source &from, int tile) const {
        wait_for_copies<1>();
        if constexpr (Rows::kMayBeFresh)
            if (from.kind == Source::fresh)
                Tile::template sanitize<typename Rows::Operand>(buffer, from.rows - tile * kTileRows);
        rows.fetch_keys(buffer);
    }
    template <typename Rows> __device__ __forceinline__ void values(Rows &rows, const Source &from, int tile) const {
        wait_for_copies<1>();
        if constexpr (Rows::kMayBeFresh)
            if (from.kind == Source::fresh)
                Tile::template sanitize<typename Rows::Operand>(buffer + Tile::kTileBytes,
                                                                from.rows - tile * kTileRows);
        rows.fetch_values(buffer + Tile::kTileBytes);
    }
    template <typename Rows>
    __device__ __forceinline__ void after_keys(Rows &, const Source &from, int tile, bool there) const {
        __syncwarp(); // all lanes have read the tile
        copy(from.keys, from, tile, there, buffer);
    }
    template <typename Rows>
    __device__ __forceinline__ void after_values(Rows &, const Source &from, int tile, bool there) const {
        __syncwarp();
        copy(from.values, from, tile, there, buffer + Tile::kTileBytes);
    }

  private:
    static __device__ __forceinline__ void copy(const char *rows, const Source &from, int tile, bool there, char *to) {
        if (there) Tile::copy(rows, tile * kTileRows, from.rows, from.row_bytes, to);
        commit_copies(); // an empty group keeps the count
    }
};

} // namespace retentive
