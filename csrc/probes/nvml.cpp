#include "probes/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <utility>

namespace sllmbench {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

// Of nvml.h, which need not be installed.
constexpr int kSuccess = 0;
constexpr int kNotSupported = 3;
constexpr int kInsufficientSize = 7;
constexpr int kFunctionNotFound = 13;
constexpr int kSmClock = 1;
constexpr int kGpuTemperature = 0;
constexpr int kTotalPowerSamples = 0;
constexpr int kDoubleValue = 0;
constexpr int kUnsignedValue = 1;
constexpr unsigned kNameBytes = 96;
using Device = void*;
struct Sample {
    unsigned long long time_us;
    union {
        double as_double;
        unsigned as_unsigned;
        unsigned long long as_long;
    } value;
};
static_assert(sizeof(Sample) == 16);
struct Memory {
    unsigned long long total, free, used;
};
struct Process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};
static_assert(sizeof(Process) == 24);

struct ReasonName {
    unsigned long long bit;
    const char* name;
};
constexpr ReasonName kReasons[] = {
    {0x1, "gpu_idle"},
    {0x2, "applications_clocks_setting"},
    {0x4, "sw_power_cap"},
    {0x8, "hw_slowdown"},
    {0x10, "sync_boost"},
    {0x20, "sw_thermal_slowdown"},
    {0x40, "hw_thermal_slowdown"},
    {0x80, "hw_power_brake_slowdown"},
    {0x100, "display_clock_setting"},
    {0x200, "board_limit"},
    {0x400, "reliability"},
};

template <class Clock>
std::int64_t now_ns() {
    return std::chrono::duration_cast<nanoseconds>(Clock::now().time_since_epoch()).count();
}

template <class Function>
void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
}

}  // namespace

// Those that older or newer drivers lack are null.
struct Nvml::Functions {
    int (*init)();
    int (*shutdown)();
    const char* (*error_string)(int);
    int (*count)(unsigned*);
    int (*handle)(unsigned, Device*);
    int (*name)(Device, char*, unsigned);
    int (*energy)(Device, unsigned long long*);
    int (*power)(Device, unsigned*);
    int (*samples)(Device, int, unsigned long long, int*, unsigned*, Sample*);
    int (*memory)(Device, Memory*);
    int (*clock)(Device, int, unsigned*);
    int (*event_reasons)(Device, unsigned long long*);
    int (*throttle_reasons)(Device, unsigned long long*);
    int (*temperature)(Device, int, unsigned*);
    int (*processes)(Device, unsigned*, Process*);

    explicit Functions(void* library) {
        find(library, "nvmlInit_v2", init);
        find(library, "nvmlShutdown", shutdown);
        find(library, "nvmlErrorString", error_string);
        find(library, "nvmlDeviceGetCount_v2", count);
        find(library, "nvmlDeviceGetHandleByIndex_v2", handle);
        find(library, "nvmlDeviceGetName", name);
        find(library, "nvmlDeviceGetTotalEnergyConsumption", energy);
        find(library, "nvmlDeviceGetPowerUsage", power);
        find(library, "nvmlDeviceGetSamples", samples);
        find(library, "nvmlDeviceGetMemoryInfo", memory);
        find(library, "nvmlDeviceGetClockInfo", clock);
        find(library, "nvmlDeviceGetCurrentClocksEventReasons", event_reasons);
        find(library, "nvmlDeviceGetCurrentClocksThrottleReasons", throttle_reasons);
        find(library, "nvmlDeviceGetTemperature", temperature);
        find(library, "nvmlDeviceGetComputeRunningProcesses_v3", processes);
        if (processes == nullptr)  // the same structure
            find(library, "nvmlDeviceGetComputeRunningProcesses_v2", processes);
    }

    template <class... Parameters, class... Arguments>
    static int call(int (*function)(Parameters...), Arguments... arguments) {
        return function == nullptr ? kFunctionNotFound : function(arguments...);
    }

    std::string said(int code) const {
        if (code == kFunctionNotFound) return "this driver has no such function";
        const char* text = error_string == nullptr ? nullptr : error_string(code);
        return text == nullptr ? "error " + std::to_string(code) : text;
    }
};

