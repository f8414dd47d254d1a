// The memory: which row a token enters, and how it is merged; retentive_export/cache/memory.py.
#pragma once

#include "transition/rows.cuh"

namespace retentive {

constexpr float kUnused = 1e30f; // distance to a recall row that holds nothing
constexpr int kDropped = -1;

// Which of `parts` equal parts of 0 .. size - 1 has the middle of number `place`. check_kernel_limits() sees to it that
// 32 bits are enough.
__device__ __forceinline__ unsigned part_of(unsigned place, int parts, int size) {
    return (2 * place + 1) * unsigned(parts) / (2 * unsigned(size));
}

// Cell of memory row m's anchor, the middle of its patch; -1 for a recall row.
__device__ __forceinline__ int anchor_of(const RetentiveGeometry &g, const Shape &s, int m) {
    if (m >= s.V) return -1;
    const unsigned i = unsigned(m) / unsigned(g.memory_grid[1]), j = unsigned(m) % unsigned(g.memory_grid[1]);
    return int(part_of(i, g.frame_grid[0], g.memory_grid[0]) * RETENTIVE_CELL_STRIDE +
               part_of(j, g.frame_grid[1], g.memory_grid[1]));
}

// Whether a memory row holds anything.
__device__ __forceinline__ bool in_use(int position, float mass) { return (position >= 0) & (mass > 0.0f); }

// Keys of recall rows where they are: in the state.
template <typename Rows, typename KeysOf> struct StateRecall {
    using Keys = KeysOf;
    const Rows &rows;

    __device__ __forceinline__ bool used(int row) const {
        const int m = rows.s.V + row;
        return in_use(rows.meta(rows.s.C + m)[0], *rows.mass(m));
    }
    __device__ __forceinline__ void read(int row, int channel, Keys &keys) const {
        rows.read_keys(rows.template key_row<Keys>(rows.s.C + rows.s.V + row), channel, keys);
    }
};

// Those of one block in its shared memory, where they are before the token is known.
template <typename Keys> struct RecallShared {
    uint4 keys[kRecallKeys * Keys::kBytes / sizeof(uint4)];
    bool used[kRecallPart];
};
template <typename Rows> struct KeptRecall {
    using Keys = typename Rows::StoredKeys;
    const Rows &rows;
    RecallShared<Keys> &shared;
    int first;

    // Rows first .. last - 1, no line of an older cache; all threads. Who reads them synchronises first.
    __device__ __forceinline__ void bring(int last) const {
        using Word = typename Keys::Word;
        for (int row = first + int(threadIdx.x); row < last; row += blockDim.x) {
            const int m = rows.s.V + row;
            shared.used[row - first] = in_use(__ldcg(rows.meta(rows.s.C + m)), __ldcg(rows.mass(m)));
        }
        const Word *from = rows.template key_row<Keys>(rows.s.C + rows.s.V + first);
        const int words = (last - first) * rows.template key_words<Keys>();
#pragma unroll 4
        for (int i = threadIdx.x; i < words; i += kMoveThreads)
            reinterpret_cast<Word *>(shared.keys)[i] = __ldcg(from + i);
    }

    __device__ __forceinline__ bool used(int row) const { return shared.used[row - first]; }
    __device__ __forceinline__ void read(int row, int channel, Keys &keys) const {
        const auto *kept = reinterpret_cast<const typename Keys::Word *>(shared.keys);
        rows.read_keys(kept + (row - first) * rows.template key_words<Keys>(), channel, keys);
    }
};

template <typename Rows> struct Memory {
    const Rows &rows;

    // Text, and visual tokens where there is no visual memory, are recalled by key.
    __device__ __forceinline__ bool recalls(int position, int cell) const {
        return position >= 0 && rows.s.M > rows.s.V && (rows.s.V == 0 || cell < 0);
    }

    // Memory row of a token, or kDropped; `before`: tokens of this step that are recalled before it. All threads.
    template <int kBatch> __device__ __forceinline__ int route(const Token &token, int before) const {
        if (!recalls(token.position, token.cell)) return patch(token);
        const auto recall_of = [&](auto keys) {
            return recall<kBatch>(StateRecall<Rows, decltype(keys)>{rows}, token.key, 0, recall_rows());
        };
        if (Rows::kStores == Stores::exact || rows.g.memory_store == RETENTIVE_STORE_EXACT)
            return recalled_row(recall_of(typename Rows::Eight()), before);
        return recalled_row(recall_of(typename Rows::EightCodes()), before);
    }

    // Memory row of a token that is not recalled, or kDropped.
    __device__ __forceinline__ int patch(const Token &token) const {
        const RetentiveGeometry &g = rows.g;
        if (!token.visual() || rows.s.V == 0) return kDropped;
        const unsigned cell = unsigned(token.cell);
        const int y = int(part_of(cell / RETENTIVE_CELL_STRIDE, g.memory_grid[0], g.frame_grid[0])),
                  x = int(part_of(cell % RETENTIVE_CELL_STRIDE, g.memory_grid[1], g.frame_grid[1]));
        return min(y, g.memory_grid[0] - 1) * g.memory_grid[1] + min(x, g.memory_grid[1] - 1);
    }

    // Memory row of one that is: a free one, or the nearest.
    __device__ __forceinline__ int recalled_row(const Recall &found, int before) const {
        const int turn = found.used + before;
        return rows.s.V + (turn < recall_rows() ? turn : row_of_key(found.nearest));
    }

    __device__ __forceinline__ int recall_rows() const { return rows.s.M - rows.s.V; }

    // Row m after tokens with the weights' sum `added` and the weighted sums of this thread's channel: n' = h n + sum
    // a, k' = (h n k + sum a k) / n', v' likewise. All threads.
    __device__ __forceinline__ void merge(int m, float added, float key_sum, float value_sum, int newest,
                                          float retention) const {
        if (!(added > 0.0f)) return; // what is not touched stays bit for bit
        const int row = rows.s.C + m;
        const Token old = rows.read(row);
        const float mass = *rows.mass(m), kept = old.present() && mass > 0.0f ? mass * retention : 0.0f;
        const float total = fmaxf(kept + added, kTiny);
        __syncthreads();
        rows.write(row, (old.key * kept + key_sum) / total, (old.value * kept + value_sum) / total);
        if (threadIdx.x != 0) return;
        *rows.mass(m) = kept + added;
        rows.meta(row)[0] = max(newest, old.position);
        rows.meta(row)[1] = anchor_of(rows.g, rows.s, m);
    }

    // Of recall rows begin .. last - 1 of `source`, a StateRecall or KeptRecall. All threads. Four lanes share a row,
    // in pieces of eight channels, and a warp sends for kBatch times eight rows before it looks at them.
    template <int kBatch, typename Source>
    __device__ __forceinline__ Recall recall(const Source &source, float key, int begin, int last) const {
        using Keys = typename Source::Keys;
        constexpr int kLanes = 4, kRows = kWarpSize / kLanes;
        constexpr bool kCodes = std::is_same_v<Keys, typename Rows::EightCodes>;
        __shared__ __align__(16) float query[kMoveThreads];
        __shared__ __align__(16) float unit[kCodes ? kMoveThreads : 1];
        __shared__ unsigned long long best[kMoveThreads / kWarpSize];
        const int warp = warp_index(), warps = blockDim.x / kWarpSize, lane = threadIdx.x % kWarpSize;
        query[threadIdx.x] = rows.has_channel() ? key : 0.0f;
        if constexpr (kCodes) unit[threadIdx.x] = rows.own_key_scale; // 0 behind the last channel
        __syncthreads();
        unsigned long long least = kNoKey;
        float count = 0.0f;
#pragma unroll 1
        for (int first = begin + warp * kRows; first < last; first += kBatch * warps * kRows) {
            float distance[kBatch] = {}; // less |key|^2
            bool used[kBatch];
            int row[kBatch];
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                row[i] = first + i * warps * kRows + lane / kLanes;
                used[i] = source.used(min(row[i], last - 1));
            }
#pragma unroll 2
            for (int channel = lane % kLanes * 8; channel < rows.s.D; channel += kLanes * 8) {
                Keys keys[kBatch];
#pragma unroll
                for (int i = 0; i < kBatch; ++i) source.read(min(row[i], last - 1), channel, keys[i]);
#pragma unroll
                for (int e = 0; e < 8; ++e)
#pragma unroll
                    for (int i = 0; i < kBatch; ++i) {
                        float x = keys[i].element(e);
                        if constexpr (kCodes) x *= unit[channel + e];
                        distance[i] += x * (x - 2.0f * query[channel + e]);
                    }
            }
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                distance[i] += __shfl_xor_sync(kFullWarp, distance[i], 1);
                distance[i] += __shfl_xor_sync(kFullWarp, distance[i], 2);
                if (row[i] >= last) continue;
                const float rank = used[i] ? distance[i] : kUnused;
                least = min(least, key_of(rank + 0.0f, row[i]));
                count += used[i] && lane % kLanes == 0 ? 1.0f : 0.0f;
            }
        }
        least = warp_min(least);
        if (lane == 0) best[warp] = least;
        const int used = int(block_sum(count, rows.shared.reduction)); // synchronises
#pragma unroll 1
        for (int w = 0; w < warps; ++w) least = min(least, best[w]);
        __syncthreads();
        return Recall{least, used};
    }
};

} // namespace retentive
