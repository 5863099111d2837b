// Stands for the NVIDIA driver where there is none: it takes whatever Triton and csrc/driver.cpp ask of it, and does
// nothing.  What is left of a launch is the time until it reaches the driver.
#include <stdint.h>

static int context, module, function;

int cuInit(unsigned flags) {
    return (int)flags;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}

int cuGetErrorName(int result, const char **name) {
    (void)result;
    *name = "CUDA_ERROR";
    return 0;
}

int cuGetErrorString(int result, const char **text) {
    return cuGetErrorName(result, text);
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}

// The attributes that matter: the limits of compute capability 9.0.
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    enum { warp = 10, registers = 12, optin = 97, major = 75, minor = 76 };
    (void)device;
    *value = attribute == major       ? 9
             : attribute == minor     ? 0
             : attribute == warp      ? 32
             : attribute == registers ? 65536
             : attribute == optin     ? 227 << 10
                                      : 228 << 10;
    return 0;
}

int cuCtxGetCurrent(void **result) {
    *result = &context;
    return 0;
}

int cuCtxSetCurrent(void *wanted) {
    (void)wanted;
    return 0;
}

int cuCtxGetDevice(int *device) {
    *device = 0;
    return 0;
}

int cuCtxGetLimit(uint64_t *value, int limit) {
    (void)limit;
    *value = 0;
    return 0;
}

int cuCtxSetLimit(int limit, uint64_t value) {
    (void)limit;
    (void)value;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **result, int device) {
    (void)device;
    *result = &context;
    return 0;
}

int cuThreadExchangeStreamCaptureMode(int *mode) {
    *mode = 0;
    return 0;
}

int cuModuleLoadData(void **result, const void *image) {
    (void)image;
    *result = &module;
    return 0;
}

int cuModuleUnload(void *loaded) {
    (void)loaded;
    return 0;
}

int cuModuleGetFunction(void **result, void *loaded, const char *name) {
    (void)loaded;
    (void)name;
    *result = &function;
    return 0;
}

int cuFuncGetAttribute(int *value, int attribute, void *of) {
    enum { threads = 0 };
    (void)of;
    *value = attribute == threads ? 1024 : 0;
    return 0;
}

int cuFuncSetAttribute(void *of, int attribute, int value) {
    (void)of;
    (void)attribute;
    (void)value;
    return 0;
}

int cuFuncSetCacheConfig(void *of, int config) {
    (void)of;
    (void)config;
    return 0;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t pointer) {
    (void)attribute;
    *(uint64_t *)value = pointer;
    return 0;
}

int cuPointerGetAttributes(unsigned count, int *attributes, void **values, uint64_t pointer) {
    for (unsigned i = 0; i < count; ++i)
        cuPointerGetAttribute(values[i], attributes[i], pointer);
    return 0;
}

int cuStreamIsCapturing(void *stream, int *status) {
    (void)stream;
    *status = 0;
    return 0;
}

int cuLaunchKernel(void *of, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    (void)of, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream;
    (void)parameters, (void)extra;
    return 0;
}

int cuLaunchKernelEx(const void *config, void *of, void **parameters, void **extra) {
    (void)config, (void)of, (void)parameters, (void)extra;
    return 0;
}
