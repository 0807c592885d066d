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

// The running thread loads or stores. Code compiled with -fsanitize=thread says so by itself.
void access(const void* address, size_t bytes, bool write);

// The running thread has started, or finished, an asynchronous copy to shared memory.
void copy(void* target, size_t bytes);

}  // namespace twin::races

#endif  // ALGM_NATIVE_CPU_TWIN_RACES_H_
