#include "driver.h"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __linux__
#include <dlfcn.h>
#endif

namespace py = pybind11;

namespace gradnets {
namespace {

// The part of the driver's interface that is used, which has not changed since CUDA 7: its headers are not needed.
using Result = int;
using Handle = void *;

struct Driver {
    Result (*init)(unsigned) = nullptr;
    Result (*version)(int *) = nullptr;
    Result (*error_name)(Result, const char **) = nullptr;
    Result (*current_context)(Handle *) = nullptr;
    Result (*set_context)(Handle) = nullptr;
    Result (*primary_context)(Handle *, int) = nullptr;
    Result (*capture_mode)(int *) = nullptr;
    Result (*load)(Handle *, const void *) = nullptr;
    Result (*function)(Handle *, Handle, const char *) = nullptr;
    Result (*set_attribute)(Handle, int, int) = nullptr;
    Result (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void **,
                     void **) = nullptr;
    std::string missing; // why it cannot be used; empty if it can
};

#ifdef __linux__
Driver find_driver() {
    Driver driver;
    void *const library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) {
        driver.missing = std::string("no NVIDIA driver: ") + dlerror();
        return driver;
    }
    const auto find = [&](const char *name, auto &function) {
        void *const symbol = dlsym(library, name);
        if (symbol == nullptr && driver.missing.empty())
            driver.missing = std::string("the NVIDIA driver has no ") + name;
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    };
    find("cuInit", driver.init);
    find("cuDriverGetVersion", driver.version);
    find("cuGetErrorName", driver.error_name);
    find("cuCtxGetCurrent", driver.current_context);
    find("cuCtxSetCurrent", driver.set_context);
    find("cuDevicePrimaryCtxRetain", driver.primary_context);
    find("cuThreadExchangeStreamCaptureMode", driver.capture_mode);
    find("cuModuleLoadData", driver.load);
    find("cuModuleGetFunction", driver.function);
    find("cuFuncSetAttribute", driver.set_attribute);
    find("cuLaunchKernel", driver.launch);
    return driver;
}
#else
Driver find_driver() {
    Driver driver;
    driver.missing = "kernels compiled ahead of time are for Linux";
    return driver;
}
#endif

const Driver &driver() {
    static const Driver found = find_driver();
    if (!found.missing.empty())
        throw std::runtime_error(found.missing);
    return found;
}

void check(Result result, const char *what) {
    if (result == 0)
        return;
    const char *name = nullptr;
    driver().error_name(result, &name);
    throw std::runtime_error(std::string(what) + ": " + (name == nullptr ? std::to_string(result) : name));
}

// A device's context, which is PyTorch's too.  Never released, like the code that is loaded there.
Handle context_of(int device) {
    Handle context = nullptr;
    check(driver().init(0), "cuInit");
    check(driver().primary_context(&context, device), "cuDevicePrimaryCtxRetain");
    return context;
}

// Makes a context the thread's own, for a while where it has another; a thread that has none yet keeps it.
class Within {
  public:
    explicit Within(Handle context) {
        check(driver().current_context(&before_), "cuCtxGetCurrent");
        changed_ = before_ != context;
        if (changed_)
            check(driver().set_context(context), "cuCtxSetCurrent");
    }
    ~Within() {
        if (changed_ && before_ != nullptr)
            driver().set_context(before_);
    }
    Within(const Within &) = delete;
    Within &operator=(const Within &) = delete;

  private:
    Handle before_ = nullptr;
    bool changed_ = false;
};

constexpr int kRelaxed = 2; // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr int kMostArguments = 48;
constexpr int kMaximumDynamicShared = 8; // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kPlainShared = 48 << 10;   // what a launch may have without that
constexpr int kAligned = 16;

// One kernel on one device.  `arguments` has a letter for each argument of a call: p a tensor, i an integer of 32 bits,
// P and I the same in multiples of 16, - None, which the kernel has no parameter for.
class DriverKernel {
  public:
    DriverKernel(const py::bytes &image, const char *symbol, std::string arguments, unsigned threads, unsigned shared,
                 int device)
        : arguments_(std::move(arguments)), threads_(threads), shared_(shared) {
        if (arguments_.size() > kMostArguments)
            throw std::invalid_argument("arguments: expected at most " + std::to_string(kMostArguments));
        context_ = context_of(device);
        const Within within(context_);
        Handle module = nullptr;
        const char *const code = PyBytes_AsString(image.ptr());
        // Loading is no work of a graph that this thread may be capturing.
        int mode = kRelaxed;
        check(driver().capture_mode(&mode), "cuThreadExchangeStreamCaptureMode");
        Result loaded, found = 0;
        {
            py::gil_scoped_release release; // PTX takes the driver seconds
            // Never unloaded: launches may still be under way when Python forgets the kernel.
            loaded = driver().load(&module, code);
            if (loaded == 0)
                found = driver().function(&function_, module, symbol);
        }
        driver().capture_mode(&mode);
        check(loaded, "cuModuleLoadData");
        check(found, "cuModuleGetFunction");
        if (shared > kPlainShared)
            check(driver().set_attribute(function_, kMaximumDynamicShared, int(shared)), "cuFuncSetAttribute");
    }

    // Whether it ran: it does nothing if the arguments differ from those that it was compiled for.
    bool launch(unsigned x, unsigned y, uintptr_t stream, const py::tuple &arguments) const {
        if (arguments.size() != arguments_.size())
            return false;
        // Every parameter has eight bytes, of which the driver reads as many as its type has; the last two are null
        // pointers to scratch memory that no kernel wants.
        int64_t values[kMostArguments + 2] = {};
        void *parameters[kMostArguments + 2];
        size_t count = 0;
        for (size_t i = 0; i < arguments_.size(); ++i) {
            if (!read(arguments_[i], arguments[i], values[count]))
                return false;
            count += arguments_[i] != '-';
        }
        for (size_t i = 0; i < count + 2; ++i)
            parameters[i] = &values[i];
        const Within within(context_);
        Result result;
        {
            py::gil_scoped_release release; // a full queue makes the driver wait
            result = driver().launch(function_, x, y, 1, threads_, 1, 1, shared_, reinterpret_cast<Handle>(stream),
                                     parameters, nullptr);
        }
        check(result, "cuLaunchKernel");
        return true;
    }

  private:
    static bool read(char kind, py::handle argument, int64_t &value) {
        if (kind == '-' || argument.is_none())
            return kind == '-' && argument.is_none();
        const bool tensor = kind == 'p' || kind == 'P', multiple = kind == 'P' || kind == 'I';
        if (tensor == bool(PyLong_CheckExact(argument.ptr())))
            return false;
        value = tensor ? argument.attr("data_ptr")().cast<int64_t>() : argument.cast<int64_t>();
        if (!tensor && (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()))
            return false;
        return !multiple || value % kAligned == 0;
    }

    std::string arguments_;
    unsigned threads_, shared_;
    Handle context_ = nullptr, function_ = nullptr;
};

} // namespace

void bind_driver(py::module_ &m) {
    py::class_<DriverKernel>(m, "DriverKernel")
        .def(py::init<const py::bytes &, const char *, std::string, unsigned, unsigned, int>())
        .def("launch", &DriverKernel::launch);
    // 1000 · major + 10 · minor of the CUDA that the driver is of.
    m.def("driver_version", [] {
        int version = 0;
        check(driver().version(&version), "cuDriverGetVersion");
        return version;
    });
}

} // namespace gradnets
