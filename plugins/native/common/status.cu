// The version of the C interface and the words for its statuses. No kernels.
#include "algm.h"
#include "common/launch.cuh"

namespace {

thread_local const char* lastCudaError = "no error";

}  // namespace

void algm::rememberCudaError(const char* text) { lastCudaError = text; }

extern "C" const char* algm_last_cuda_error(void) { return lastCudaError; }

extern "C" int algm_version(void) { return 1; }

extern "C" const char* algm_status_string(AlgmStatus status) {
  switch (status) {
    case ALGM_OK:
      return "ok";
    case ALGM_INVALID_ARGUMENT:
      return "invalid argument: a pointer is NULL or misaligned, or a size or attribute is out of range (see algm.h)";
    case ALGM_UNSUPPORTED:
      return "no kernel for this head dimension or support: attention takes 32, 48, 64, 80, 96 and 128 channels per "
             "head, slide labels up to 32768 nodes per tile and axis";
    case ALGM_WORKSPACE_TOO_SMALL:
      return "workspace too small: give the bytes that the algm_*_workspace query answers";
    case ALGM_CUDA_ERROR:
      return "CUDA refused a launch: algm_last_cuda_error() has the reason (often: library not built for this GPU)";
  }
  return "unknown status";
}
