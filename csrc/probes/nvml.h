// NVIDIA's management library, loaded when asked for and never linked: a GPU's energy and state.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace sllmbench {

// What the library or the loader says; one line.
struct NvmlError : std::runtime_error {
    NvmlError(const std::string& message, int code_) : std::runtime_error(message), code(code_) {}
    int code;
};

struct GpuReading {
    std::optional<double> sm_clock_hz;
    std::optional<std::vector<std::string>> throttle_reasons;
    std::optional<double> temperature_c;
    // Process ids of the namespace that the driver runs in.
    std::optional<std::vector<unsigned>> compute_pids;
    // Of the first value that the driver did not tell.
    std::optional<std::string> reason;
};

struct PowerSample {
    std::int64_t time_ns;
    double watts;
};

class Nvml {
 public:
    // `library` is searched for as dlopen does. Throws NvmlError.
    explicit Nvml(const std::string& library);
    ~Nvml();
    Nvml(const Nvml&) = delete;
    Nvml& operator=(const Nvml&) = delete;

    unsigned count() const;
    std::string name(unsigned gpu) const;
    bool has_energy_counter(unsigned gpu) const;
    std::uint64_t energy_mj(unsigned gpu) const;
    double power_w(unsigned gpu) const;
    // The driver's own samples of power taken after `after_ns`, oldest first, their times on the
    // real-time clock; none where it keeps none.
    std::vector<PowerSample> power_samples(unsigned gpu, std::int64_t after_ns) const;
    std::uint64_t memory_used_bytes(unsigned gpu) const;
    GpuReading state(unsigned gpu) const;
    // How often the sensor that an energy window uses really changes: the median of the gaps
    // between changes seen within `limit`, or nothing if it changed too seldom to tell.
    std::optional<std::chrono::nanoseconds> update_period(unsigned gpu,
                                                          std::chrono::nanoseconds limit) const;

 private:
    struct Functions;
    void* device(unsigned gpu) const;
    void require(int code, const char* function) const;

    void* library_;
    std::unique_ptr<Functions> functions_;
};

// A GPU's energy between start and stop.
struct GpuEnergy {
    std::optional<double> joules;
    std::string source;
    std::string reason;
    int samples = 0;
};

// Uses the driver's energy counter where there is one, else integrates power, which a thread reads
// at half the sensor's period. Equal readings are kept: constant power is power all the same.
class GpuEnergyWindow {
 public:
    GpuEnergyWindow(std::shared_ptr<const Nvml> nvml, unsigned gpu,
                    std::chrono::nanoseconds update_period);
    ~GpuEnergyWindow();
    GpuEnergyWindow(const GpuEnergyWindow&) = delete;
    GpuEnergyWindow& operator=(const GpuEnergyWindow&) = delete;

    // Throws std::logic_error if the window is open.
    void start();
    // Throws std::logic_error if the window is not open.
    GpuEnergy stop();

 private:
    GpuEnergy counted() const;
    GpuEnergy integrated();
    void read_power();
    void keep_reading();
    void end_thread();

    const std::shared_ptr<const Nvml> nvml_;
    const unsigned gpu_;
    const std::chrono::nanoseconds period_;
    const bool counter_;
    std::optional<NvmlError> failure_;
    std::uint64_t start_mj_ = 0;
    std::int64_t start_real_ns_ = 0;
    std::vector<PowerSample> polled_;
    std::vector<PowerSample> sampled_;
    std::mutex mutex_;
    std::condition_variable ended_;
    bool open_ = false;
    std::thread thread_;
};

// Joules between two times under the line through the samples; the first and the last value hold
// outside them. At least one sample.
double integrate(const std::vector<PowerSample>& samples, std::int64_t from_ns, std::int64_t to_ns);

}  // namespace sllmbench