Nvml::Nvml(const std::string& library) : library_(::dlopen(library.c_str(), RTLD_NOW)) {
    if (library_ == nullptr) {
        const char* said = ::dlerror();
        throw NvmlError("no NVIDIA driver: " + std::string(said ? said : library), -1);
    }
    functions_ = std::make_unique<Functions>(library_);
    try {
        require(Functions::call(functions_->init), "nvmlInit_v2");
    } catch (...) {
        ::dlclose(library_);
        throw;
    }
}

Nvml::~Nvml() {
    Functions::call(functions_->shutdown);
    // Not unloaded: the driver's library keeps threads and handlers of its own.
}

void Nvml::require(int code, const char* function) const {
    if (code != kSuccess)
        throw NvmlError(std::string(function) + ": " + functions_->said(code), code);
}

void* Nvml::device(unsigned gpu) const {
    Device found = nullptr;
    require(Functions::call(functions_->handle, gpu, &found), "nvmlDeviceGetHandleByIndex_v2");
    return found;
}

unsigned Nvml::count() const {
    unsigned found = 0;
    require(Functions::call(functions_->count, &found), "nvmlDeviceGetCount_v2");
    return found;
}

std::string Nvml::name(unsigned gpu) const {
    char text[kNameBytes] = {};
    require(Functions::call(functions_->name, device(gpu), text, kNameBytes), "nvmlDeviceGetName");
    return text;
}

bool Nvml::has_energy_counter(unsigned gpu) const {
    unsigned long long millijoules = 0;
    const int code = Functions::call(functions_->energy, device(gpu), &millijoules);
    if (code == kNotSupported || code == kFunctionNotFound) return false;
    require(code, "nvmlDeviceGetTotalEnergyConsumption");
    return true;
}

std::uint64_t Nvml::energy_mj(unsigned gpu) const {
    unsigned long long millijoules = 0;
    require(Functions::call(functions_->energy, device(gpu), &millijoules),
            "nvmlDeviceGetTotalEnergyConsumption");
    return millijoules;
}

double Nvml::power_w(unsigned gpu) const {
    unsigned milliwatts = 0;
    require(Functions::call(functions_->power, device(gpu), &milliwatts),
            "nvmlDeviceGetPowerUsage");
    return milliwatts / 1e3;
}

std::vector<PowerSample> Nvml::power_samples(unsigned gpu, std::int64_t after_ns) const {
    const Device handle = device(gpu);
    const auto after_us = static_cast<unsigned long long>(after_ns / 1000);
    int type = 0;
    unsigned count = 0;
    if (Functions::call(functions_->samples, handle, kTotalPowerSamples, after_us, &type, &count,
                        static_cast<Sample*>(nullptr)) != kSuccess)
        return {};
    std::vector<Sample> raw(count);
    if (count == 0 || Functions::call(functions_->samples, handle, kTotalPowerSamples, after_us,
                                      &type, &count, raw.data()) != kSuccess)
        return {};
    raw.resize(count);
    std::vector<PowerSample> samples;
    for (const Sample& sample : raw) {
        // A buffer that is not full yet may hold empty places.
        if (sample.time_us <= after_us) continue;
        const double milliwatts = type == kDoubleValue ? sample.value.as_double
                                  : type == kUnsignedValue
                                      ? sample.value.as_unsigned
                                      : static_cast<double>(sample.value.as_long);
        samples.push_back({static_cast<std::int64_t>(sample.time_us) * 1000, milliwatts / 1e3});
    }
    std::sort(samples.begin(), samples.end(),
              [](const PowerSample& a, const PowerSample& b) { return a.time_ns < b.time_ns; });
    return samples;
}

std::uint64_t Nvml::memory_used_bytes(unsigned gpu) const {
    Memory memory{};
    require(Functions::call(functions_->memory, device(gpu), &memory), "nvmlDeviceGetMemoryInfo");
    return memory.used;
}

