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

double power_of_two(int exponent) {
    return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// `sum` is in units of 2^-48. Cut to the 50 bits that a double surely has, with a last bit that
// says whether any were lost, it still rounds as it would have.
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
        static_cast<double>(static_cast<std::uint64_t>(magnitude)) * power_of_two(shift - 48);
    return round_to_half(negative ? -value : value);
}

// A double rounded to odd remembers on which side of its neighbours' middle the sum was.
double add_to_odd(double a, double b) {
    const double sum = a + b, b_part = sum - a;
    const double lost = (a - (sum - b_part)) + (b - b_part);
    auto bits = std::bit_cast<std::uint64_t>(sum);
    if (lost == 0 || (bits & 1)) return sum;
    return std::bit_cast<double>((lost > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

// `products` in units of 2^-48, of at most 84 bits: two doubles hold them.
float round_with(Wide products, float c) {
    const auto high = static_cast<double>(products);
    const auto low = static_cast<double>(products - static_cast<Wide>(high));
    const double a = high * 0x1p-48, b = c, sum = a + b, b_part = sum - a;
    const double lost = (a - (sum - b_part)) + (b - b_part);
    return static_cast<float>(add_to_odd(sum, add_to_odd(lost, low * 0x1p-48)));
}

struct Fragments {
    __half a[16][8], b[8][8];
    bool finite;
    std::int64_t fixed_a[16][8], fixed_b[8][8];  // b by columns
};
Fragments gather(const Words (&lanes)[32]) {
    Fragments f;
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const auto& word = lanes[lane].word;
        for (int i = 0; i < 2; ++i) {
            f.a[g][2 * t + i] = half_of(word[0], i);
            f.a[g + 8][2 * t + i] = half_of(word[1], i);
            f.b[2 * t + i][g] = half_of(word[2], i);
        }
    }
    f.finite = std::all_of(&f.a[0][0], &f.a[0][0] + 16 * 8, is_finite) &&
               std::all_of(&f.b[0][0], &f.b[0][0] + 8 * 8, is_finite);
    for (int k = 0; k < 8; ++k) {
        for (int row = 0; row < 16; ++row) f.fixed_a[row][k] = fixed(f.a[row][k]);
        for (int column = 0; column < 8; ++column) f.fixed_b[column][k] = fixed(f.b[k][column]);
    }
    return f;
}

// In units of 2^-48.
Wide dot(const Fragments& f, int row, int column) {
    Wide sum = 0;
    for (int k = 0; k < 8; ++k) sum += static_cast<Wide>(f.fixed_a[row][k]) * f.fixed_b[column][k];
    return sum;
}
bool all_products_are_negative_zeros(const Fragments& f, int row, int column) {
    for (int k = 0; k < 8; ++k) {
        const std::uint16_t a = f.a[row][k].bits, b = f.b[k][column].bits;
        if (!((a ^ b) & 0x8000) || ((a & 0x7fff) != 0 && (b & 0x7fff) != 0)) return false;
    }
    return true;
}
// Where infinities and NaN decide, rounding does not matter.
double special_dot(const Fragments& f, int row, int column, double c) {
    for (int k = 0; k < 8; ++k)
        c += static_cast<double>(widen(f.a[row][k])) * widen(f.b[k][column]);
    return c;
}

__half element(const Fragments& f, int row, int column, __half c) {
    if (!f.finite || !is_finite(c)) return round_to_half(special_dot(f, row, column, widen(c)));
    const Wide sum = dot(f, row, column) + static_cast<Wide>(fixed(c)) * (1 << 24);
    if (sum != 0) return round_fixed(sum);
    const bool negative = c.bits == 0x8000 && all_products_are_negative_zeros(f, row, column);
    return {static_cast<std::uint16_t>(negative ? 0x8000 : 0)};
}
float element(const Fragments& f, int row, int column, float c) {
    if (!f.finite || !std::isfinite(c)) {
        const auto d = static_cast<float>(special_dot(f, row, column, c));
        return d == d ? d : std::bit_cast<float>(0x7fffffff);
    }
    const Wide sum = dot(f, row, column);
    if (sum == 0 && all_products_are_negative_zeros(f, row, column)) return c;
    return round_with(sum, c);
}

void multiply_f16(Words (&lanes)[32], std::uint32_t, const Where&) {
    const Fragments f = gather(lanes);
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        auto& word = lanes[lane].word;
        for (int upper = 0; upper < 2; ++upper) {
            std::uint32_t d = 0;
            for (int i = 0; i < 2; ++i)
                d |=
                    std::uint32_t{
                        element(f, g + 8 * upper, 2 * t + i, half_of(word[3 + upper], i)).bits}
                    << 16 * i;
            word[upper] = d;
        }
    }
}

void multiply_f32(Words (&lanes)[32], std::uint32_t, const Where&) {
    const Fragments f = gather(lanes);
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        auto& word = lanes[lane].word;
        for (int i = 0; i < 4; ++i) {
            const auto c = std::bit_cast<float>(word[3 + i]);
            word[3 + i] = std::bit_cast<std::uint32_t>(element(f, g + i / 2 * 8, 2 * t + i % 2, c));
        }
    }
}

int byte_of(std::uint32_t word, int i) {
    return static_cast<std::int8_t>(word >> 8 * i);
}

void multiply_s8(Words (&lanes)[32], std::uint32_t, const Where&) {
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
    const Words out = meet(kWarp, {{a[0], a[1], b, c[0], c[1]}}, multiply_f16, where);
    d[0] = out.word[0];
    d[1] = out.word[1];
}

void mma_m16n8k8(float (&d)[4], const std::uint32_t (&a)[2], std::uint32_t b, const float (&c)[4],
                 Where where) {
    Words words{{a[0], a[1], b}};
    for (int i = 0; i < 4; ++i) words.word[3 + i] = std::bit_cast<std::uint32_t>(c[i]);
    words = meet(kWarp, words, multiply_f32, where);
    for (int i = 0; i < 4; ++i) d[i] = std::bit_cast<float>(words.word[3 + i]);
}

void mma_m8n8k16(std::int32_t (&d)[2], std::uint32_t a, std::uint32_t b, const std::int32_t (&c)[2],
                 Where where) {
    const Words out =
        meet(kWarp, {{a, b, static_cast<std::uint32_t>(c[0]), static_cast<std::uint32_t>(c[1])}},
             multiply_s8, where);
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
