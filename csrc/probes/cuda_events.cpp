#include "probes/cuda_events.h"

#include <dlfcn.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace sllmbench {
namespace {

// As cuda.h declares them; these entry points have not changed since CUDA 4.
using Status = int;
using Handle = void*;
constexpr Status kSuccess = 0;
constexpr unsigned kDefaultEvent = 0;  // with timing

struct Driver {
    Status (*init)(unsigned flags);
    Status (*context)(Handle* current);
    Status (*create)(Handle* event, unsigned flags);
    Status (*record)(Handle event, Handle stream);
    Status (*synchronize)(Handle event);
    Status (*elapsed)(float* ms, Handle first, Handle second);
    Status (*destroy)(Handle event);
    Status (*error_name)(Status status, const char** name);
};

template <class Function>
void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr)
        throw std::runtime_error(std::string("the CUDA driver has no ") + name);
}

// Never unloaded: the driver has threads of its own.
Driver load_driver() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(std::string("no CUDA driver: ") + dlerror());
    Driver driver;
    find(library, "cuInit", driver.init);
    find(library, "cuCtxGetCurrent", driver.context);
    find(library, "cuEventCreate", driver.create);
    find(library, "cuEventRecord", driver.record);
    find(library, "cuEventSynchronize", driver.synchronize);
    find(library, "cuEventElapsedTime", driver.elapsed);
    find(library, "cuEventDestroy_v2", driver.destroy);
    find(library, "cuGetErrorName", driver.error_name);
    return driver;
}

class CudaEvents final : public Clock {
 public:
    explicit CudaEvents(std::uintptr_t stream)
        : driver_(load_driver()), stream_(reinterpret_cast<Handle>(stream)) {
        check(driver_.init(0), "cuInit");
        Handle context = nullptr;
        check(driver_.context(&context), "cuCtxGetCurrent");
        if (context == nullptr)
            throw std::runtime_error(
                "no CUDA context is current in this thread; use the device first "
                "(torch.cuda.init())");
        try {
            for (Handle& event : events_)
                check(driver_.create(&event, kDefaultEvent), "cuEventCreate");
            measure();
        } catch (...) {
            destroy();
            throw;
        }
    }
    ~CudaEvents() override { destroy(); }

    const char* name() const override { return "cuda_event"; }
    std::uint64_t read() override {
        next_ = 1 - next_;
        check(driver_.record(events_[next_], stream_), "cuEventRecord");
        return static_cast<std::uint64_t>(next_);
    }
    double between_ns(std::uint64_t first, std::uint64_t second) override {
        check(driver_.synchronize(events_[second]), "cuEventSynchronize");
        float ms = 0;
        check(driver_.elapsed(&ms, events_[first], events_[second]), "cuEventElapsedTime");
        return 1e6 * static_cast<double>(ms);
    }

 private:
    // What two readings in a row are apart on the GPU is what they cost a batch; the smallest step
    // is seen between them too.
    void measure() {
        double least = std::numeric_limits<double>::infinity(), step = least;
        for (int pair = 0; pair < 100; ++pair) {
            const std::uint64_t first = read(), second = read();
            const double ns = between_ns(first, second);
            least = std::min(least, ns);
            if (ns > 0) step = std::min(step, ns);
        }
        set_measured(least, step);
    }

    void check(Status status, const char* what) const {
        if (status == kSuccess) return;
        const char* error = nullptr;
        driver_.error_name(status, &error);
        throw std::runtime_error(std::string(what) + ": " +
                                 (error == nullptr ? std::to_string(status) : error));
    }

    void destroy() {
        for (const Handle event : events_)
            if (event != nullptr) driver_.destroy(event);
    }

    Driver driver_;
    Handle stream_;
    Handle events_[2] = {nullptr, nullptr};
    int next_ = 0;
};

}  // namespace

std::unique_ptr<Clock> cuda_event_clock(std::uintptr_t stream) {
    return std::make_unique<CudaEvents>(stream);
}

}  // namespace sllmbench
