// algm_cut_windows: the windows of a picture's canvas, cut out side by side.
//
// One pass, one thread per 16 bytes of a window's row, at 16-byte boundaries of the target. The source has the same
// alignment only by chance: else the 16 bytes come out of five neighbouring words, shifted. Traffic = floor: windows
// written once, and read once where L2 does not have the canvas.
#include <cuda_runtime.h>

#include "algm.h"
#include "common/host_device.h"
#include "common/launch.cuh"

namespace algm {
namespace {

constexpr int kThreads = 256;
constexpr int kBytes = 16;
constexpr int kMaxGridRows = 65535;

struct CutShape {
  int height, width, windows, windowHeight, windowWidth;

  ALGM_HD int64_t canvasBytes() const { return int64_t(height) * width * 3; }
  ALGM_HD int rowBytes() const { return 3 * windowWidth; }
  // 16-byte pieces that a row of a window touches, wherever it begins.
  ALGM_HD int pieces() const { return ceilDiv(rowBytes(), kBytes) + 1; }
};

// Reads 16 bytes at any address by whole words, all of which must lie in begin .. end; false if they do not.
__device__ __forceinline__ bool loadPiece(const uint8_t* source, const uint8_t* begin, const uint8_t* end,
                                          uint4& piece) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(source);
  if (address % kBytes == 0 && end - source >= kBytes) {
    piece = *reinterpret_cast<const uint4*>(source);
    return true;
  }
  const int skew = int(address % 4);
  if (source - begin < skew || end - source < kBytes + 4 - skew) return false;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(source - skew);
  const unsigned shift = unsigned(skew) * 8;
  piece = make_uint4(__funnelshift_r(words[0], words[1], shift), __funnelshift_r(words[1], words[2], shift),
                     __funnelshift_r(words[2], words[3], shift), __funnelshift_r(words[3], words[4], shift));
  return true;
}

__global__ void __launch_bounds__(kThreads)
    cutKernel(CutShape shape, const uint8_t* __restrict__ canvas, const int32_t* __restrict__ anchors,
              uint8_t* __restrict__ windows) {
  // Below 2^32 for every valid shape; a 64-bit division would cost more than the rest.
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x, pieces = shape.pieces();
  const int row = int(unit / pieces), place = int(unit % pieces);
  if (row >= shape.windowHeight) return;
  for (int window = blockIdx.y; window < shape.windows; window += gridDim.y) {
    const int top = clampIndex(anchors[2 * int64_t(window)], 0, shape.height - shape.windowHeight);
    const int left = clampIndex(anchors[2 * int64_t(window) + 1], 0, shape.width - shape.windowWidth);
    const uint8_t* source = canvas + (int64_t(top + row) * shape.width + left) * 3;
    uint8_t* target = windows + (int64_t(window) * shape.windowHeight + row) * shape.rowBytes();

    // The piece's bytes within the row; the first and the last one may be cut off by its ends.
    const int begin = place * kBytes - int(reinterpret_cast<uintptr_t>(target) % kBytes);
    const int from = begin < 0 ? 0 : begin;
    const int to = begin + kBytes < shape.rowBytes() ? begin + kBytes : shape.rowBytes();
    uint4 piece;
    if (to - from == kBytes && loadPiece(source + from, canvas, canvas + shape.canvasBytes(), piece)) {
      *reinterpret_cast<uint4*>(target + from) = piece;
    } else {
      for (int i = from; i < to; ++i) target[i] = source[i];
    }
  }
}

bool isValid(const AlgmCutWindowsParams* p) {
  if (p == nullptr || !inRange(p->windows, 1, kMaxRows)) return false;
  if (!inRange(p->window_height, 1, p->height) || !inRange(p->window_width, 1, p->width)) return false;
  return p->width <= kMaxRows / 3 && int64_t(p->window_height) * p->window_width <= kMaxRows;
}

}  // namespace
}  // namespace algm

extern "C" size_t algm_cut_windows_workspace(const AlgmCutWindowsParams*) { return 0; }

extern "C" AlgmStatus algm_cut_windows(const AlgmCutWindowsParams* params, const uint8_t* canvas,
                                       const int32_t* anchors, uint8_t* windows, void*, size_t, cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || canvas == nullptr || windows == nullptr || !isUsableScalar(anchors)) {
    return ALGM_INVALID_ARGUMENT;
  }
  const CutShape shape{params->height, params->width, params->windows, params->window_height, params->window_width};
  const int64_t units = int64_t(shape.windowHeight) * shape.pieces();
  const dim3 grid(unsigned((units + kThreads - 1) / kThreads),
                  shape.windows < kMaxGridRows ? shape.windows : kMaxGridRows);
  return launch(cutKernel, grid, dim3(kThreads), 0, stream, shape, canvas, anchors, windows);
}
