#include "probes/roof.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/isa.h"
#include "cpu/pages.h"

namespace sllmbench {
namespace {

using Clock = std::chrono::steady_clock;

// Runs work(thread), which returns what it did in one go, on every thread until `seconds` are over;
// the sum of the threads' rates. Threads of its own: the pool's counter would even out what the
// threads reach.
template <class Work>
double total_rate(int threads, double seconds, Work work) {
    std::atomic<int> ready{0};
    std::atomic<bool> aborted{false};
    std::vector<double> rate(static_cast<std::size_t>(threads));
    std::vector<std::thread> crew;
    const auto run = [&](int id) {
        work(id);  // touch the pages, reach the clock's speed under this instruction mix
        ready.fetch_add(1);
        while (ready.load() < threads) {
            if (aborted.load()) return;
            std::this_thread::yield();
        }
        const auto start = Clock::now();
        double done = 0, elapsed = 0;
        do {
            done += work(id);
            elapsed = std::chrono::duration<double>(Clock::now() - start).count();
        } while (elapsed < seconds);
        rate[static_cast<std::size_t>(id)] = done / elapsed;
    };
    crew.reserve(static_cast<std::size_t>(threads));
    try {
        for (int id = 1; id < threads; ++id) crew.emplace_back(run, id);
    } catch (const std::system_error& error) {
        aborted = true;
        for (std::thread& thread : crew) thread.join();
        throw std::runtime_error("cannot start thread " + std::to_string(crew.size() + 2) + " of " +
                                 std::to_string(threads) + ": " + error.what());
    }
    run(0);
    for (std::thread& thread : crew) thread.join();
    double total = 0;
    for (const double r : rate) total += r;
    return total;
}

}  // namespace

double read_bandwidth_gbs(std::size_t bytes, int threads, double seconds) {
    constexpr std::size_t kPage = 4096;
    const auto count = static_cast<std::size_t>(threads);
    const std::size_t slice = std::max(kPage, bytes / count / kPage * kPage);
    // Weights lie in such pages too: 4 KB ones would be no roof for them.
    const Pages pages = allocate_pages(slice * count);
    const Roof& roof = *active_isa().roof;
    std::atomic<std::uint64_t> sink{0};
    std::vector<char> touched(count);
    return 1e-9 * total_rate(threads, seconds, [&](int id) {
               const auto i = static_cast<std::size_t>(id);
               // The thread that reads a slice writes it first, so that its pages are near.
               std::uint8_t* const from = pages.get() + slice * i;
               if (!touched[i]) std::memset(from, 1, slice);
               touched[i] = 1;
               sink.fetch_add(roof.read(from, slice), std::memory_order_relaxed);
               return static_cast<double>(slice);
           });
}

double peak_gops(RoofKind kind, const Isa& isa, int threads, double seconds) {
    const auto operations =
        kind == RoofKind::int8 ? isa.roof->int8_operations : isa.roof->fp32_operations;
    return 1e-9 * total_rate(threads, seconds, [&](int) { return operations(100'000); });
}

}  // namespace sllmbench