GpuReading Nvml::state(unsigned gpu) const {
    const Device handle = device(gpu);
    GpuReading reading;
    const auto told = [&](int code, const char* function) {
        if (code != kSuccess && !reading.reason)
            reading.reason = std::string(function) + ": " + functions_->said(code);
        return code == kSuccess;
    };
    unsigned value = 0;
    if (told(Functions::call(functions_->clock, handle, kSmClock, &value),
             "nvmlDeviceGetClockInfo"))
        reading.sm_clock_hz = value * 1e6;
    if (told(Functions::call(functions_->temperature, handle, kGpuTemperature, &value),
             "nvmlDeviceGetTemperature"))
        reading.temperature_c = value;
    unsigned long long bits = 0;
    const auto reasons =
        functions_->event_reasons ? functions_->event_reasons : functions_->throttle_reasons;
    if (told(Functions::call(reasons, handle, &bits), "nvmlDeviceGetCurrentClocksEventReasons")) {
        reading.throttle_reasons.emplace();
        for (const ReasonName& reason : kReasons)
            if (bits & reason.bit) reading.throttle_reasons->emplace_back(reason.name);
    }
    // More may start between the two calls, which the slack is for.
    unsigned count = 0;
    int code =
        Functions::call(functions_->processes, handle, &count, static_cast<Process*>(nullptr));
    std::vector<Process> processes(count + 8);
    if (code == kInsufficientSize) {
        count = static_cast<unsigned>(processes.size());
        code = Functions::call(functions_->processes, handle, &count, processes.data());
    }
    if (told(code, "nvmlDeviceGetComputeRunningProcesses_v3")) {
        reading.compute_pids.emplace();
        for (unsigned i = 0; i < count; ++i) reading.compute_pids->push_back(processes[i].pid);
    }
    return reading;
}

std::optional<nanoseconds> Nvml::update_period(unsigned gpu, nanoseconds limit) const {
    constexpr std::size_t kGaps = 5;
    const bool counter = has_energy_counter(gpu);
    std::vector<std::int64_t> changes;
    if (!counter) {
        // What the driver stamped needs no watching, and shows the period of constant power too.
        for (const PowerSample& sample : power_samples(gpu, 0)) changes.push_back(sample.time_ns);
    }
    const auto read = [&] { return counter ? static_cast<double>(energy_mj(gpu)) : power_w(gpu); };
    const auto end = steady_clock::now() + limit;
    double last = read();
    if (changes.size() <= kGaps) changes.clear();  // the driver's clock is another than ours
    while (changes.size() <= kGaps && steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::microseconds(500));
        if (const double now = read(); now != last) {
            changes.push_back(now_ns<steady_clock>());
            last = now;
        }
    }
    if (changes.size() < 3) return std::nullopt;
    std::vector<std::int64_t> gaps;
    for (std::size_t i = 1; i < changes.size(); ++i) gaps.push_back(changes[i] - changes[i - 1]);
    std::nth_element(gaps.begin(), gaps.begin() + static_cast<std::ptrdiff_t>(gaps.size() / 2),
                     gaps.end());
    return nanoseconds(gaps[gaps.size() / 2]);
}

GpuEnergyWindow::GpuEnergyWindow(std::shared_ptr<const Nvml> nvml, unsigned gpu,
                                 nanoseconds update_period)
    : nvml_(std::move(nvml)),
      gpu_(gpu),
      period_(std::max<nanoseconds>(update_period / 2, std::chrono::milliseconds(1))),
      counter_(nvml_->has_energy_counter(gpu)) {}

GpuEnergyWindow::~GpuEnergyWindow() {
    end_thread();
}

void GpuEnergyWindow::start() {
    if (open_) throw std::logic_error("the window is open already");
    failure_.reset();
    polled_.clear();
    sampled_.clear();
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    start_real_ns_ = now_ns<system_clock>();
    if (!counter_) {
        thread_ = std::thread(&GpuEnergyWindow::keep_reading, this);
        read_power();
        return;
    }
    try {
        start_mj_ = nvml_->energy_mj(gpu_);
    } catch (const NvmlError& error) {
        failure_ = error;
    }
}

GpuEnergy GpuEnergyWindow::stop() {
    if (!open_) throw std::logic_error("the window is not open");
    if (counter_) {
        open_ = false;
        return counted();
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        read_power();
    }
    end_thread();
    return integrated();
}

