// CUDA's runtime and driver, as much of them as a search needs: all is done at once, in this process's
// memory. Machine code is the path of a library, made of launch.cpp.

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>

using Size = size_t;
using Any = void*;

struct Module {
    Any library;
};
struct Function {
    Module* module;
    std::string name;
};

extern "C" {
int cudaStreamCreateWithFlags(Any* stream, unsigned) { return *stream = malloc(1), 0; }
int cudaStreamDestroy(Any stream) { return free(stream), 0; }
int cudaStreamQuery(Any) { return 0; }
int cudaStreamSynchronize(Any) { return 0; }
int cudaStreamBeginCapture(Any, int) { return 801; }  // not supported
int cudaStreamEndCapture(Any, Any*) { return 801; }
int cudaGraphInstantiate(Any*, Any, unsigned long long) { return 801; }
int cudaGraphLaunch(Any, Any) { return 801; }
int cudaGraphDestroy(Any) { return 0; }
int cudaGraphExecDestroy(Any) { return 0; }
int cudaGetLastError() { return 0; }
int cudaMalloc(Any* place, Size bytes) {
    *place = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(*place, 0x3c, bytes);  // what was there before: halves of 1
    return 0;
}
int cudaFree(Any place) { return free(place), 0; }
int cudaHostAlloc(Any* place, Size bytes, unsigned) { return *place = malloc(bytes), 0; }
int cudaFreeHost(Any place) { return free(place), 0; }
int cudaMemcpy(Any to, Any from, Size bytes, int) { return memcpy(to, from, bytes), 0; }
int cudaMemcpyAsync(Any to, Any from, Size bytes, int, Any) { return memcpy(to, from, bytes), 0; }
int cudaMemcpy2DAsync(char* to, Size to_width, const char* from, Size from_width, Size bytes, Size rows,
                      int, Any) {
    for (Size row = 0; row < rows; row++) memcpy(to + row * to_width, from + row * from_width, bytes);
    return 0;
}
int cudaDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 75: return *value = 9, 0;        // compute capability, 9.0
        case 76: return *value = 0, 0;
        case 97: return *value = 227 << 10, 0;  // shared memory of a block
        case 16: return *value = 3, 0;        // multiprocessors
    }
    return 1;
}
int cuModuleLoadData(Module** module, const char* path) {
    Any library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return library ? *module = new Module{library}, 0 : 200;
}
int cuModuleUnload(Module* module) { return module->library = nullptr, 0; }
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    const auto has = reinterpret_cast<bool (*)(const char*)>(dlsym(module->library, "has_kernel"));
    return has(name) ? *function = new Function{module, name}, 0 : 500;
}
int cuFuncSetAttribute(Function*, int, int bytes) { return bytes > 227 << 10; }
int cuLaunchKernel(Function* function, unsigned across, unsigned down, unsigned, unsigned threads,
                   unsigned, unsigned, unsigned, Any, Any* arguments, Any) {
    if (!function->module->library) return 709;  // destroyed
    const auto launch = reinterpret_cast<void (*)(const char*, unsigned, unsigned, int, Any*)>(
        dlsym(function->module->library, "launch"));
    launch(function->name.c_str(), across, down, threads, arguments);
    return 0;
}
}
