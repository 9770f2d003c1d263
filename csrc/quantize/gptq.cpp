#include "quantize/gptq.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/pool.h"

namespace sllmbench {

void gptq_columns(const GptqColumns& job, int threads) {
    constexpr std::int64_t kTogether = 16;  // rows that one solves at a time
    GptqRows* const rows = active_isa().gptq_rows;
    pool_run((job.n + kTogether - 1) / kTogether, threads,
             [&](std::int64_t begin, std::int64_t end) {
                 rows(job, begin * kTogether, std::min(end * kTogether, job.n));
             });
}

}  // namespace sllmbench
