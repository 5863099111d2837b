// Threads are those of the OpenMP runtime that PyTorch has brought into the process, found at run time.  A runtime of
// our own, linked or bundled, would have a second pool beside PyTorch's, and its name differs from one build of PyTorch
// to the next.  Where there is none, each call starts threads: slower, and as correct.
#include "threads.h"

#include "common.h"
#include "float_mode.h"

#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include <dlfcn.h>
#ifdef __linux__
#include <link.h>
#endif

namespace gradnets {
namespace {

// GNU's libgomp and LLVM's libomp, which is also Intel's libiomp5, have it with this signature: body(data) on each of
// at most `threads` threads.
using Parallel = void (*)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

struct Runtime {
    Parallel parallel = nullptr;
    std::string file;
};

Runtime runtime_in(void *library) {
    void *const symbol = dlsym(library, "GOMP_parallel");
    Dl_info info;
    if (symbol == nullptr || dladdr(symbol, &info) == 0 || info.dli_fname == nullptr)
        return {};
    const char *const slash = std::strrchr(info.dli_fname, '/');
    return {reinterpret_cast<Parallel>(symbol), slash == nullptr ? info.dli_fname : slash + 1};
}

#ifdef __linux__
int collect(dl_phdr_info *info, size_t, void *files) {
    for (const char *name : {"libgomp", "libomp", "libiomp"})
        if (std::strstr(info->dlpi_name, name) != nullptr) {
            static_cast<std::vector<std::string> *>(files)->emplace_back(info->dlpi_name);
            break;
        }
    return 0;
}
#endif

Runtime find_runtime() {
    // What PyTorch's own calls are bound to: it loads its runtime for everyone, unless another was preloaded.
    Runtime found = runtime_in(RTLD_DEFAULT);
#ifdef __linux__
    std::vector<std::string> files;
    if (found.parallel == nullptr)
        dl_iterate_phdr(collect, &files);
    for (size_t i = 0; i < files.size() && found.parallel == nullptr; ++i)
        if (void *const library = dlopen(files[i].c_str(), RTLD_LAZY | RTLD_NOLOAD))
            found = runtime_in(library);
#endif
    return found;
}

const Runtime &runtime() {
    static const Runtime found = find_runtime();
    return found;
}

struct Loop {
    void (*task)(void *, int64_t, int);
    void *context;
    int64_t count;
    std::atomic<int64_t> next{0};
    std::atomic<int> workers{0};
    unsigned mode = float_mode(); // the caller's

    void work() {
        const FloatMode as_the_caller(mode);
        const int worker = workers.fetch_add(1, std::memory_order_relaxed);
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
            task(context, i, worker);
    }
};

void run_on_new_threads(int threads, Loop &loop) {
    std::vector<std::thread> others;
    try {
        others.reserve(size_t(threads - 1));
        while (int(others.size()) < threads - 1)
            others.emplace_back(&Loop::work, &loop);
    } catch (const std::exception &) {
        // The system gives no more threads: those that there are do all the work.
    }
    loop.work();
    for (std::thread &other : others)
        other.join();
}

} // namespace

void parallel_for(int threads, int64_t count, void (*task)(void *, int64_t, int), void *context) {
    if (threads <= 1 || count <= 1) {
        for (int64_t i = 0; i < count; ++i)
            task(context, i, 0);
        return;
    }
    Loop loop{task, context, count};
    // What threads are started with they keep, and here they may be started.
    const FloatMode of_new_threads(FloatMode::with_subnormals());
    if (const Parallel parallel = runtime().parallel)
        parallel([](void *data) { static_cast<Loop *>(data)->work(); }, &loop, unsigned(threads), 0);
    else
        run_on_new_threads(threads, loop);
}

std::string threading() {
    return runtime().parallel != nullptr ? runtime().file : "threads started for each call, for want of OpenMP";
}

} // namespace gradnets
