// The threads of the OpenMP runtime that the process has loaded already, torch's.
//
// Two pools in one process spoil each other: each one's idle threads hold the cores that the
// other's want. So where torch lives too, our kernels run on its team.
#pragma once

namespace sllmbench {

// From now on openmp_run uses the GNU OpenMP runtime that this process has loaded, if any; returns
// whether there is one. A forked child forgets it: its team does not outlive a fork.
bool share_openmp();

// Calls function(data) on every thread of the caller's team and waits for all. Does nothing and
// returns false where no runtime is shared, or where its team has another number of threads: a team
// that changes its size from call to call is made anew each time.
bool openmp_run(int threads, void (*function)(void*), void* data);

}  // namespace sllmbench
