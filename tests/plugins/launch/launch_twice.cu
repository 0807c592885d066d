// Prints the statuses of two launches, the first of which finds no memory for its kernel (runtime.c).
#include <cstdio>

#include "common/launch.cuh"

__global__ void kernel() {}

void algm::rememberCudaError(const char*) {}

int main() {
  const AlgmStatus first = algm::launch(kernel, dim3(1), dim3(1), 64 * 1024, nullptr);
  const AlgmStatus second = algm::launch(kernel, dim3(1), dim3(1), 64 * 1024, nullptr);
  std::printf("%d %d\n", first, second);
}
