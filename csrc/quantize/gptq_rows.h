// The rows of GPTQ's inner loop, for gptq_rows_ISA.cpp to include: every level gives the same bits,
// since no product is fused with a sum.
#pragma once

#include "cpu/lanes.h"
#include "quantize/gptq.h"

namespace sllmbench {

// Rows that are solved together, lane by lane: one row's chain of division, rounding and product is
// long, sixteen hide each other's. A vector type, since gcc 12 leaves the division and the clamping
// of a loop over lanes scalar; it lowers to what the file that includes this is compiled for.
static constexpr int kLanes = kGptqLanes;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using Columns = Lanes[kMostGptqColumns];
// Columns whose errors are carried on together to those after them, in registers.
static constexpr std::int64_t kStrip = 16;

// In place: to return such a vector is no part of the baseline's calling convention.
ALWAYS_INLINE static inline void clamp(Lanes& x, float low, float high) {
    x = x < low ? Lanes{} + low : x;
    x = x > high ? Lanes{} + high : x;
}

// To nearest, ties to even, as NumPy rounds: adding 1.5 * 2^23 leaves no bits below 1.
ALWAYS_INLINE static inline void round_to_nearest(Lanes& x) {
    constexpr float kShift = 12582912.0f;
    x = (x + kShift) - kShift;
}

static void load(const float* from, std::int64_t stride, int rows, std::int64_t count,
                 Columns& to) {
    for (int r = 0; r < kLanes; ++r)
        for (std::int64_t j = 0; j < count; ++j) to[j][r] = r < rows ? from[r * stride + j] : 0.0f;
}

// Adds to targets to .. end - 1 their shares of the errors of columns from .. from_end - 1.
static void carry(const GptqColumns& job, const Columns& error, std::int64_t from,
                  std::int64_t from_end, std::int64_t to, std::int64_t end, Columns& target) {
    const float* const shares = job.factor + job.first * job.k + job.first;
    for (std::int64_t i = to; i < end; ++i) {
        Lanes sum = target[i];
        for (std::int64_t j = from; j < from_end; ++j) sum += error[j] * shares[j * job.k + i];
        target[i] = sum;
    }
}

static void solve_rows(const GptqColumns& job, std::int64_t row, int rows) {
    Columns target, weight, error, codes;
    const std::int64_t start = row * job.k + job.first;
    load(job.targets + row * job.count, job.count, rows, job.count, target);
    load(job.weights + start, job.k, rows, job.count, weight);
    Lanes scale{}, divisor{}, zero{}, loss{};
    divisor += __builtin_inff();
    for (std::int64_t j = 0; j < job.count; ++j) {
        const std::int32_t group = job.groups_of[j];
        if (j == 0 || group != job.groups_of[j - 1])
            for (int r = 0; r < rows; ++r) {
                scale[r] = job.scales[(row + r) * job.groups + group];
                divisor[r] = scale[r] > 0 ? scale[r] : __builtin_inff();
                zero[r] = job.zeros[(row + r) * job.groups + group];
            }
        // Beyond the codes by far is as good as infinite, and the rounding stays exact.
        Lanes code = target[j] / divisor;
        clamp(code, -1024.0f, 1024.0f);
        round_to_nearest(code);
        code += zero;
        clamp(code, 0.0f, job.top);
        codes[j] = code;
        const Lanes value = scale * (code - zero), miss = target[j] - value;
        error[j] = weight[j] - value;
        loss += miss * miss * job.pivots[job.first + j];
        const std::int64_t next = (j / kStrip + 1) * kStrip;
        carry(job, error, j, j + 1, j + 1, next < job.count ? next : job.count, target);
        if (j + 1 == next) carry(job, error, next - kStrip, next, next, job.count, target);
    }
    for (int r = 0; r < rows; ++r) {
        for (std::int64_t j = 0; j < job.count; ++j) {
            job.codes[start + r * job.k + j] = static_cast<std::uint8_t>(codes[j][r]);
            job.errors[start + r * job.k + j] = error[j][r];
        }
        job.losses[row + r] += loss[r];
    }
}

static inline void solve_all_rows(const GptqColumns& job, std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; row += kLanes)
        solve_rows(job, row, end - row < kLanes ? static_cast<int>(end - row) : kLanes);
}

}  // namespace sllmbench
