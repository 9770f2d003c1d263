#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>

#include "symbols.h"

namespace cuda_host {
namespace {

enum class State { ready, in_warp, at_barrier, done };

struct Thread {
    Fiber fiber;
    uint3 index;
    unsigned number;
    State state;
    Where where;  // it waits
    PendingCopies copies;
};

struct Meeting {
    std::uint32_t mask, missing;
    Combine combine;
    Where where;
};
struct Warp {
    Words lanes[32];
    std::vector<Meeting> meetings;  // not complete; no lane is in two of their masks
};

std::deque<Thread> threads;  // of the largest block so far
std::vector<Warp> warps;
std::vector<unsigned> ready;
unsigned size, at_barrier, alive;  // threads
Thread* running;
const std::function<void()>* body;
const char* kernel_name = "none";
std::mt19937_64 random;

bool same_place(const Where& a, const Where& b) {
    if (a.line() != b.line() || a.column() != b.column()) return false;
    return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

void print_head(const char* what) {
    std::fprintf(stderr, "cuda_host: %s\n  kernel %s, block (%u, %u, %u)\n", what, kernel_name,
                 blockIdx.x, blockIdx.y, blockIdx.z);
}

// One line for all that wait alike.
[[noreturn]] void fail_waiting(const char* what) {
    print_head(what);
    std::vector<bool> told(size);
    for (unsigned i = 0; i < size; ++i) {
        const Thread& one = threads[i];
        if (told[i] || one.state == State::ready) continue;
        unsigned count = 0;
        for (unsigned j = i; j < size; ++j) {
            const Thread& other = threads[j];
            if (other.state != one.state ||
                (one.state != State::done && !same_place(other.where, one.where)))
                continue;
            told[j] = true;
            ++count;
        }
        if (one.state == State::done)
            std::fprintf(stderr, "  %u threads have ended, thread %u the first\n", count, i);
        else
            std::fprintf(stderr, "  %u threads wait at %s:%u, thread %u the first%s\n", count,
                         one.where.file_name(), one.where.line(), i,
                         one.state == State::at_barrier ? " (barrier)" : " (warp)");
    }
    std::abort();
}

void set_ready(Thread& thread) {
    thread.state = State::ready;
    ready.push_back(thread.number);
}

void wait_as(State state, const Where& where) {
    running->state = state;
    running->where = where;
    suspend(running->fiber);
}

void run_thread() {
    started(running->fiber);
    (*body)();
    running->state = State::done;
    --alive;
    suspend(running->fiber);
    std::abort();  // nobody resumes it
}

void start_thread(Thread& thread, unsigned number) {
    thread.number = number;
    thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y,
                    number / blockDim.x / blockDim.y};
    thread.copies.copies.clear();
    thread.copies.groups_committed = 0;
    prepare(thread.fiber, run_thread);
    set_ready(thread);
}

// 0xff is NaN as fp16 and float; 0x7f is NaN as fp16 and not the -1 that integers may forgive.
void spoil_shared_memory() {
    const int garbage = random() % 2 ? 0xff : 0x7f;
    for (const auto& array : shared_arrays()) std::memset(array.data(), garbage, array.size());
}

Thread& draw_thread() {
    constexpr unsigned kJump = 8;  // one draw in so many may take any
    if (random() % kJump == 0) std::swap(ready.back(), ready[random() % ready.size()]);
    Thread& thread = threads[ready.back()];
    ready.pop_back();
    return thread;
}

void open_barrier() {
    const Thread& first = threads[0];
    for (unsigned i = 0; i < size; ++i) {
        if (!same_place(threads[i].where, first.where))
            fail_waiting("threads wait at different barriers");
        set_ready(threads[i]);
    }
    std::shuffle(ready.begin(), ready.end(), random);
    at_barrier = 0;
}

void run_block() {
    at_barrier = 0;
    alive = size;
    warps.resize((size + 31) / 32);  // no meeting is left from the last block
    ready.clear();
    spoil_shared_memory();
    for (unsigned i = 0; i < size; ++i) start_thread(threads[i], i);
    std::shuffle(ready.begin(), ready.end(), random);
    while (alive > 0) {
        if (ready.empty()) fail_waiting("deadlock");
        running = &draw_thread();
        threadIdx = running->index;
        resume(running->fiber);
        if (at_barrier == size) open_barrier();
    }
    running = nullptr;
}

uint3 unravel(std::uint64_t block) {
    const auto x = static_cast<unsigned>(block % gridDim.x);
    const std::uint64_t rest = block / gridDim.x;
    return {x, static_cast<unsigned>(rest % gridDim.y), static_cast<unsigned>(rest / gridDim.y)};
}

// Where in `warp.meetings` the running lane meets the others of its mask.
std::size_t join(Warp& warp, unsigned first, const Meeting& mine, std::uint32_t me) {
    if (!(mine.mask & me)) fail("a lane that is not in its own mask", mine.where);
    const auto& all = warp.meetings;
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (!(all[i].mask & mine.mask)) continue;
        if (all[i].mask != mine.mask || all[i].combine != mine.combine ||
            !same_place(all[i].where, mine.where))
            fail(
                "lanes of a warp meet with different masks, for different purposes or at "
                "different places",
                mine.where);
        return i;
    }
    for (unsigned i = 0; i < 32; ++i)
        if ((mine.mask >> i & 1) && (first + i >= size || threads[first + i].state == State::done))
            fail("a mask with a lane that has ended or that the block does not have", mine.where);
    warp.meetings.push_back(mine);
    return all.size() - 1;
}

}  // namespace

void fail(const char* what, const Where& where) {
    print_head(what);
    if (running != nullptr) std::fprintf(stderr, "  thread %u", running->number);
    std::fprintf(stderr, "  at %s:%u\n", where.file_name(), where.line());
    std::abort();
}

void set_seed(std::uint64_t seed) {
    random.seed(seed);
}

unsigned lane() {
    return running->number % 32;
}

PendingCopies& pending_copies() {
    return running->copies;
}

void synchronize_block(const Where& where) {
    ++at_barrier;
    wait_as(State::at_barrier, where);
}

Words meet(std::uint32_t mask, const Words& brought, Combine combine, const Where& where) {
    const unsigned first = running->number / 32 * 32;  // of the warp
    const std::uint32_t me = 1u << lane();
    Warp& warp = warps[first / 32];
    warp.lanes[lane()] = brought;
    const std::size_t joined = join(warp, first, Meeting{mask, mask, combine, where}, me);
    if ((warp.meetings[joined].missing &= ~me) != 0) {
        wait_as(State::in_warp, where);
        return warp.lanes[lane()];
    }
    warp.meetings.erase(warp.meetings.begin() + static_cast<std::ptrdiff_t>(joined));
    combine(warp.lanes, mask, where);
    for (unsigned i = 0; i < 32; ++i)
        if ((mask & ~me) >> i & 1) set_ready(threads[first + i]);
    return warp.lanes[lane()];
}

void run_grid(const std::function<void()>& kernel, const char* name, dim3 grid, dim3 block) {
    kernel_name = name;
    body = &kernel;
    gridDim = grid;
    blockDim = block;
    size = block.x * block.y * block.z;
    while (threads.size() < size) threads.emplace_back();
    std::vector<std::uint64_t> order(std::uint64_t{grid.x} * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const std::uint64_t number : order) {
        blockIdx = unravel(number);
        run_block();
    }
}

}  // namespace cuda_host
