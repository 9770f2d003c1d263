#include "cpu/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/openmp.h"

namespace sllmbench {
namespace {

// An idle worker first spins, then spins while offering its core to whoever wants it, then sleeps.
// A model's forward has 10-100 us between two linear layers; a worker that sleeps by then comes too
// late to be of use. 2048x2048 int4, one row, two threads, us by the gap between calls:
//   gap               0   20   50  100  500
//   sleep at once    32   32   32   32   33   (one thread: 32)
//   20 us            19   20   32   34   39
//   60 us            17   19   20   32   32
//   200 us           19   19   19   20   38
// Spinning that long without yielding delays the process's other threads (torch's OpenMP).
constexpr std::chrono::microseconds kYieldAfter{20};
constexpr std::chrono::microseconds kSleepAfter{200};

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    asm volatile("yield");
#endif
}

// A call's tasks, taken in pieces by every thread that comes.
struct Tasks {
    TaskFunction function;
    void* context;
    std::int64_t count;
    int threads;
    alignas(64) std::atomic<std::int64_t> next{0};

    void take() {
        std::int64_t begin = next.load(std::memory_order_relaxed);
        while (begin < count) {
            const std::int64_t piece = std::max<std::int64_t>(1, (count - begin) / (2 * threads));
            if (next.compare_exchange_weak(begin, begin + piece, std::memory_order_relaxed)) {
                function(context, begin, begin + piece);
                begin = next.load(std::memory_order_relaxed);
            }
        }
    }
};

class Pool {
 public:
    void run(Tasks& tasks) {
        std::lock_guard<std::mutex> lock(call_);
        for (; workers_ < tasks.threads - 1; ++workers_) std::thread([this] { work(); }).detach();
        tasks_ = &tasks;
        caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
        wanted_.store(tasks.threads, std::memory_order_relaxed);
        // Open the gate: a new generation, nobody inside.
        const std::uint32_t gate = gate_.load(std::memory_order_relaxed);
        gate_.store(((gate & ~(kOpen | kInside)) + kGeneration) | kOpen);
        gate_.notify_all();
        tasks.take();
        gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
        wait_until_empty();
    }

 private:
    // gate_: how many workers are inside the current job, whether more may enter, the job's number.
    // The number wraps; a worker that slept through exactly 2^21 jobs misses one: no harm.
    static constexpr std::uint32_t kInside = (1u << 10) - 1;
    static constexpr std::uint32_t kOpen = 1u << 10;
    static constexpr std::uint32_t kGeneration = 1u << 11;
    static_assert(kMaxThreads < static_cast<int>(kInside));

    void wait_until_empty() {
        for (int spins = 0; (gate_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
            // A worker that lost its core holds a piece: let it run if it waits for ours.
            if (spins < 1000)
                pause_cpu();
            else
                std::this_thread::yield();
        }
    }

    // Counts this worker into the job that `gate` shows. Returns the workers inside, this one
    // included, or 0 when the job has closed.
    int enter(std::uint32_t gate) {
        const std::uint32_t generation = gate & ~(kOpen | kInside);
        while ((gate & ~(kOpen | kInside)) == generation && (gate & kOpen) != 0) {
            if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel))
                return static_cast<int>((gate & kInside) + 1);
        }
        return 0;
    }

    [[noreturn]] void work() {
        std::uint32_t done = 0;
        for (;;) {
            const std::uint32_t gate = wait_for_other_than(done);
            step_aside();  // not yet counted in: nobody waits for the move
            done = gate & ~(kOpen | kInside);
            const int inside = enter(gate);
            if (inside == 0) continue;
            // The caller now waits for us, so its tasks stay where they are until we leave. Earlier
            // calls may have left more workers than these want.
            if (inside < tasks_->threads) tasks_->take();
            gate_.fetch_sub(1, std::memory_order_release);
        }
    }

