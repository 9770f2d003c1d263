#include "probes/rapl.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace sllmbench {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

double seconds(nanoseconds span) {
    return std::chrono::duration<double>(span).count();
}

// The counter's number. A file that cannot be read, or that holds something else, is a failure:
// taken as 0 it would look like a counter that has turned over.
std::uint64_t read_units(const Counter& counter, std::optional<CounterFailure>& failure) {
    char text[64];
    const ssize_t got = counter.perf ? ::read(counter.fd, text, sizeof text)
                                     : ::pread(counter.fd, text, sizeof text, 0);
    if (got < 0) {
        failure = CounterFailure{counter.name + ": " + std::strerror(errno), errno};
        return 0;
    }
    std::uint64_t units = 0;
    if (counter.perf) {
        if (got == sizeof units) {
            std::memcpy(&units, text, sizeof units);
            return units;
        }
        failure = CounterFailure{counter.name + ": the event is no longer counted"};
        return 0;
    }
    const char* end = text + got;
    while (end > text && (end[-1] == '\n' || end[-1] == ' ')) --end;
    const auto [stop, error] = std::from_chars(text, end, units);
    if (error != std::errc{} || stop != end)
        failure =
            CounterFailure{counter.name + " holds '" +
                           std::string(static_cast<const char*>(text), end) + "', not a number"};
    return units;
}

std::string shown(const char* form, double value) {
    char text[32];
    std::snprintf(text, sizeof text, form, value);
    return text;
}

}  // namespace

CounterWindow::CounterWindow(double most_watts) : most_watts_(most_watts) {}

CounterWindow::~CounterWindow() {
    end_thread();
    for (const Counter& counter : counters_)
        if (counter.fd >= 0) ::close(counter.fd);
}

void CounterWindow::add_file(const std::string& name, const std::string& path,
                             double joules_per_unit, std::uint64_t range, nanoseconds update) {
    Counter counter{
        .name = name, .joules_per_unit = joules_per_unit, .range = range, .update = update};
    counter.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (counter.fd < 0) counter.failure = CounterFailure{name + ": " + std::strerror(errno), errno};
    counters_.push_back(std::move(counter));
}

void CounterWindow::add_perf(const std::string& name, std::uint32_t type, std::uint64_t config,
                             int cpu, double joules_per_unit, nanoseconds update) {
    Counter counter{.name = name, .joules_per_unit = joules_per_unit, .range = 0, .update = update};
    counter.perf = true;
    perf_event_attr attributes{};
    attributes.type = type;
    attributes.size = sizeof attributes;
    attributes.config = config;
    counter.fd = static_cast<int>(::syscall(SYS_perf_event_open, &attributes, /*pid=*/-1, cpu,
                                            /*group_fd=*/-1, PERF_FLAG_FD_CLOEXEC));
    if (counter.fd < 0) counter.failure = CounterFailure{name + ": " + std::strerror(errno), errno};
    counters_.push_back(std::move(counter));
}

void CounterWindow::start() {
    if (open_) throw std::logic_error("the window is open already");
    // The thread first: making it is no part of the window.
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    if (const nanoseconds gap = longest_gap(); gap.count() > 0)
        thread_ = std::thread(&CounterWindow::keep_up, this, gap);
    for (Counter& counter : counters_) {
        if (counter.fd < 0) continue;
        counter.failure.reset();
        counter.joules = 0;
        counter.last = read_units(counter, counter.failure);
        counter.last_time = steady_clock::now();
    }
}

std::vector<CounterReading> CounterWindow::stop() {
    if (!open_) throw std::logic_error("the window is not open");
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (Counter& counter : counters_) advance(counter);
    }
    end_thread();
    std::vector<CounterReading> readings;
    for (Counter& counter : counters_) {
        if (!counter.failure && counter.joules == 0)
            counter.failure = CounterFailure{counter.name + "'s counter did not move"};
        CounterReading reading{counter.name, std::nullopt, {}};
        if (counter.failure)
            reading.failure = *counter.failure;
        else
            reading.joules = counter.joules;
        readings.push_back(std::move(reading));
    }
    return readings;
}

// Adds what was used since the last reading.
void CounterWindow::advance(Counter& counter) const {
    if (counter.failure) return;
    const std::uint64_t now = read_units(counter, counter.failure);
    if (counter.failure) return;
    const auto time = steady_clock::now();
    const double span = seconds(time - counter.last_time);
    const double range_j = static_cast<double>(counter.range) * counter.joules_per_unit;
    if (counter.range > 0 && span * most_watts_ > range_j) {
        counter.failure = CounterFailure{counter.name + "'s counter was not read for " +
                                         shown("%.3g", span) + " s, which may hide a whole turn"};
        return;
    }
    // Unsigned arithmetic: a counter that goes backwards without a range gives a huge number.
    std::uint64_t used = now - counter.last;
    if (now < counter.last) used += counter.range;
    const double joules = static_cast<double>(used) * counter.joules_per_unit;
    // Between two readings the counter may also step for the time before the first.
    if (joules > (span + seconds(counter.update)) * most_watts_) {
        counter.failure = CounterFailure{
            counter.name + "'s counter went from " + std::to_string(counter.last) + " to " +
            std::to_string(now) + " in " + shown("%.3g", span) + " s: it was reset"};
        return;
    }
    counter.joules += joules;
    counter.last = now;
    counter.last_time = time;
}

nanoseconds CounterWindow::longest_gap() const {
    double shortest = 0;
    for (const Counter& counter : counters_) {
        if (counter.fd < 0 || counter.range == 0) continue;
        const double turn =
            static_cast<double>(counter.range) * counter.joules_per_unit / most_watts_;
        shortest = shortest == 0 ? turn : std::min(shortest, turn);
    }
    return std::chrono::duration_cast<nanoseconds>(std::chrono::duration<double>(shortest / 2));
}

void CounterWindow::keep_up(nanoseconds gap) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ended_.wait_for(lock, gap, [this] { return !open_; }))
        for (Counter& counter : counters_)
            if (counter.range > 0) advance(counter);
}

void CounterWindow::end_thread() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        open_ = false;
    }
    ended_.notify_all();
    if (thread_.joinable()) thread_.join();
}

}  // namespace sllmbench
