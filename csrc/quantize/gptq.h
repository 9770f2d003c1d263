// GPTQ's inner loop: columns in turn, each rounded to make up for those before it.
#pragma once

#include <cstdint>

namespace sllmbench {

// Columns first .. first + count - 1 of matrices [n, k]; the rows are independent of each other.
struct GptqColumns {
    std::int64_t n, k, first, count, groups;
    const float* weights;           // [n, k]
    const float* targets;           // [n, count]: weights + the errors of columns before `first`
    const float* factor;            // [k, k], upper: the share of an error of column i in column j
    const float* pivots;            // [k]: what a squared miss of a column costs
    const float* scales;            // [n, groups]
    const float* zeros;             // [n, groups]
    const std::int32_t* groups_of;  // [count]
    float top;                      // the largest code
    std::uint8_t* codes;            // [n, k], written
    float* errors;                  // [n, k], written: weights - what the codes stand for
    double* losses;                 // [n], added to
};

inline constexpr std::int64_t kMostGptqColumns = 128;
inline constexpr int kGptqLanes = 16;  // rows that are solved together

// Rows begin .. end - 1, as an instruction set does them; the same bits on all.
using GptqRows = void(const GptqColumns& job, std::int64_t begin, std::int64_t end);

void gptq_columns(const GptqColumns& job, int threads);

}  // namespace sllmbench
