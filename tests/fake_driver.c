// Stands for the NVIDIA driver where there is none: writes down what it is asked to load and to launch, in the file
// that FAKE_DRIVER_LOG names.  FAKE_DRIVER_REFUSES makes it take no code.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int loaded[64], contexts[8];
static char names[64][64];
static int known;

static void note(const char *format, long long a, long long b) {
    FILE *const log = fopen(getenv("FAKE_DRIVER_LOG"), "a");
    fprintf(log, format, a, b);
    fclose(log);
}

int cuInit(unsigned flags) {
    return (int)flags;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}

int cuGetErrorName(int result, const char **name) {
    *name = result == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
            : result == 2 ? "CUDA_ERROR_OUT_OF_MEMORY"
                          : "CUDA_ERROR";
    return 0;
}

static _Thread_local void *current;

int cuCtxGetCurrent(void **result) {
    *result = current;
    return 0;
}

int cuCtxSetCurrent(void *wanted) {
    current = wanted;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **result, int device) {
    note("context of device %lld\n", device, 0);
    *result = &contexts[device];
    return 0;
}

int cuThreadExchangeStreamCaptureMode(int *mode) {
    static int now;
    const int before = now;
    now = *mode;
    *mode = before;
    return 0;
}

int cuModuleLoadData(void **module, const void *image) {
    if (getenv("FAKE_DRIVER_REFUSES") != NULL)
        return atoi(getenv("FAKE_DRIVER_REFUSES"));
    note("load ELF %lld\n", memcmp(image, "\177ELF", 4) == 0, 0);
    *module = &loaded[known];
    return 0;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    snprintf(names[known], sizeof names[known], "%s", name);
    *function = names[known++];
    return 0;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    (void)function;
    note("attribute %lld = %lld\n", attribute, value);
    return 0;
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    if (current == NULL || extra != NULL)
        return 1;
    FILE *const log = fopen(getenv("FAKE_DRIVER_LOG"), "a");
    if (getenv("FAKE_DRIVER_TELLS_CONTEXTS") != NULL)
        fprintf(log, "within %d ", (int)((int *)current - contexts));
    fprintf(log, "launch %s %u %u %u %u %u %u %u %lld", (const char *)function, gx, gy, gz, bx, by, bz, shared,
            (long long)(intptr_t)stream);
    // FAKE_DRIVER_TYPES: p or i for each parameter, as the compiled code declares them.
    const char *const types = getenv("FAKE_DRIVER_TYPES");
    for (int i = 0; types[i] != '\0'; ++i)
        if (types[i] == 'p')
            fprintf(log, " %lld", (long long)*(int64_t *)parameters[i]);
        else
            fprintf(log, " %d", *(int32_t *)parameters[i]);
    fprintf(log, "\n");
    fclose(log);
    return 0;
}
