#include "models.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "half.h"
#include "symbols.h"

namespace cuda_host {
namespace {

constexpr std::uint32_t kWarp = 0xffffffff;
using Wide = __int128;

__half half_of(std::uint32_t word, int i) {
    return {static_cast<std::uint16_t>(word >> 16 * i)};
}
bool is_finite(__half a) {
    return (a.bits & 0x7c00) != 0x7c00;
}
// In units of 2^-24, the smallest subnormal.
std::int64_t fixed(__half a) {
    const std::int64_t exponent = a.bits >> 10 & 31, fraction = a.bits & 1023;
    const std::int64_t magnitude = exponent == 0 ? fraction : (fraction | 1024) << (exponent - 1);
    return a.bits & 0x8000 ? -magnitude : magnitude;
}

// `sum` is in units of 2^-48. Shifted to 30 bits with the lost ones as a last bit, it still rounds
// as it would have.
__half round_fixed(Wide sum) {
    const bool negative = sum < 0;
    auto magnitude = static_cast<unsigned __int128>(negative ? -sum : sum);
    int shift = 0;
    const auto high = static_cast<std::uint64_t>(magnitude >> 64);
    const int width = high != 0 ? 128 - std::countl_zero(high)
                                : 64 - std::countl_zero(static_cast<std::uint64_t>(magnitude));
    if (width > 50) {
        shift = width - 50;
        const bool lost = (magnitude & ((static_cast<unsigned __int128>(1) << shift) - 1)) != 0;
        magnitude = (magnitude >> shift) | (lost ? 1 : 0);
    }
    const double value =
        std::ldexp(static_cast<double>(static_cast<std::uint64_t>(magnitude)), shift - 48);
    return round_to_half(negative ? -value : value);
}

struct Fragments {
    __half a[16][8], b[8][8], c[16][8];
};
Fragments gather(const Words (&lanes)[32]) {
    Fragments f;
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const auto& word = lanes[lane].word;
        for (int i = 0; i < 2; ++i) {
            for (int upper = 0; upper < 2; ++upper) {
                f.a[g + 8 * upper][2 * t + i] = half_of(word[upper], i);
                f.c[g + 8 * upper][2 * t + i] = half_of(word[3 + upper], i);
            }
            f.b[2 * t + i][g] = half_of(word[2], i);
        }
    }
    return f;
}

__half dot(const Fragments& f, int row, int column, bool finite) {
    if (finite) {
        Wide sum = static_cast<Wide>(fixed(f.c[row][column])) << 24;
        bool negative_zero = f.c[row][column].bits == 0x8000;
        for (int k = 0; k < 8; ++k) {
            sum += static_cast<Wide>(fixed(f.a[row][k])) * fixed(f.b[k][column]);
            negative_zero = negative_zero && ((f.a[row][k].bits ^ f.b[k][column].bits) & 0x8000);
        }
        return sum == 0 ? __half{static_cast<std::uint16_t>(negative_zero ? 0x8000 : 0)}
                        : round_fixed(sum);
    }
    double sum = widen(f.c[row][column]);
    for (int k = 0; k < 8; ++k)
        sum += static_cast<double>(widen(f.a[row][k])) * widen(f.b[k][column]);
    return round_to_half(sum);
}

void multiply_m16n8k8(Words (&lanes)[32], std::uint32_t, const Where&) {
    const Fragments f = gather(lanes);
    const auto* first = &f.a[0][0];
    const bool finite = std::all_of(first, first + sizeof f / sizeof *first, is_finite);
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int upper = 0; upper < 2; ++upper) {
            const std::uint32_t low = dot(f, g + 8 * upper, 2 * t, finite).bits;
            const std::uint32_t high = dot(f, g + 8 * upper, 2 * t + 1, finite).bits;
            lanes[lane].word[upper] = low | high << 16;
        }
    }
}

int byte_of(std::uint32_t word, int i) {
    return static_cast<std::int8_t>(word >> 8 * i);
}

void multiply_m8n8k16(Words (&lanes)[32], std::uint32_t, const Where&) {
    Words brought[32];
    std::memcpy(brought, lanes, sizeof brought);
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 2; ++i) {
            const int row = lane / 4, column = 2 * (lane % 4) + i;
            std::uint32_t sum = brought[lane].word[2 + i];  // wraps
            for (int k = 0; k < 16; ++k)
                sum +=
                    static_cast<std::uint32_t>(byte_of(brought[4 * row + k / 4].word[0], k % 4) *
                                               byte_of(brought[4 * column + k / 4].word[1], k % 4));
            lanes[lane].word[i] = sum;
        }
    }
}

void check_shared(const std::byte* at, std::size_t bytes, const Where& where) {
    for (const auto& array : shared_arrays())
        if (at >= array.data() && at + bytes <= array.data() + array.size()) return;
    fail("copy_async to what is not inside of one shared array", where);
}

}  // namespace

void mma_m16n8k8(std::uint32_t (&d)[2], const std::uint32_t (&a)[2], std::uint32_t b,
                 const std::uint32_t (&c)[2], Where where) {
    const Words out = meet(kWarp, {{a[0], a[1], b, c[0], c[1]}}, multiply_m16n8k8, where);
    d[0] = out.word[0];
    d[1] = out.word[1];
}

void mma_m8n8k16(std::int32_t (&d)[2], std::uint32_t a, std::uint32_t b, const std::int32_t (&c)[2],
                 Where where) {
    const Words out =
        meet(kWarp, {{a, b, static_cast<std::uint32_t>(c[0]), static_cast<std::uint32_t>(c[1]), 0}},
             multiply_m8n8k16, where);
    d[0] = static_cast<std::int32_t>(out.word[0]);
    d[1] = static_cast<std::int32_t>(out.word[1]);
}

void copy_async(void* shared, const void* global, bool valid, Where where) {
    check_alignment(shared, 16, where);
    check_alignment(global, 16, where);
    auto* to = static_cast<std::byte*>(shared);
    check_shared(to, 16, where);
    std::memset(to, 0xff, 16);
    PendingCopies& pending = pending_copies();
    pending.copies.push_back(
        {to, valid ? static_cast<const std::byte*>(global) : nullptr, pending.groups_committed});
}

void copy_async_commit() {
    ++pending_copies().groups_committed;
}

void copy_async_wait(int pending) {
    PendingCopies& mine = pending_copies();
    std::erase_if(mine.copies, [&](const PendingCopy& copy) {
        if (copy.group + static_cast<unsigned>(pending) >= mine.groups_committed) return false;
        if (copy.from == nullptr)
            std::memset(copy.to, 0, 16);
        else
            std::memcpy(copy.to, copy.from, 16);
        return true;
    });
}

}  // namespace cuda_host
