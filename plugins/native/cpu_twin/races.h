// What the scheduler and the asynchronous copies tell the search for races (races.cpp).
#ifndef ALGM_NATIVE_CPU_TWIN_RACES_H_
#define ALGM_NATIVE_CPU_TWIN_RACES_H_

#include <cstddef>

namespace twin::races {

// A launch with `bytes` of dynamic shared memory begins.
void startLaunch(const void* shared, size_t bytes);
void startBlock();
void endLaunch();

// All threads of the block, or all lanes of a warp at __syncwarp(), have arrived.
void passBarrier();
void passWarpBarrier(int warp);

// The running thread loads or stores; of an asynchronous copy it starts or finishes the store to shared memory. Other
// accesses of code compiled with -fsanitize=thread are known without.
void access(const void* address, size_t bytes, bool write);

}  // namespace twin::races

#endif  // ALGM_NATIVE_CPU_TWIN_RACES_H_
