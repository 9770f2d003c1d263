#include "quantize/gptq.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/pool.h"

namespace sllmbench {

void gptq_columns(const GptqColumns& job, int threads) {
    GptqRows* const rows = active_isa().gptq_rows;
    pool_run((job.n + kGptqLanes - 1) / kGptqLanes, threads,
             [&](std::int64_t begin, std::int64_t end) {
                 rows(job, begin * kGptqLanes, std::min(end * kGptqLanes, job.n));
             });
}

}  // namespace sllmbench
