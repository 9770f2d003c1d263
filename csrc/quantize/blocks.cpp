// The method, for every block type alike: given codes, the best scale and minimum are a least
// squares fit; given those, the best codes are the nearest. The two steps in turn never raise the
// error but stop at the first valley, so they start from several ranges. With factors, each group
// is fitted by itself first; then the super scales are searched for which whole factors come near,
// each group takes the best of the factors around, and the super scales are fitted to those.
#include "blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../cpu/half.h"
#include "../cpu/pool.h"

namespace sllmbench {
namespace {

// Four at a time on any machine; what the compiler makes of it is the baseline's own.
using Lanes = float __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kMaxGroup = 32;
constexpr int kMaxGroups = kSuperValues / 16;

Lanes load(const float* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}
float sum(Lanes lanes) {
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

struct Range {
    float low, high;
};

// Values and weights of a group with the sums that no code changes.
struct Group {
    const float* x;
    const float* w;
    int length;
    float w_sum, wx_sum, x_low, x_high;
};

struct Fit {
    float scale = 0, minimum = 0;
};

// The error of a fit with its nearest codes, and their sums for the next.
struct Assessed {
    float error, wq, wqq, wxq;
};

float inverse(float scale) {
    return std::fabs(scale) > 1e-30f ? 1 / scale : 0;
}

// The nearest whole number within the range: adding 1.5 * 2^23 drops what is behind the point.
Lanes nearest(Lanes steps, Range range) {
    constexpr float kWhole = 12582912.f;
    const Lanes low = steps - steps + range.low, high = steps - steps + range.high;
    steps = steps < low ? low : steps;
    steps = steps > high ? high : steps;
    return (steps + kWhole) - kWhole;
}

Assessed assess(const Group& group, const Fit& fit, Range range) {
    const float steps = inverse(fit.scale);
    Lanes error{}, wq{}, wqq{}, wxq{};
    for (int i = 0; i < group.length; i += kLanes) {
        const Lanes x = load(group.x + i), w = load(group.w + i);
        const Lanes q = nearest((x - fit.minimum) * steps, range);
        const Lanes off = x - (q * fit.scale + fit.minimum), weighed = w * q;
        error += w * off * off;
        wq += weighed;
        wqq += weighed * q;
        wxq += weighed * x;
    }
    return {sum(error), sum(wq), sum(wqq), sum(wxq)};
}

void store_codes(const Group& group, const Fit& fit, Range range, float zero, std::uint8_t* to) {
    const float steps = inverse(fit.scale);
    for (int i = 0; i < group.length; i += kLanes) {
        const Lanes q = nearest((load(group.x + i) - fit.minimum) * steps, range) + zero;
        for (int lane = 0; lane < kLanes; ++lane)
            to[i + lane] = static_cast<std::uint8_t>(static_cast<int>(q[lane]));
    }
}

Group make_group(const float* x, const float* w, int length) {
    Group group{x, w, length, 0, 0, x[0], x[0]};
    for (int i = 0; i < length; ++i) {
        group.w_sum += w[i];
        group.wx_sum += w[i] * x[i];
        group.x_low = std::min(group.x_low, x[i]);
        group.x_high = std::max(group.x_high, x[i]);
    }
    return group;
}

enum class Minimum { none, any, not_positive };

// The least squares fit to the codes that were assessed.
Fit solve(const Group& group, const Assessed& at, Minimum minimum) {
    const Fit proportional{at.wqq > 0 ? at.wxq / at.wqq : 0, 0};
    if (minimum == Minimum::none) return proportional;
    // The determinant from deviations: products of sums cancel where codes hardly differ.
    const float mean = at.wq / group.w_sum;
    const float spread = at.wqq - mean * at.wq;
    if (!(spread > 1e-6f * at.wqq)) return proportional;
    Fit fit;
    fit.scale = (at.wxq - mean * group.wx_sum) / spread;
    fit.minimum = group.wx_sum / group.w_sum - fit.scale * mean;
    return minimum == Minimum::not_positive && fit.minimum > 0 ? proportional : fit;
}

struct Search {
    const Group& group;
    Range range;
    Minimum minimum;
    Fit best{};
    float error = std::numeric_limits<float>::infinity();

    void from(Fit fit, int passes) {
        float before = std::numeric_limits<float>::infinity();
        for (int pass = 0; pass < passes; ++pass) {
            const Assessed at = assess(group, fit, range);
            if (at.error < error) {
                error = at.error;
                best = fit;
            }
            if (!(at.error < before)) return;
            before = at.error;
            fit = solve(group, at, minimum);
        }
    }
};

constexpr int kPasses = 3, kLastPasses = 12;

// Ranges that cover the values exactly, a little more than them, and less: clipping few may serve
// the rest better, the more so the fewer codes there are.
Fit search_minimum(const Group& group, Range range, Minimum minimum) {
    Search search{group, range, minimum};
    const bool not_positive = minimum == Minimum::not_positive;
    const float low = not_positive ? std::min(group.x_low, 0.f) : group.x_low;
    const float span = (not_positive ? std::max(group.x_high, 0.f) : group.x_high) - low;
    if (!(span > 0)) return {0, low};
    for (const float more : {0.f, -1.f, -0.4f, 0.4f, 0.8f, 1.3f, 2.f, 3.f}) {
        const float steps = range.high + more * (range.high < 8 ? 0.5f : 1.f);
        const float scale = span / steps, clipped = span - scale * range.high;
        search.from({scale, low + clipped / 2}, kPasses);
        if (more == 0) continue;
        search.from({scale, low}, kPasses);
        search.from({scale, std::min(low + clipped, not_positive ? 0.f : low + clipped)}, kPasses);
    }
    search.from(search.best, kLastPasses);
    return search.best;
}

Fit search_scale(const Group& group, Range range) {
    Search search{group, range, Minimum::none};
    const float largest = std::max(group.x_high, -group.x_low);
    if (!(largest > 0)) return {};
    const float sign = group.x_high > -group.x_low ? -1.f : 1.f;  // towards the lowest code
    const float reach = range.high < 8 ? 0.35f : range.high < 64 ? 0.6f : 0.3f;
    for (int i = -5; i <= 7; ++i) {
        const float steps = -range.low + reach * static_cast<float>(i);
        search.from({sign * largest / steps, 0}, kPasses);
        if (range.low != -range.high) search.from({-sign * largest / steps, 0}, kPasses);
    }
    search.from(search.best, kLastPasses);
    return search.best;
}

float as_half(float value) {
    return half_to_float(float_to_half(value));
}

// One level: the fit rounded to float16, the minimum first, then the scale that suits it best.
Fit rounded(const Group& group, Range range, Fit fit, bool minima) {
    Fit best{as_half(fit.scale), as_half(fit.minimum)};
    float error = assess(group, best, range).error;
    for (const int ulp : {-1, 1}) {
        const int bits = float_to_half(fit.scale) + ulp;
        const Fit near{half_to_float(static_cast<std::uint16_t>(bits)), best.minimum};
        if (!std::isfinite(near.scale) || (minima && near.scale < 0)) continue;
        const float tried = assess(group, near, range).error;
        if (tried < error) {
            error = tried;
            best = near;
        }
    }
    return best;
}

struct Supers {
    float scale = 0, minimum = 0;  // float16 values; a group's minimum is -minimum * its factor
};

// The groups of 256 values with the whole factors chosen for each.
class SuperGroup {
 public:
    SuperGroup(const float* x, const float* w, const BlockFormat& format, Range range)
        : format_(format), range_(range), count_(kSuperValues / format.group_size) {
        const Minimum minimum = format.minima ? Minimum::not_positive : Minimum::none;
        for (int g = 0; g < count_; ++g) {
            const int at = g * format.group_size;
            groups_[g] = make_group(x + at, w + at, format.group_size);
            ideal_[g] = format.minima ? search_minimum(groups_[g], range, minimum)
                                      : search_scale(groups_[g], range);
            const Assessed assessed = assess(groups_[g], ideal_[g], range);
            weight_[g] = assessed.wqq;
        }
    }

    // Keeps the best of several starts; `supers`, `factor` and `minimum_factor` hold it after.
    void search() {
        const float largest = extreme([](const Fit& fit) { return fit.scale; });
        const float lowest = extreme([](const Fit& fit) { return -fit.minimum; });
        const float most = static_cast<float>(format_.factor_max);
        std::array<float, 3> scales = best_steps(largest, most);
        for (const float scale : scales) {
            refine({as_half(scale), as_half(lowest / most)});
            if (format_.minima && format_.factor_max < 32)
                refine({as_half(scale), as_half(lowest / (most - 1))});
        }
    }

    Supers supers{};
    std::array<int, kMaxGroups> factor{}, minimum_factor{};

    int count() const { return count_; }
    const Group& group(int g) const { return groups_[g]; }
    Fit fit(int g) const { return fit_of(supers, factor[g], minimum_factor[g]); }

 private:
    static Fit fit_of(const Supers& at, int scale, int minimum) {
        return {at.scale * static_cast<float>(scale), -at.minimum * static_cast<float>(minimum)};
    }

    template <class Value>
    float extreme(Value value) const {
        float found = 0;
        for (int g = 0; g < count_; ++g)
            if (std::fabs(value(ideal_[g])) > std::fabs(found)) found = value(ideal_[g]);
        return found;
    }

    int lowest_factor() const { return format_.minima ? 0 : -format_.factor_max - 1; }
    int clamped(float factor_value) const {
        const auto low = static_cast<float>(lowest_factor());
        const auto high = static_cast<float>(format_.factor_max);
        return static_cast<int>(std::nearbyint(std::clamp(factor_value, low, high)));
    }

    // The super scales by which whole factors come nearest to the ideal scales.
    std::array<float, 3> best_steps(float largest, float most) const {
        constexpr int kTried = 15;
        std::array<std::pair<float, float>, 2 * kTried> tried;
        for (int i = 0; i < 2 * kTried; ++i) {
            // With signs the largest may become the lowest factor, or the highest.
            const float end = format_.minima || i < kTried ? most : -most - 1;
            const float scale = largest / end * (1 + 0.01f * static_cast<float>(i % kTried - 4));
            float error = 0;
            const float steps = inverse(scale);
            for (int g = 0; g < count_; ++g) {
                const auto whole = static_cast<float>(clamped(ideal_[g].scale * steps));
                const float off = ideal_[g].scale - scale * whole;
                error += weight_[g] * off * off;
            }
            tried[static_cast<std::size_t>(i)] = {error, scale};
        }
        const auto end = format_.minima ? tried.begin() + kTried : tried.end();
        std::partial_sort(tried.begin(), tried.begin() + 3, end);
        return {tried[0].second, tried[1].second, tried[2].second};
    }

    void refine(Supers at) {
        std::array<int, kMaxGroups> scales{}, minima{};
        const float steps = inverse(at.scale), minimum_steps = inverse(at.minimum);
        for (int g = 0; g < count_; ++g) {
            scales[g] = clamped(ideal_[g].scale * steps);
            minima[g] = format_.minima ? clamped(-ideal_[g].minimum * minimum_steps) : 0;
        }
        float before = std::numeric_limits<float>::infinity();
        for (int pass = 0; pass < 5; ++pass) {
            float error = 0;
            Normal normal;
            for (int g = 0; g < count_; ++g) {
                const Assessed best = choose(g, at, scales[g], minima[g]);
                error += best.error;
                normal.add(groups_[g], best, static_cast<float>(scales[g]),
                           static_cast<float>(minima[g]));
            }
            if (error < error_) {
                error_ = error;
                supers = at;
                factor = scales;
                minimum_factor = minima;
            }
            if (!(error < before)) return;
            before = error;
            at = normal.solve();
            at = {as_half(at.scale), as_half(at.minimum)};
        }
    }

    // The best factors of a group among those around the given ones, one and then the other.
    Assessed choose(int g, const Supers& at, int& scale, int& minimum) const {
        Assessed best = assess(groups_[g], fit_of(at, scale, minimum), range_);
        const auto try_around = [&](int& chosen, int low) {
            const int middle = chosen;
            for (const int tried : {middle - 1, middle + 1}) {
                if (tried < low || tried > format_.factor_max) continue;
                const int kept = chosen;
                chosen = tried;
                const Assessed now = assess(groups_[g], fit_of(at, scale, minimum), range_);
                if (now.error < best.error)
                    best = now;
                else
                    chosen = kept;
            }
        };
        try_around(scale, lowest_factor());
        if (format_.minima) {
            try_around(minimum, 0);
            try_around(scale, lowest_factor());
        }
        return best;
    }

    // Least squares of both super scales: x against factor * code and the minimum's factor.
    struct Normal {
        double uu = 0, uv = 0, vv = 0, xu = 0, xv = 0;

        void add(const Group& group, const Assessed& at, float scale, float minimum) {
            uu += scale * scale * at.wqq;
            uv -= scale * minimum * at.wq;
            vv += minimum * minimum * group.w_sum;
            xu += scale * at.wxq;
            xv -= minimum * group.wx_sum;
        }
        Supers solve() const {
            const double determinant = uu * vv - uv * uv;
            Supers found{static_cast<float>(uu > 0 ? xu / uu : 0), 0};
            if (!(determinant > 1e-9 * uu * vv)) return found;
            const double minimum = (xv * uu - xu * uv) / determinant;
            if (minimum < 0) return found;
            found.scale = static_cast<float>((xu * vv - xv * uv) / determinant);
            found.minimum = static_cast<float>(minimum);
            return found;
        }
    };

    const BlockFormat format_;
    const Range range_;
    const int count_;
    std::array<Group, kMaxGroups> groups_{};
    std::array<Fit, kMaxGroups> ideal_{};
    std::array<float, kMaxGroups> weight_{};
    float error_ = std::numeric_limits<float>::infinity();
};

Range code_range(const BlockFormat& format) {
    const auto half = static_cast<float>(1 << (format.bits - 1));
    if (format.minima) return {0, 2 * half - 1};
    // -128 has no opposite, which kernels that multiply by signs need.
    return {format.bits == 8 ? 1 - half : -half, half - 1};
}

void search_row(const float* x, const float* w, std::int64_t k, const BlockFormat& format,
                const BlockArrays& to) {
    const Range range = code_range(format);
    const float zero = format.minima || format.bits == 8 ? 0 : -range.low;
    if (format.factor_max == 0) {
        for (std::int64_t at = 0, g = 0; at < k; at += format.group_size, ++g) {
            const Group group = make_group(x + at, w + at, format.group_size);
            Fit fit = format.minima ? search_minimum(group, range, Minimum::any)
                                    : search_scale(group, range);
            fit = rounded(group, range, fit, format.minima);
            store_codes(group, fit, range, zero, to.codes + at);
            to.scales[g] = float_to_half(fit.scale);
            if (format.minima) to.minima[g] = float_to_half(fit.minimum);
        }
        return;
    }
    for (std::int64_t at = 0, s = 0; at < k; at += kSuperValues, ++s) {
        SuperGroup super(x + at, w + at, format, range);
        super.search();
        to.scales[s] = float_to_half(super.supers.scale);
        if (format.minima) to.minima[s] = float_to_half(super.supers.minimum);
        for (int g = 0; g < super.count(); ++g) {
            const std::int64_t place = s * super.count() + g;
            store_codes(super.group(g), super.fit(g), range, zero,
                        to.codes + at + static_cast<std::int64_t>(g) * format.group_size);
            to.factors[place] = static_cast<std::int8_t>(super.factor[g]);
            if (format.minima)
                to.minimum_factors[place] = static_cast<std::uint8_t>(super.minimum_factor[g]);
        }
    }
}

}  // namespace

void search_blocks(const float* values, const float* importance, std::int64_t n, std::int64_t k,
                   const BlockFormat& format, const BlockArrays& out, int threads) {
    const std::int64_t groups = k / format.group_size;
    const std::int64_t floats = format.factor_max == 0 ? groups : k / kSuperValues;
    const auto row = [](auto* array, std::int64_t at) { return array ? array + at : array; };
    pool_run(n, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            search_row(values + r * k, importance, k, format,
                       {out.codes + r * k, out.scales + r * floats, row(out.minima, r * floats),
                        row(out.factors, r * groups), row(out.minimum_factors, r * groups)});
    });
}

}  // namespace sllmbench
