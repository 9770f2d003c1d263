#include "cpu/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "cpu/isa.h"
#include "cpu/packed.h"
#include "cpu/pool.h"

namespace sllmbench {
namespace {

// Weights times rows below this are done by the caller alone: sharing costs 1-2 us.
constexpr std::int64_t kShareFromBytes = 48 << 10;
constexpr std::int64_t kTaskBytes = 256 << 10;
// Few enough panels a task that a thread which loses its core does not hold up the call.
constexpr std::int64_t kTasksAThread = 8;

// The prepared activations of the calling thread, kept between calls.
class Workspace {
 public:
    std::byte* reserve(std::size_t bytes) {
        if (bytes > size_) {
            data_.reset();
            size_ = 0;
            const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
            data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
            if (!data_) throw std::bad_alloc();
            size_ = rounded;
        }
        return data_.get();
    }

 private:
    struct Free {
        void operator()(std::byte* p) const { std::free(p); }
    };
    std::unique_ptr<std::byte, Free> data_;
    std::size_t size_ = 0;
};

thread_local Workspace workspace;

// Copies x with its columns in the order of the weight's.
const float* put_in_order(const Job& job, const std::int32_t* order, std::byte* space,
                          int threads) {
    auto* const to = reinterpret_cast<float*>(space);
    pool_run(job.m, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
            for (std::int64_t k = 0; k < job.k; ++k)
                std::memcpy(to + row * job.k + k, job.x + row * job.k + order[k], sizeof *to);
    });
    return to;
}

void point_into_workspace(Job& job, std::int64_t k_padded, Arithmetic arithmetic,
                          const std::int32_t* order, int threads) {
    const auto round_up = [](std::int64_t bytes) { return (bytes + 63) / 64 * 64; };
    const std::int64_t value_bytes = arithmetic == Arithmetic::int8 ? 1 : 4;
    // 64 bytes more: the kernels may read, not use, a whole vector at the last value.
    const std::int64_t values = round_up(job.rows * k_padded * value_bytes) + 64;
    const std::int64_t per_block = round_up(job.n_blocks * job.rows * 4) + 64;
    const std::int64_t ordered = order == nullptr ? 0 : round_up(job.m * job.k * 4);
    std::byte* p = workspace.reserve(static_cast<std::size_t>(values + 3 * per_block + ordered));
    job.values = p;
    job.sums = reinterpret_cast<float*>(p + values);
    job.scales = reinterpret_cast<float*>(p + values + per_block);
    job.starts = reinterpret_cast<std::int32_t*>(p + values + 2 * per_block);
    if (order != nullptr) job.x = put_in_order(job, order, p + values + 3 * per_block, threads);
}

void multiply_chunk(const Job& job, const Kernels& kernels, bool gemv, int threads) {
    const std::int64_t panels = (job.n + kPanelRows - 1) / kPanelRows;
    if (gemv) {
        // Preparing so few rows takes a microsecond or two: less than handing it out.
        kernels.prepare(job, 0, job.rows);
        pool_run(panels, threads,
                 [&](std::int64_t begin, std::int64_t end) { kernels.gemv(job, begin, end); });
        return;
    }
    pool_run(job.rows / kRowStep, threads, [&](std::int64_t begin, std::int64_t end) {
        kernels.prepare(job, begin * kRowStep, end * kRowStep);
    });
    // A task is a few panels, which stay in L2, times kTileRows rows; inside it a kernel's tile of
    // rows meets one panel after the other, so that its activations stay in L1.
    const std::int64_t fair = panels / (kTasksAThread * threads);
    const std::int64_t group =
        std::clamp<std::int64_t>(std::min(kTaskBytes / job.panel_bytes, fair), 1, 8);
    const std::int64_t groups = (panels + group - 1) / group;
    const std::int64_t tiles = (job.rows + kTileRows - 1) / kTileRows;
    pool_run(groups * tiles, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            const std::int64_t first = task / tiles * group, last = std::min(panels, first + group);
            const std::int64_t start = task % tiles * kTileRows;
            const std::int64_t stop = std::min(job.rows, start + kTileRows);
            for (std::int64_t row = start; row < stop; row += kernels.tile_rows)
                for (std::int64_t panel = first; panel < last; ++panel)
                    kernels.gemm(job, panel, row, std::min(stop, row + kernels.tile_rows));
        }
    });
}

}  // namespace

Ran matmul(const float* x, std::int64_t m, const PackedWeights& weights, float* out,
           Arithmetic arithmetic, const Isa& isa, int threads) {
    if (m == 0 || weights.n() == 0) return {"none", isa.name};
    const bool gemv = m <= kGemvRows;
    const Kernels& kernels = arithmetic == Arithmetic::int8 ? *isa.int8 : *isa.exact;
    if (m * weights.panels() * weights.panel_bytes() < kShareFromBytes) threads = 1;
    for (std::int64_t row = 0; row < m; row += kChunkRows) {
        Job job{};
        job.panels = weights.data();
        job.blocks = weights.blocks().data();
        job.n_blocks = static_cast<std::int64_t>(weights.blocks().size());
        job.panel_bytes = weights.panel_bytes();
        job.n = weights.n();
        job.k = weights.k();
        job.layout = weights.layout();
        job.x = x + row * weights.k();
        job.m = std::min(kChunkRows, m - row);
        // A long prompt's last chunk stays with the gemm, so that one kernel name tells the truth.
        job.rows = gemv ? m : (job.m + kRowStep - 1) / kRowStep * kRowStep;
        job.out = out + row * weights.n();
        point_into_workspace(job, weights.k_padded(), arithmetic, weights.order(),
                             gemv ? 1 : threads);
        multiply_chunk(job, kernels, gemv, threads);
    }
    return gemv ? Ran{"fused-gemv", kernels.gemv_isa} : Ran{"fused-gemm", kernels.gemm_isa};
}

}  // namespace sllmbench
