// What makes a cache cold.
#pragma once

#include <cstdint>

namespace sllmbench {

// Each of the configured threads reads and writes its share of `bytes` bytes, which are kept from
// call to call: with as many as the last-level cache holds, twice over, nothing else stays in it.
// Throws std::invalid_argument for a size that is not positive, std::bad_alloc.
void evict_caches(std::int64_t bytes);

}  // namespace sllmbench
