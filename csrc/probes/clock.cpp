#include "probes/clock.h"

#include <time.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

namespace sllmbench {
namespace {

class Monotonic final : public Clock {
 public:
    Monotonic() { measure_itself(); }
    const char* name() const override { return "monotonic"; }
    std::uint64_t read() override { return static_cast<std::uint64_t>(monotonic_ns()); }
    double between_ns(std::uint64_t first, std::uint64_t second) override {
        return static_cast<double>(static_cast<std::int64_t>(second - first));
    }
};

#if defined(__x86_64__)

// Waits for what came before, and lets nothing that comes after begin earlier.
std::uint64_t ticks() {
    unsigned processor;
    const std::uint64_t now = __rdtscp(&processor);
    _mm_lfence();
    return now;
}

// Both clocks at one moment: the pair that was read fastest of many, half of whose duration is how
// far apart the two may be.
struct Moment {
    std::uint64_t ticks;
    double ns, error_ns;
};

Moment read_both() {
    Moment best{0, 0, std::numeric_limits<double>::infinity()};
    for (int attempt = 0; attempt < 200; ++attempt) {
        const std::int64_t before = monotonic_ns();
        const std::uint64_t now = ticks();
        const std::int64_t after = monotonic_ns();
        const double error = static_cast<double>(after - before) / 2;
        if (error < best.error_ns) best = {now, static_cast<double>(before) + error, error};
    }
    return best;
}

class Tsc final : public Clock {
 public:
    explicit Tsc(double seconds) {
        const Moment start = read_both();
        const std::int64_t end = monotonic_ns() + static_cast<std::int64_t>(seconds * 1e9);
        while (monotonic_ns() < end) {
        }
        const Moment stop = read_both();
        const double elapsed_ns = stop.ns - start.ns;
        ns_per_tick_ = elapsed_ns / static_cast<double>(stop.ticks - start.ticks);
        rate_uncertainty_ = (start.error_ns + stop.error_ns) / elapsed_ns;
        measure_itself();
    }
    const char* name() const override { return "tsc"; }
    std::uint64_t read() override { return ticks(); }
    double between_ns(std::uint64_t first, std::uint64_t second) override {
        return ns_per_tick_ * static_cast<double>(static_cast<std::int64_t>(second - first));
    }
    double rate_uncertainty() const override { return rate_uncertainty_; }

 private:
    double ns_per_tick_ = 0, rate_uncertainty_ = 0;
};

bool cpuid_bit_edx(unsigned leaf, unsigned bit) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(leaf, &a, &b, &c, &d) != 0 && (d >> bit & 1) != 0;
}

// `steps` dependent additions. Register to register: processors since Golden Cove do an addition of
// a constant in no time, while it is renamed.
void add_chain(std::int64_t steps) {
    std::uint64_t sum = 1;
    const std::uint64_t addend = 3;
    for (std::int64_t i = 0; i < steps; i += 32)
        asm volatile(".rept 32\n\tadd %1, %0\n\t.endr" : "+r"(sum) : "r"(addend));
}
#elif defined(__aarch64__)
void add_chain(std::int64_t steps) {
    std::uint64_t sum = 1;
    const std::uint64_t addend = 3;
    for (std::int64_t i = 0; i < steps; i += 32)
        asm volatile(".rept 32\n\tadd %0, %0, %1\n\t.endr" : "+r"(sum) : "r"(addend));
}
#endif

}  // namespace

std::int64_t monotonic_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void Clock::measure_itself() {
    constexpr int kRounds = 9, kReadings = 1000;
    cost_ns_ = resolution_ns_ = std::numeric_limits<double>::infinity();
    for (int round = 0; round < kRounds; ++round) {
        const std::uint64_t start = read();
        std::uint64_t last = start;
        for (int reading = 0; reading < kReadings; ++reading) {
            const std::uint64_t now = read();
            const double step = between_ns(last, now);
            if (step > 0) resolution_ns_ = std::min(resolution_ns_, step);
            last = now;
        }
        cost_ns_ = std::min(cost_ns_, between_ns(start, last) / kReadings);
    }
}

std::unique_ptr<Clock> monotonic_clock() {
    return std::make_unique<Monotonic>();
}

#if defined(__x86_64__)

std::string tsc_unsupported(const std::string& sys) {
    if (!cpuid_bit_edx(0x80000001, 27)) return "the processor has no rdtscp";
    if (!cpuid_bit_edx(0x80000007, 8))
        return "the processor's time stamp counter does not run at one rate (cpuid 80000007h)";
    std::ifstream file(sys + "/devices/system/clocksource/clocksource0/available_clocksource");
    std::string known;
    for (std::string name; file >> name;) {  // whole names: hyperv_clocksource_tsc_page is another
        if (name == "tsc") return "";
        known += (known.empty() ? "" : " ") + name;
    }
    if (!known.empty())
        return "the kernel found the time stamp counter unstable (it is no clocksource: " + known +
               ")";
    return "";
}

std::unique_ptr<Clock> tsc_clock(const std::string& sys, double seconds) {
    const std::string reason = tsc_unsupported(sys);
    if (!reason.empty()) throw std::runtime_error(reason);
    return std::make_unique<Tsc>(seconds);
}

#else

std::string tsc_unsupported(const std::string&) {
    return "only x86-64 processors have a time stamp counter";
}

std::unique_ptr<Clock> tsc_clock(const std::string& sys, double) {
    throw std::runtime_error(tsc_unsupported(sys));
}

#endif

double core_hz() {
#if defined(__x86_64__) || defined(__aarch64__)
    constexpr std::int64_t kSteps = 32 * 1024;  // 9 µs at 3.6 GHz; two readings are below 1% of it
    std::int64_t fastest = std::numeric_limits<std::int64_t>::max();
    for (int run = 0; run < 3; ++run) {
        const std::int64_t start = monotonic_ns();
        add_chain(kSteps);
        fastest = std::min(fastest, monotonic_ns() - start);
    }
    return static_cast<double>(kSteps) * 1e9 / static_cast<double>(fastest);
#else
    return 0;
#endif
}

}  // namespace sllmbench
