// Counters of energy that only grow: RAPL's through powercap or perf_event, hwmon's. Which there
// are, and where, is found in sllmbench/hardware/counters.py; here they are read.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace sllmbench {

// Why a counter gave no number. `code` is the system's error, 0 where the number itself is at
// fault.
struct CounterFailure {
    std::string message;
    int code = 0;
};

// What one counter says of a window: joules or a failure.
struct CounterReading {
    std::string name;
    std::optional<double> joules;
    CounterFailure failure;
};

struct Counter {
    std::string name;
    double joules_per_unit;
    std::uint64_t range;              // the counter turns over after so many units; 0: never
    std::chrono::nanoseconds update;  // how often it steps
    int fd = -1;
    bool perf = false;  // read() gives the number itself, else the file's text is read
    // Of the window that is open:
    std::uint64_t last = 0;
    std::chrono::steady_clock::time_point last_time{};
    double joules = 0;
    std::optional<CounterFailure> failure{};
};

// A window over several counters. A thread reads those that turn over often enough that no whole
// turn is missed, however long the window.
class CounterWindow {
 public:
    // No counter takes more than `most_watts`: one that says so was reset.
    explicit CounterWindow(double most_watts);
    ~CounterWindow();
    CounterWindow(const CounterWindow&) = delete;
    CounterWindow& operator=(const CounterWindow&) = delete;

    // A counter that cannot be opened is kept as a failure.
    void add_file(const std::string& name, const std::string& path, double joules_per_unit,
                  std::uint64_t range, std::chrono::nanoseconds update);
    void add_perf(const std::string& name, std::uint32_t type, std::uint64_t config, int cpu,
                  double joules_per_unit, std::chrono::nanoseconds update);

    // Reads every counter. Throws std::logic_error if the window is open.
    void start();
    // Reads every counter again. Throws std::logic_error if the window is not open.
    std::vector<CounterReading> stop();

 private:
    void advance(Counter& counter) const;
    // The longest time between two readings that leaves half a turn to spare; zero: no need.
    std::chrono::nanoseconds longest_gap() const;
    void keep_up(std::chrono::nanoseconds gap);
    void end_thread();

    const double most_watts_;
    std::vector<Counter> counters_;
    std::mutex mutex_;
    std::condition_variable ended_;
    bool open_ = false;
    std::thread thread_;
};

}  // namespace sllmbench
