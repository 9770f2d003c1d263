#include "cpu/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace sllmbench {

void FreePages::operator()(std::uint8_t* p) const {
    std::free(p);
}

Pages allocate_pages(std::size_t bytes) {
    constexpr std::size_t kPage = 4096, kHugePage = 2u << 20;
    const bool huge = bytes >= 2 * kHugePage;
    void* p = nullptr;
    if (posix_memalign(&p, huge ? kHugePage : kPage, std::max<std::size_t>(bytes, 1)) != 0)
        throw std::bad_alloc();
    // Whole huge pages only, so that a matrix never takes more than its size. A hint: where huge
    // pages are switched off the weights are merely a little slower to read.
    if (huge) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
    return Pages(static_cast<std::uint8_t*>(p));
}

}  // namespace sllmbench
