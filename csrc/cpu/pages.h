// Memory for weights, and for the probes that say how fast weights could be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace sllmbench {

struct FreePages {
    void operator()(std::uint8_t* p) const;
};
using Pages = std::unique_ptr<std::uint8_t, FreePages>;

// Throws std::bad_alloc. From 4 MiB on in huge pages where the system gives them.
Pages allocate_pages(std::size_t bytes);

}  // namespace sllmbench
