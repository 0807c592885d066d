// Stands in for CUDA's header in the CPU twin.
#include "../cuda_on_cpu.h"
