// A CUDA runtime without a device. Its first call that needs memory finds none; all others succeed.
#include <stddef.h>

typedef struct {
  unsigned x, y, z;
} Dim3;

enum { kSuccess = 0, kOutOfMemory = 2 };

static int last = kSuccess;
static int calls = 0;

int cudaGetLastError(void) {
  const int error = last;
  last = kSuccess;
  return error;
}

int cudaFuncSetAttribute(const void* kernel, int attribute, int value) {
  if (++calls > 1) return kSuccess;
  return last = kOutOfMemory;
}

const char* cudaGetErrorString(int error) { return ""; }
int cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared, void* stream) {
  return kSuccess;
}

// What the code that nvcc adds calls, in all versions of it.
int __cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared, void* stream) {
  return kSuccess;
}
int __cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return kSuccess;
}
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) { return 0; }
int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void* stream) { return kSuccess; }
void** __cudaRegisterFatBinary(void* binary) { return NULL; }
void __cudaRegisterFatBinaryEnd(void** handle) {}
void __cudaUnregisterFatBinary(void** handle) {}
void __cudaRegisterFunction(void** handle, const char* host, char* function, const char* name, int limit, void* thread,
                            void* block, void* blockShape, void* gridShape, int* warpSize) {}
char __cudaInitModule(void** handle) { return 0; }
