#include "quantize/gptq.h"

#include <algorithm>

#include "cpu/pool.h"

namespace sllmbench {
namespace {

// To nearest, ties to even, as NumPy rounds: adding 1.5 * 2^23 leaves no bits below 1.
inline float nearest(float x) {
    constexpr float kShift = 12582912.0f;
    return (x + kShift) - kShift;
}

void row_columns(const GptqColumns& job, std::int64_t row) {
    float target[kMostGptqColumns];
    std::copy_n(job.targets + row * job.count, job.count, target);
    const float* const scales = job.scales + row * job.groups;
    const float* const zeros = job.zeros + row * job.groups;
    const std::int64_t start = row * job.k + job.first;
    double loss = 0.0;
    for (std::int64_t j = 0; j < job.count; ++j) {
        const float scale = scales[job.groups_of[j]], zero = zeros[job.groups_of[j]];
        // Beyond the codes by far is as good as infinite, and the rounding stays exact.
        const float step = scale > 0 ? std::clamp(target[j] / scale, -1024.0f, 1024.0f) : 0.0f;
        const float code = std::clamp(nearest(step) + zero, 0.0f, job.top);
        const float value = scale * (code - zero);
        const float error = job.weights[start + j] - value, miss = target[j] - value;
        job.codes[start + j] = static_cast<std::uint8_t>(code);
        job.errors[start + j] = error;
        loss += static_cast<double>(miss) * miss * job.pivots[job.first + j];
        const float* const share = job.factor + (job.first + j) * job.k + job.first;
        for (std::int64_t i = j + 1; i < job.count; ++i) target[i] += error * share[i];
    }
    job.losses[row] += loss;
}

}  // namespace

void gptq_columns(const GptqColumns& job, int threads) {
    pool_run(job.n, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) row_columns(job, row);
    });
}

}  // namespace sllmbench
