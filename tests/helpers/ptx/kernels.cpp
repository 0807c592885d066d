// The one table of translated kernels of a library.
#include "kernels.h"

std::map<const void*, ptx::Kernel>& ptx::kernels() {
  static std::map<const void*, Kernel> all;
  return all;
}

// Names of the kernels that were never started, a line each; valid until the next call.
extern "C" __attribute__((visibility("default"))) const char* algm_ptx_kernels_not_run() {
  static std::string names;
  names.clear();
  for (const auto& [function, kernel] : ptx::kernels()) {
    if (kernel.launches == 0) names += kernel.name + "\n";
  }
  return names.c_str();
}
