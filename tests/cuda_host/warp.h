// What threads do together: barriers, shuffles, votes.
#pragma once

#include <cstring>
#include <type_traits>

#include "block.h"

namespace cuda_host {

// A lane brings its value, and the number of the lane whose value it takes.
template <class T>
T shuffle(std::uint32_t mask, T value, unsigned source, const Where& where) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    Words words{};
    std::memcpy(words.word, &value, sizeof(T));
    words.word[2] = source;
    const auto take = [](Words(&lanes)[32], std::uint32_t all, const Where& at) {
        Words brought[32];
        std::memcpy(brought, lanes, sizeof brought);
        for (unsigned i = 0; i < 32; ++i) {
            if (!(all >> i & 1)) continue;
            const unsigned from = brought[i].word[2];
            if (!(all >> from & 1)) fail("a shuffle from a lane outside of the mask", at);
            lanes[i] = brought[from];
        }
    };
    words = meet(mask, words, take, where);
    std::memcpy(&value, words.word, sizeof(T));
    return value;
}

inline std::uint32_t vote(std::uint32_t mask, bool value, const Where& where) {
    const auto ballot = [](Words(&lanes)[32], std::uint32_t all, const Where&) {
        std::uint32_t votes = 0;
        for (unsigned i = 0; i < 32; ++i)
            if (all >> i & 1) votes |= lanes[i].word[0] << i;
        for (auto& words : lanes) words.word[0] = votes;
    };
    return meet(mask, Words{{value}}, ballot, where).word[0];
}

// The lanes of `width` neighbours shuffle among themselves.
inline unsigned first_of(unsigned lane, int width) {
    return lane / static_cast<unsigned>(width) * static_cast<unsigned>(width);
}

}  // namespace cuda_host

inline void __syncthreads(cuda_host::Where where = cuda_host::Where::current()) {
    cuda_host::synchronize_block(where);
}
inline void __syncwarp(unsigned mask = 0xffffffff,
                       cuda_host::Where where = cuda_host::Where::current()) {
    cuda_host::meet(mask, {}, [](auto&, std::uint32_t, const cuda_host::Where&) {}, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              cuda_host::Where where = cuda_host::Where::current()) {
    const unsigned first = cuda_host::first_of(cuda_host::lane(), width);
    return cuda_host::shuffle(mask, value, first + static_cast<unsigned>(source & (width - 1)),
                              where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  cuda_host::Where where = cuda_host::Where::current()) {
    const unsigned lane = cuda_host::lane(), from = lane ^ static_cast<unsigned>(bits);
    const unsigned end = cuda_host::first_of(lane, width) + static_cast<unsigned>(width);
    return cuda_host::shuffle(mask, value, from < end ? from : lane, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   cuda_host::Where where = cuda_host::Where::current()) {
    const unsigned lane = cuda_host::lane(), from = lane + by;
    const unsigned end = cuda_host::first_of(lane, width) + static_cast<unsigned>(width);
    return cuda_host::shuffle(mask, value, from < end ? from : lane, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 cuda_host::Where where = cuda_host::Where::current()) {
    const unsigned lane = cuda_host::lane(), first = cuda_host::first_of(lane, width);
    return cuda_host::shuffle(mask, value, lane >= first + by ? lane - by : lane, where);
}

inline unsigned __ballot_sync(unsigned mask, int value,
                              cuda_host::Where where = cuda_host::Where::current()) {
    return cuda_host::vote(mask, value != 0, where);
}
inline int __any_sync(unsigned mask, int value,
                      cuda_host::Where where = cuda_host::Where::current()) {
    return cuda_host::vote(mask, value != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int value,
                      cuda_host::Where where = cuda_host::Where::current()) {
    return cuda_host::vote(mask, value != 0, where) == mask;
}
