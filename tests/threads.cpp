// parallel_for of csrc/threads.cpp by itself: threads FILE LIBRARY... opens the libraries for nobody but itself, as
// Python opens an extension's, and expects to find its threads in FILE.
#include "../csrc/common.h"
#include "../csrc/threads.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>

namespace {

void expect(bool holds, const char *what) {
    if (!holds) {
        std::fprintf(stderr, "%s\n", what);
        std::exit(1);
    }
}

struct Seen {
    std::vector<std::atomic<int>> runs;
    std::vector<std::thread::id> by; // of each worker
    std::atomic<int> mixed{0};       // tasks that shared a worker's number with another thread
    std::atomic<int> workers{0};
};

void record(void *context, int64_t index, int worker) {
    Seen &seen = *static_cast<Seen *>(context);
    seen.runs[size_t(index)]++;
    std::thread::id &mine = seen.by[size_t(worker)];
    if (mine == std::thread::id()) {
        mine = std::this_thread::get_id();
        seen.workers++;
    }
    seen.mixed += mine != std::this_thread::get_id();
    // Until another thread has come, so that each gets a task; in vain where the system gives one thread alone.
    for (int i = 0; i < 2000 && seen.by.size() > 1 && seen.workers < 2; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void check(int threads, int64_t count) {
    Seen seen{std::vector<std::atomic<int>>(size_t(count)), std::vector<std::thread::id>(size_t(threads)), {}, {}};
    gradnets::parallel_for(threads, count, record, &seen);
    for (const auto &runs : seen.runs)
        expect(runs == 1, "a task did not run once");
    expect(seen.mixed == 0, "two threads had one number");
    const std::set<std::thread::id> distinct(seen.by.begin(), seen.by.end());
    expect(threads == 1 || count < 2 || distinct.size() > 1, "all tasks ran on one thread");
}

} // namespace

int main(int argc, char **argv) {
    expect(argc > 1, "usage: threads FILE LIBRARY...");
    for (int i = 2; i < argc; ++i)
        expect(dlopen(argv[i], RTLD_NOW | RTLD_LOCAL) != nullptr, "cannot open the library");
    if (gradnets::threading().find(argv[1]) == std::string::npos) {
        std::fprintf(stderr, "expected %s, found %s\n", argv[1], gradnets::threading().c_str());
        return 1;
    }
    for (const int threads : {1, 2, 3, 8})
        for (const int64_t count : {int64_t(0), int64_t(1), int64_t(2), int64_t(1000)})
            check(threads, count);
    std::puts("clean");
}
