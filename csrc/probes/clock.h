// Clocks behind one interface, each with what a reading costs and how fine it is, measured.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace sllmbench {

class Clock {
 public:
    Clock() = default;
    Clock(const Clock&) = delete;
    Clock& operator=(const Clock&) = delete;
    virtual ~Clock() = default;

    virtual const char* name() const = 0;
    // A reading means something to `between_ns` of the same clock alone.
    virtual std::uint64_t read() = 0;
    virtual double between_ns(std::uint64_t first, std::uint64_t second) = 0;
    // How far a nanosecond of this clock may be off, as a fraction.
    virtual double rate_uncertainty() const { return 0; }

    double cost_ns() const { return cost_ns_; }
    double resolution_ns() const { return resolution_ns_; }

 protected:
    // Takes both from readings in a row; called once by the derived class's maker.
    void measure_itself();
    void set_measured(double cost_ns, double resolution_ns) {
        cost_ns_ = cost_ns;
        resolution_ns_ = resolution_ns;
    }

 private:
    double cost_ns_ = 0, resolution_ns_ = 0;
};

// CLOCK_MONOTONIC.
std::int64_t monotonic_ns();
std::unique_ptr<Clock> monotonic_clock();

// Why the time stamp counter cannot be a clock here; empty when it can. `sys` stands for /sys.
std::string tsc_unsupported(const std::string& sys);
// Compares it with CLOCK_MONOTONIC for `seconds`. Throws std::runtime_error where it is
// unsupported.
std::unique_ptr<Clock> tsc_clock(const std::string& sys, double seconds);

// The clock of the core that this runs on, from dependent additions, which take a cycle each: the
// fastest of a few runs of some microseconds, because a run may be interrupted. 0 where this build
// has no such chain.
double core_hz();

}  // namespace sllmbench
