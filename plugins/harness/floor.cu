#include "floor.h"

#include "attention/source.cuh"
#include "common/launch.cuh"
#include "step/finish.cuh"

namespace retentive::harness {
namespace {

/* All rows of one kind that a warp takes, kRows at a time, keys and values each refilled as soon as they are there. */
template <int kRows> class Reader {
  public:
    __device__ Reader(const HeadSources &head, const Source &from, char *memory)
        : from_(from), words_of_(head, from, true), memory_(memory) {}

    __device__ void prefetch_tile(int tile, int last) const {
        const int lane = threadIdx.x % kWarpSize;
        if (tile < last && lane < 2)
            prefetch((lane == 0 ? from_.keys : from_.values) + size_t(tile) * kRows * from_.row_bytes,
                     unsigned(min(kRows, from_.rows - tile * kRows) * from_.row_bytes));
    }

    __device__ void read(int first, int last, int step) {
        if (first >= last) return;
        send(first, false, last), send(first, true, last);
        RowWords words = words_of_.load(row(first));
#pragma unroll 1
        for (int tile = first; tile < last; tile += step) {
            wait_for_copies<1>();
            send(tile + step, false, last);
            seen += float(words.meta.x + words.meta.y) + words.scale + words.importance + words.entropy;
            if (tile + step < last) words = words_of_.load(row(tile + step));
            wait_for_copies<1>();
            send(tile + step, true, last);
        }
        wait_for_copies<0>();
    }

    float seen = 0.0f;

  private:
    __device__ int row(int tile) const {
        const int lane = threadIdx.x % kWarpSize;
        return lane < kRows ? tile * kRows + lane : from_.rows;
    }
    __device__ void send(int tile, bool values, int last) const {
        const int bytes = kRows * from_.row_bytes, there = min(kRows, from_.rows - tile * kRows) * from_.row_bytes;
        const char *at = (values ? from_.values : from_.keys) + size_t(tile) * bytes;
        char *to = memory_ + (values ? bytes : 0);
        if (tile < last)
#pragma unroll 16
            for (int i = threadIdx.x % kWarpSize * 16; i < there; i += kWarpSize * 16) copy_async16(to + i, at + i);
        commit_copies();
    }

    const Source &from_;
    const RowWordsOf words_of_;
    char *const memory_;
};

/* As attention_split. */
template <typename Element, int kRows>
__global__ void __launch_bounds__(kAttentionWarps *kWarpSize, 3)
    floor_split(const __grid_constant__ RetentiveAttentionParams params, const __grid_constant__ Shape s,
                const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at,
                const int warp_bytes) {
    extern __shared__ __align__(128) char memory[];
    const int warp = warp_index(), split = blockIdx.x, bh = blockIdx.z;
    char *workspace = static_cast<char *>(params.workspace);
    const HeadSources head{params, s, bh};
    const TileTurn turn = {warp * plan.splits + split, plan.splits * kAttentionWarps};
    const Source exact = head.exact<Element>(), coarse = head.coarse();
    const int exact_tiles = ceil_div(s.E, kRows), coarse_tiles = ceil_div(s.F, kRows);
    Reader<kRows> of_exact(head, exact, memory + warp * warp_bytes),
        of_coarse(head, coarse, memory + warp * warp_bytes);
    of_exact.prefetch_tile(turn.first(0), exact_tiles), of_coarse.prefetch_tile(turn.first(exact_tiles), coarse_tiles);
    wait_for_previous_kernel();
    let_next_kernel_start();
    of_exact.read(turn.first(0), exact_tiles, turn.readers);
    of_coarse.read(turn.first(exact_tiles), coarse_tiles, turn.readers);
    const float seen = warp_sum(of_exact.seen + of_coarse.seen);
    __syncthreads();

    if (split == 0 && threadIdx.x == 0) reinterpret_cast<unsigned *>(workspace + at.tickets)[bh] = 0;
    float *partial = reinterpret_cast<float *>(workspace + at.partial);
    for (int i = threadIdx.x; i < s.GT * s.D; i += blockDim.x)
        partial[((size_t(bh) * s.GT + i / s.D) * plan.splits + split) * s.D + i % s.D] = seen;
    if (int(threadIdx.x) < s.GT)
        reinterpret_cast<SplitStats *>(
            workspace + at.stats)[(size_t(bh) * plan.query_tiles * kTileQueries + threadIdx.x) * plan.splits + split] =
            SplitStats{seen, 1.0f, {}, {}};
}

/* As step_finish. */
template <typename Element>
__global__ void __launch_bounds__(kFinishThreads, kFinishBlocks)
    floor_finish(const __grid_constant__ RetentiveStepParams params, const __grid_constant__ Shape s,
                 const __grid_constant__ AttentionPlan plan, const __grid_constant__ AttentionWorkspace at) {
    const int bh = blockIdx.y, output_block = int(blockIdx.x) - at.column_blocks;
    char *workspace = static_cast<char *>(params.workspace);
    const SplitView view(s, plan, at, workspace, bh);
    const HeadColumns columns(params, s, view, bh);
    const int first = blockIdx.x * kFinishThreads + threadIdx.x, stride = at.column_blocks * kFinishThreads;
    ColumnBatch<kColumnsAtOnce> batch;

    let_next_kernel_start();
    if (output_block < 0) batch.load_state(columns, s, first, stride);
    wait_for_previous_kernel();
    if (output_block >= 0)
        return decode_output(s, view, output_block, at.output_blocks,
                             static_cast<Element *>(params.output) + size_t(bh) * s.G * s.D);
#pragma unroll 1
    for (int c = first; c < s.C; c += kColumnsAtOnce * stride) {
        if (c > first) batch.load_state(columns, s, c, stride);
#pragma unroll
        for (int i = 0; i < kColumnsAtOnce; ++i)
            if (const int column = c + i * stride; column < s.C) {
                const float factor = batch.meta[i].x >= 0 ? 0.98f : 1.0f;
                columns.importance[column] = batch.importance[i] * factor;
                columns.entropy[column] = batch.entropy[i] * factor;
            }
    }
    if (is_last_block(reinterpret_cast<unsigned *>(workspace + at.tickets) + bh, unsigned(at.column_blocks)) &&
        params.victims != nullptr && threadIdx.x == 0)
        params.victims[size_t(bh) * s.L] = 0;
}

template <typename Element, int kRows>
int32_t launch_split(const RetentiveAttentionParams &params, const Shape &s, const AttentionPlan &plan, void *stream) {
    const int row_bytes = s.E > 0 ? s.D * int(sizeof(Element)) : s.D; /* of the larger kind */
    const int warp_bytes = 2 * kRows * row_bytes, shared = kAttentionWarps * warp_bytes;
    const auto kernel = floor_split<Element, kRows>;
    if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared))
        return cuda_status(error, "cudaFuncSetAttribute");
    const dim3 grid(unsigned(plan.splits), unsigned(plan.query_blocks), unsigned(s.BH));
    return launch("floor_split", kernel, grid, kAttentionWarps * kWarpSize, size_t(shared), stream, params, s, plan,
                  AttentionWorkspace(s, plan), warp_bytes);
}

template <typename Element>
int32_t launch_both(const RetentiveStepParams &params, const Shape &s, const AttentionPlan &plan, void *stream) {
    RetentiveAttentionParams attention = {};
    attention.geometry = params.geometry, attention.steps = 1, attention.state = params.state;
    attention.workspace = params.workspace;
    const int32_t status = plan.turn_rows == kStageRows ? launch_split<Element, kStageRows>(attention, s, plan, stream)
                                                        : launch_split<Element, kTileRows>(attention, s, plan, stream);
    if (status != RETENTIVE_OK) return status;
    const AttentionWorkspace at(s, plan);
    return launch("floor_finish", floor_finish<Element>,
                  dim3(unsigned(at.column_blocks + at.output_blocks), unsigned(s.BH)), kFinishThreads, 0, stream,
                  params, s, plan, at);
}

} // namespace

int32_t launch_floor(const RetentiveStepParams &params, void *stream) {
    const Shape s(params.geometry, 1);
    const AttentionPlan plan(s, params.geometry);
    if (params.geometry.dtype == RETENTIVE_FLOAT16) return launch_both<__half>(params, s, plan, stream);
    return launch_both<__nv_bfloat16>(params, s, plan, stream);
}

} // namespace retentive::harness
