#include "probes/interference.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "probes/clock.h"

namespace sllmbench {
namespace {

namespace fs = std::filesystem;

// The beginning of a file of the kernel's; empty where it cannot be read.
std::string_view read_file(const std::string& path, std::array<char, 8192>& buffer) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return {};
    const ssize_t size = read(file, buffer.data(), buffer.size());
    close(file);
    return size <= 0 ? std::string_view() : std::string_view(buffer.data(), size);
}

// The number at the beginning of the text, which is taken away with the blanks before it.
std::optional<std::int64_t> next_number(std::string_view& text) {
    const std::size_t from = text.find_first_not_of(" \t:");
    if (from == text.npos) return std::nullopt;
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + from, text.data() + text.size(), value);
    if (error != std::errc()) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

std::optional<std::int64_t> number_after(std::string_view text, std::string_view name) {
    const std::size_t at = text.find(name);
    if (at == text.npos) return std::nullopt;
    text.remove_prefix(at + name.size());
    return next_number(text);
}

// Run time, then the time that it was ready to run and did not, then the number of turns.
std::optional<std::int64_t> run_delay(std::string_view schedstat) {
    if (!next_number(schedstat)) return std::nullopt;
    return next_number(schedstat);
}

std::vector<int> thread_ids(const std::string& proc) {
    std::vector<int> ids;
    DIR* const folder = opendir((proc + "/self/task").c_str());
    if (folder == nullptr) return ids;
    while (const dirent* const entry = readdir(folder)) {
        std::string_view name = entry->d_name;
        if (const auto id = next_number(name)) ids.push_back(static_cast<int>(*id));
    }
    closedir(folder);
    std::sort(ids.begin(), ids.end());
    return ids;
}

std::string task_file(const std::string& proc, int thread, const char* name) {
    return proc + "/self/task/" + std::to_string(thread) + name;
}

int open_migrations(int thread) {
    perf_event_attr asked;
    std::memset(&asked, 0, sizeof asked);
    asked.size = sizeof asked;
    asked.type = PERF_TYPE_SOFTWARE;
    asked.config = PERF_COUNT_SW_CPU_MIGRATIONS;
    asked.inherit = 1;  // threads that it will start; those that are there have a counter each
    // Without exclude_kernel: migrations happen in the kernel, and a count without it is always 0.
    return static_cast<int>(
        syscall(SYS_perf_event_open, &asked, thread, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

std::int64_t nanoseconds(const timeval& t) {
    return (static_cast<std::int64_t>(t.tv_sec) * 1'000'000 + t.tv_usec) * 1000;
}

bool names_a_processor(std::string_view sensor) {
    for (const std::string_view known : {"coretemp", "k10temp", "zenpower", "cpu_thermal",
                                         "x86_pkg_temp", "cpu-thermal", "soc_thermal"})
        if (sensor.substr(0, known.size()) == known) return true;
    return false;
}

}  // namespace

InterferenceProbe::InterferenceProbe(std::string proc, const std::string& sys)
    : proc_(std::move(proc)), tick_ns_(1'000'000'000 / sysconf(_SC_CLK_TCK)) {
    std::array<char, 8192> buffer;
    const std::vector<int> ids = thread_ids(proc_);
    for (const int id : ids) {
        has_waits_ |= run_delay(read_file(task_file(proc_, id, "/schedstat"), buffer)).has_value();
        has_sched_ |=
            number_after(read_file(task_file(proc_, id, "/sched"), buffer), "se.nr_migrations")
                .has_value();
    }
    if (!has_waits_)
        reasons_["wait_ns"] = "the kernel counts no waiting (/proc/self/task/*/schedstat)";
    open_migration_counters();
    const Snapshot first = take(false);
    if (!first.busy_ns)
        reasons_["foreign_cpu_ns"] = reasons_["steal_ns"] = "/proc/stat does not count ticks here";
    if (core_hz() == 0) reasons_["core_hz"] = "no chain of additions for this architecture";
    find_temperatures(sys);
    std::ifstream stat(proc_ + "/stat");  // a line a processor: more than the buffer holds
    for (std::string line; std::getline(stat, line);)
        processors_ += line.starts_with("cpu") && !line.starts_with("cpu ");
}

InterferenceProbe::~InterferenceProbe() {
    for (const int counter : migration_counters_) close(counter);
}

void InterferenceProbe::find_temperatures(const std::string& sys) {
    std::array<char, 8192> buffer;
    std::error_code ignored;
    for (const fs::directory_entry& sensor : fs::directory_iterator(sys + "/class/hwmon", ignored))
        if (names_a_processor(read_file(sensor.path() / "name", buffer)))
            for (const fs::directory_entry& file : fs::directory_iterator(sensor, ignored)) {
                const std::string name = file.path().filename();
                if (name.starts_with("temp") && name.ends_with("_input"))
                    temperatures_.push_back(file.path());
            }
    if (temperatures_.empty())
        for (const fs::directory_entry& zone :
             fs::directory_iterator(sys + "/class/thermal", ignored))
            if (names_a_processor(read_file(zone.path() / "type", buffer)))
                temperatures_.push_back(zone.path() / "temp");
    if (temperatures_.empty())
        reasons_["temperature_c"] = "no sensor of the processor in /sys/class/hwmon or thermal";
}

void InterferenceProbe::open_migration_counters() {
    for (const int id : thread_ids("/proc")) {
        const int counter = open_migrations(id);
        if (counter >= 0) {
            migration_counters_.push_back(counter);
        } else if (errno != ESRCH) {  // a thread that has ended meanwhile
            const int error = errno;
            for (const int opened : migration_counters_) close(opened);
            migration_counters_.clear();
            if (!has_sched_)
                reasons_["migrations"] =
                    std::string("perf_event_open: ") + std::strerror(error) +
                    (error == EACCES ? " (kernel.perf_event_paranoid above 1)" : "") +
                    ", and no /proc/self/task/*/sched";
            return;
        }
    }
}

void InterferenceProbe::read_threads(Snapshot& snapshot) const {
    std::array<char, 8192> buffer;
    const bool from_sched = migration_counters_.empty() && has_sched_;
    for (const int id : thread_ids(proc_)) {
        Snapshot::Thread thread{id, 0, 0};
        if (has_waits_)
            thread.wait_ns =
                run_delay(read_file(task_file(proc_, id, "/schedstat"), buffer)).value_or(0);
        if (from_sched)
            thread.migrations =
                number_after(read_file(task_file(proc_, id, "/sched"), buffer), "se.nr_migrations")
                    .value_or(0);
        snapshot.threads.push_back(thread);
    }
    if (migration_counters_.empty()) return;
    snapshot.perf_migrations = 0;
    for (const int counter : migration_counters_) {
        std::int64_t count = 0;
        if (read(counter, &count, sizeof count) == sizeof count) *snapshot.perf_migrations += count;
    }
}

void InterferenceProbe::read_processors(Snapshot& snapshot) const {
    std::array<char, 8192> buffer;
    std::string_view text = read_file(proc_ + "/stat", buffer);
    if (!text.starts_with("cpu ")) return;
    text.remove_prefix(4);
    // user nice system idle iowait irq softirq steal; guests' time is in user and nice already.
    std::array<std::int64_t, 8> ticks;
    for (std::int64_t& tick : ticks) {
        const auto number = next_number(text);
        if (!number) return;
        tick = *number;
    }
    snapshot.busy_ns = tick_ns_ * (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]);
    snapshot.steal_ns = tick_ns_ * ticks[7];
}

Snapshot InterferenceProbe::take(bool with_core_hz) const {
    Snapshot snapshot{};
    if (with_core_hz && !reasons_.contains("core_hz")) snapshot.core_hz = core_hz();
    std::array<char, 8192> buffer;
    for (const std::string& file : temperatures_) {
        std::string_view text = read_file(file, buffer);
        if (const auto thousandths = next_number(text))
            snapshot.temperature_c = std::max(snapshot.temperature_c.value_or(-1e9),
                                              static_cast<double>(*thousandths) / 1000);
    }
    read_processors(snapshot);
    read_threads(snapshot);
    rusage used;
    getrusage(RUSAGE_SELF, &used);
    snapshot.own_cpu_ns = nanoseconds(used.ru_utime) + nanoseconds(used.ru_stime);
    snapshot.involuntary_switches = used.ru_nivcsw;
    snapshot.minor_faults = used.ru_minflt;
    snapshot.major_faults = used.ru_majflt;
    snapshot.at_ns = monotonic_ns();
    return snapshot;
}

Happened InterferenceProbe::between(const Snapshot& before, const Snapshot& after) const {
    Happened happened{};
    happened.window_ns = after.at_ns - before.at_ns;
    happened.own_cpu_ns = after.own_cpu_ns - before.own_cpu_ns;
    happened.involuntary_switches = after.involuntary_switches - before.involuntary_switches;
    happened.minor_faults = after.minor_faults - before.minor_faults;
    happened.major_faults = after.major_faults - before.major_faults;
    std::int64_t waited = 0, migrated = 0;
    auto earlier = before.threads.begin();
    for (const Snapshot::Thread& thread : after.threads) {
        while (earlier != before.threads.end() && earlier->id < thread.id) ++earlier;
        const bool is_old = earlier != before.threads.end() && earlier->id == thread.id;
        waited += thread.wait_ns - (is_old ? earlier->wait_ns : 0);
        migrated += thread.migrations - (is_old ? earlier->migrations : 0);
    }
    if (has_waits_) happened.wait_ns = waited;
    if (before.perf_migrations && after.perf_migrations)
        happened.migrations = *after.perf_migrations - *before.perf_migrations;
    else if (has_sched_)
        happened.migrations = migrated;
    if (before.steal_ns && after.steal_ns) happened.steal_ns = *after.steal_ns - *before.steal_ns;
    if (before.busy_ns && after.busy_ns)
        happened.foreign_cpu_ns =
            std::max<std::int64_t>(0, *after.busy_ns - *before.busy_ns - happened.own_cpu_ns);
    return happened;
}

}  // namespace sllmbench
