// In what order a warp of attention_split takes its tiles.
#pragma once

#include "attention/source.cuh"

namespace retentive {

// A warp's tiles of a source: first, first + step, ... below last.
struct Tiles {
    Source from;
    int first, last;

    __device__ __forceinline__ bool any() const { return first < last; }
};

// Where a warp is on its way through its tiles.
struct Place {
    int tile;
    bool second; // of the second source
};

// Through the tiles of one source.
struct OneSource {
    Tiles first;
    int step;

    __device__ __forceinline__ bool any() const { return first.any(); }
    __device__ __forceinline__ Place begin() const { return {first.first, false}; }
    __device__ __forceinline__ Place after(const Place &place) const { return {place.tile + step, false}; }
    __device__ __forceinline__ bool has(const Place &place) const { return place.tile < first.last; }
    __device__ __forceinline__ Source source(const Place &) const { return first.from; }
};

// Through the tiles of one source and then of another.
struct TwoSources {
    Tiles first, second;
    int step;

    __device__ __forceinline__ bool any() const { return first.any() || second.any(); }
    __device__ __forceinline__ Place begin() const {
        return first.any() ? Place{first.first, false} : Place{second.first, true};
    }
    __device__ __forceinline__ Place after(const Place &place) const {
        const int tile = place.tile + step;
        return place.second || tile < first.last ? Place{tile, place.second} : Place{second.first, true};
    }
    __device__ __forceinline__ bool has(const Place &place) const {
        return place.tile < (place.second ? second.last : first.last);
    }
    __device__ __forceinline__ Source source(const Place &place) const {
        return either(place.second, second.from, first.from);
    }
};

} // namespace retentive