GpuEnergy GpuEnergyWindow::counted() const {
    GpuEnergy energy{.joules = std::nullopt, .source = "NVML energy counter", .reason = {}};
    try {
        if (failure_) throw *failure_;
        const std::uint64_t now_mj = nvml_->energy_mj(gpu_);
        energy.samples = 2;
        if (now_mj > start_mj_)
            energy.joules = static_cast<double>(now_mj - start_mj_) / 1e3;
        else if (now_mj == start_mj_)
            energy.reason = "the energy counter did not move";
        else
            energy.reason = "the energy counter went from " + std::to_string(start_mj_) + " to " +
                            std::to_string(now_mj) + " mJ: it was reset";
    } catch (const NvmlError& error) {
        energy.reason = error.what();
    }
    return energy;
}

GpuEnergy GpuEnergyWindow::integrated() {
    GpuEnergy energy{.joules = std::nullopt, .source = "NVML power, integrated", .reason = {}};
    if (failure_) {
        energy.reason = failure_->what();
        return energy;
    }
    // The driver's own samples are nearer together than ours; they serve if they span the window.
    const std::int64_t end_real_ns =
        start_real_ns_ + polled_.back().time_ns - polled_.front().time_ns;
    const std::int64_t reach_ns = 4 * period_.count();
    if (sampled_.size() >= 2 && sampled_.front().time_ns < start_real_ns_ + reach_ns &&
        sampled_.back().time_ns > end_real_ns - reach_ns) {
        energy.source = "NVML power samples of the driver, integrated";
        energy.samples = static_cast<int>(sampled_.size());
        energy.joules = integrate(sampled_, start_real_ns_, end_real_ns);
    } else {
        energy.samples = static_cast<int>(polled_.size());
        energy.joules = integrate(polled_, polled_.front().time_ns, polled_.back().time_ns);
    }
    return energy;
}

void GpuEnergyWindow::read_power() {
    if (failure_) return;
    try {
        const std::int64_t before_ns = now_ns<steady_clock>();
        const double watts = nvml_->power_w(gpu_);
        polled_.push_back({before_ns, watts});
        const std::int64_t after_ns = sampled_.empty() ? start_real_ns_ : sampled_.back().time_ns;
        for (const PowerSample& sample : nvml_->power_samples(gpu_, after_ns))
            sampled_.push_back(sample);
    } catch (const NvmlError& error) {
        failure_ = error;
    }
}

void GpuEnergyWindow::keep_reading() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ended_.wait_for(lock, period_, [this] { return !open_; })) read_power();
}

void GpuEnergyWindow::end_thread() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        open_ = false;
    }
    ended_.notify_all();
    if (thread_.joinable()) thread_.join();
}

double integrate(const std::vector<PowerSample>& samples, std::int64_t from_ns,
                 std::int64_t to_ns) {
    const auto at = [&](std::int64_t time_ns) {
        if (time_ns <= samples.front().time_ns) return samples.front().watts;
        if (time_ns >= samples.back().time_ns) return samples.back().watts;
        const auto next = std::upper_bound(
            samples.begin(), samples.end(), time_ns,
            [](std::int64_t time, const PowerSample& sample) { return time < sample.time_ns; });
        const PowerSample& a = *(next - 1);
        const PowerSample& b = *next;
        const double share =
            static_cast<double>(time_ns - a.time_ns) / static_cast<double>(b.time_ns - a.time_ns);
        return a.watts + share * (b.watts - a.watts);
    };
    double joules = 0, last_watts = at(from_ns);
    std::int64_t last_ns = from_ns;
    const auto step = [&](std::int64_t time_ns, double watts) {
        joules += 0.5 * (last_watts + watts) * static_cast<double>(time_ns - last_ns) / 1e9;
        last_ns = time_ns;
        last_watts = watts;
    };
    for (const PowerSample& sample : samples)
        if (sample.time_ns > from_ns && sample.time_ns < to_ns) step(sample.time_ns, sample.watts);
    step(to_ns, at(to_ns));
    return joules;
}

}  // namespace sllmbench
