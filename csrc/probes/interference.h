// What else happened on the machine: counters of the kernel, read before and after a sample.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sllmbench {

// Counters as they stood at one moment. What cannot be read is absent.
struct Snapshot {
    struct Thread {
        int id;
        std::int64_t wait_ns, migrations;
    };
    std::int64_t at_ns;           // CLOCK_MONOTONIC
    std::vector<Thread> threads;  // of this process, ordered by id
    std::int64_t own_cpu_ns, involuntary_switches, minor_faults, major_faults;
    std::optional<std::int64_t> perf_migrations, busy_ns, steal_ns;
    std::optional<double> core_hz, temperature_c;
};

// What happened between two.
struct Happened {
    std::int64_t window_ns;
    std::optional<std::int64_t> wait_ns, steal_ns, foreign_cpu_ns, migrations;
    std::int64_t own_cpu_ns, involuntary_switches, minor_faults, major_faults;
};

class InterferenceProbe {
 public:
    // `proc` and `sys` stand for /proc and /sys.
    InterferenceProbe(std::string proc, const std::string& sys);
    ~InterferenceProbe();
    InterferenceProbe(const InterferenceProbe&) = delete;
    InterferenceProbe& operator=(const InterferenceProbe&) = delete;

    // `with_core_hz` runs a chain of additions for some 30 µs.
    Snapshot take(bool with_core_hz) const;
    Happened between(const Snapshot& before, const Snapshot& after) const;

    // Why a field has no value here, by its name.
    const std::map<std::string, std::string>& reasons() const { return reasons_; }
    std::int64_t tick_ns() const { return tick_ns_; }
    int processors() const { return processors_; }

 private:
    void find_temperatures(const std::string& sys);
    void open_migration_counters();
    void read_threads(Snapshot& snapshot) const;
    void read_processors(Snapshot& snapshot) const;

    std::string proc_;
    std::vector<std::string> temperatures_;  // files, in thousandths of a degree Celsius
    std::vector<int> migration_counters_;    // of perf; without them /proc is read
    bool has_waits_ = false, has_sched_ = false;
    std::int64_t tick_ns_;
    int processors_ = 0;
    std::map<std::string, std::string> reasons_;
};

}  // namespace sllmbench
