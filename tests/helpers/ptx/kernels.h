// The translated kernels of a library, by the kernels' own functions, and what starts them instead of these.
#ifndef ALGM_TESTS_PTX_KERNELS_H_
#define ALGM_TESTS_PTX_KERNELS_H_

#include "cuda_on_cpu.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "read_only.h"

namespace ptx {

constexpr uint32_t kSharedBegin = 1024;  // address of a block's shared memory; what lies below is the system's
constexpr size_t kDefaultSharedBytes = 48 * 1024;  // of a block whose launcher did not ask for more

struct Launch;

struct Kernel {
  std::string name;
  void (*code)(const Launch&);
  uint32_t mostThreads;    // of a block
  uint32_t staticBytes;    // of shared memory
  uint32_t dynamicOffset;  // of its dynamic part
  std::vector<size_t> parameterBytes;
  int launches = 0;
};

struct Launch {
  const Kernel& kernel;
  void* const* arguments;
  uint32_t sharedBytes;  // static and dynamic
  GlobalMemory& memory;
};

// By the function that the launchers start.
std::map<const void*, Kernel>& kernels();

// Ends the process, outside of a launch.
[[noreturn]] inline void refuse(const std::string& kernel, const char* what) {
  std::fprintf(stderr, "%s: %s\n", kernel.c_str(), what);
  std::abort();
}

struct Registration {
  template <typename... Parameters>
  Registration(void (*kernel)(Parameters...), Kernel translated) {
    if (translated.parameterBytes != std::vector<size_t>{sizeof(Parameters)...}) {
      refuse(translated.name, "parameters of other sizes than on the device");
    }
    kernels().emplace(reinterpret_cast<const void*>(kernel), translated);
  }
};

// What CUDA would refuse. Dynamic shared memory beyond 48 KB has been asked for by the launcher.
inline void checkLaunch(const Kernel& kernel, dim3 grid, dim3 block, size_t dynamicBytes, size_t sharedBytes) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > kernel.mostThreads) refuse(kernel.name, "a block of too many threads, or of none");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) {
    refuse(kernel.name, "an impossible grid");
  }
  if (dynamicBytes <= kDefaultSharedBytes && sharedBytes > kDefaultSharedBytes) {
    refuse(kernel.name, "too much shared memory");
  }
}

}  // namespace ptx

namespace twin {

template <typename... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamicBytes, Parameters... arguments) {
  const auto found = ptx::kernels().find(reinterpret_cast<const void*>(kernel));
  if (found == ptx::kernels().end()) ptx::refuse("a kernel", "it was not translated");
  ptx::Kernel& translated = found->second;
  const size_t sharedBytes = dynamicBytes > 0 ? translated.dynamicOffset + dynamicBytes : translated.staticBytes;
  ptx::checkLaunch(translated, grid, block, dynamicBytes, sharedBytes);
  ++translated.launches;
  void* addresses[] = {&arguments...};
  ptx::GlobalMemory memory;
  const ptx::Launch launch{translated, addresses, uint32_t(sharedBytes), memory};
  run(grid, block, sharedBytes, [&] { translated.code(launch); });
}

}  // namespace twin

#endif  // ALGM_TESTS_PTX_KERNELS_H_
