// How a per-ISA file picks one of its kernels.
#pragma once

#include "cpu/matmul.h"

namespace sllmbench {

// Calls call.operator()<BITS, OFFSETS>() for the job's kind of weights.
template <class Call>
static inline void with_kind(const Job& job, Call call) {
    const bool offsets = job.layout.offset != Offset::symmetric;
    switch (job.layout.bits) {
        case 4:
            return offsets ? call.template operator()<4, true>()
                           : call.template operator()<4, false>();
        case 5:
            return offsets ? call.template operator()<5, true>()
                           : call.template operator()<5, false>();
        case 6:
            return call.template operator()<6, false>();
        default:
            return call.template operator()<8, false>();
    }
}

// Calls call.operator()<M>() for the rows of a gemv.
template <class Call>
static inline void with_rows(const Job& job, Call call) {
    switch (job.rows) {
        case 1:
            return call.template operator()<1>();
        case 2:
            return call.template operator()<2>();
        case 3:
            return call.template operator()<3>();
        default:
            return call.template operator()<4>();
    }
}

// Calls call.operator()<M>() for an even height of at most M.
template <int M, class Call>
static inline void with_height(std::int64_t height, Call call) {
    if constexpr (M > 2)
        if (height < M) return with_height<M - 2>(height, call);
    call.template operator()<M>();
}

}  // namespace sllmbench