    // Threads that wake on one CPU, after a SIGCONT say, spin there in turns beside an idle one
    // until the system balances its load. A worker that finds itself on the caller's CPU leaves it,
    // and may then run anywhere again: 8192x2048 int4, two threads, in the first 10 ms after both
    // were on one CPU, 63-80 us a call; without this 121-145.
    void step_aside() const {
        const int here = sched_getcpu();
        cpu_set_t allowed;
        if (here < 0 || here >= CPU_SETSIZE ||
            here != caller_cpu_.load(std::memory_order_relaxed) ||
            sched_getaffinity(0, sizeof allowed, &allowed) != 0)
            return;
        // More threads than CPUs: there is no free one to go to.
        if (CPU_COUNT(&allowed) < wanted_.load(std::memory_order_relaxed)) return;
        cpu_set_t others = allowed;
        CPU_CLR(here, &others);
        sched_setaffinity(0, sizeof others, &others);
        sched_setaffinity(0, sizeof allowed, &allowed);
    }

    std::uint32_t wait_for_other_than(std::uint32_t done) {
        const auto start = std::chrono::steady_clock::now();
        std::chrono::nanoseconds idle{0};
        for (unsigned spins = 1;; ++spins) {
            const std::uint32_t gate = gate_.load(std::memory_order_acquire);
            if ((gate & ~(kOpen | kInside)) != done) return gate;
            if (spins % 32 == 0) idle = std::chrono::steady_clock::now() - start;
            if (idle < kYieldAfter)
                pause_cpu();
            else if (idle < kSleepAfter)
                std::this_thread::yield();
            else
                gate_.wait(gate, std::memory_order_acquire);
        }
    }

    std::mutex call_;
    int workers_ = 0;
    Tasks* tasks_ = nullptr;
    std::atomic<int> caller_cpu_{-1}, wanted_{1};
    alignas(64) std::atomic<std::uint32_t> gate_{0};
};

// Never destroyed: the workers are detached and may look at it until the process ends. A forked
// child has none of the threads and perhaps a locked mutex: it forgets the pool and makes its own.
std::atomic<Pool*> instance{nullptr};
std::atomic<int> chosen_threads{0};

Pool& pool() {
    Pool* p = instance.load(std::memory_order_acquire);
    if (p != nullptr) return *p;
    static const int registered = pthread_atfork(
        nullptr, nullptr, [] { instance.store(nullptr, std::memory_order_relaxed); });
    if (registered != 0) throw std::runtime_error("pthread_atfork failed");
    Pool* fresh = new Pool;
    if (instance.compare_exchange_strong(p, fresh)) return *fresh;
    delete fresh;
    return *p;
}

int affinity_cpus() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return std::clamp(CPU_COUNT(&set), 1, kMaxThreads);
    return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

}  // namespace

void check_threads(long long threads) {
    if (threads < 1 || threads > kMaxThreads)
        throw std::invalid_argument("threads must be between 1 and " + std::to_string(kMaxThreads) +
                                    ", not " + std::to_string(threads));
}

int configured_threads() {
    if (const int threads = chosen_threads.load(std::memory_order_relaxed)) return threads;
    const char* text = std::getenv("SLLMBENCH_THREADS");
    int threads = 0;
    if (text == nullptr || *text == '\0') {
        threads = affinity_cpus();
    } else {
        const char* end = text + std::strlen(text);
        const auto [stop, error] = std::from_chars(text, end, threads);
        if (error != std::errc() || stop != end || threads < 1 || threads > kMaxThreads)
            throw std::invalid_argument("SLLMBENCH_THREADS must be a number between 1 and " +
                                        std::to_string(kMaxThreads) + ", not '" + text + "'");
    }
    chosen_threads.store(threads, std::memory_order_relaxed);
    return threads;
}

void set_configured_threads(int threads) {
    check_threads(threads);
    chosen_threads.store(threads, std::memory_order_relaxed);
}

void pool_run(std::int64_t tasks, int threads, TaskFunction function, void* context) {
    if (tasks <= 0) return;
    if (threads == 1 || tasks == 1) return function(context, 0, tasks);
    Tasks all{function, context, tasks, threads};
    const auto take = [](void* data) { static_cast<Tasks*>(data)->take(); };
    if (openmp_run(threads, take, &all)) return;
    pool().run(all);
}

}  // namespace sllmbench
