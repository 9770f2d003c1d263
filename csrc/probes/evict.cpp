#include "probes/evict.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/pages.h"
#include "cpu/pool.h"

namespace sllmbench {

void evict_caches(std::int64_t bytes) {
    if (bytes < 1)
        throw std::invalid_argument("bytes must be at least 1, not " + std::to_string(bytes));
    static Pages pages;
    static std::int64_t held = 0;
    static std::uint8_t value = 0;
    if (bytes > held) {
        held = 0;
        pages = allocate_pages(static_cast<std::size_t>(bytes));
        held = bytes;
    }
    constexpr std::int64_t kPiece = 1 << 16;
    ++value;
    pool_run((bytes + kPiece - 1) / kPiece, configured_threads(),
             [&](std::int64_t begin, std::int64_t end) {
                 const std::int64_t last = std::min(end * kPiece, bytes);
                 std::memset(pages.get() + begin * kPiece, value,
                             static_cast<std::size_t>(last - begin * kPiece));
             });
}

}  // namespace sllmbench
