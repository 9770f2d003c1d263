#include "quantize/gptq_rows.h"

namespace sllmbench {

void gptq_rows_avx2(const GptqColumns& job, std::int64_t begin, std::int64_t end);
void gptq_rows_avx2(const GptqColumns& job, std::int64_t begin, std::int64_t end) {
    solve_all_rows(job, begin, end);
}

}  // namespace sllmbench
