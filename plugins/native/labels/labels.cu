// AlgmLabels: bilinear interpolation of class logits to full size and argmax; full-size logits are never stored.
//
// One pass, one warp per cell: the pixels between four neighbouring patch centres. The warp brings the four logits of
// every class to shared memory as one 16-byte element and finds each corner's best class. If the four agree, every
// pixel of the cell has that label, for an average cannot overtake a class that leads at all corners. Else each lane
// takes up to kPixels pixels of a row: per class one broadcast read and the vertical interpolation are shared by the
// pixels, and per pixel there remain one multiply-add and one maximum. Classes go in groups of kGroup; only a group
// that raises a pixel's maximum is looked at again, to find the lowest class that reaches it.
//
// Traffic: logits read four times, from L2 after the first; labels written once. Floor: 2 operations per pixel and
// class of the cells whose corners disagree, or labels written once.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "algm.h"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/validity.h"
#include "labels/cells.h"

namespace algm {
namespace {

constexpr int kWarps = 4;
constexpr int kStaged = 256;  // classes in shared memory at a time
constexpr int kGroup = 8;
constexpr float kAbsent = -1.0e38f;  // logit of the classes that fill up the last group

struct LabelsShape {
  Axis vertical, horizontal;
  int batch, classes;
};

// The four logits of a class around a cell.
struct alignas(16) Corners {
  float upperLeft, upperRight, lowerLeft, lowerRight;
};

// The logit along a pixel row: left + weight * slope.
struct RowLogit {
  float left, slope;
  __device__ __forceinline__ float at(float weight) const { return fmaf(weight, slope, left); }
};

__device__ __forceinline__ RowLogit rowLogit(const Corners& c, float weight) {
  const float left = fmaf(weight, c.lowerLeft - c.upperLeft, c.upperLeft);
  const float right = fmaf(weight, c.lowerRight - c.upperRight, c.upperRight);
  return {left, right - left};
}

// Best class of a corner, the lower one of equals, over the lanes of a warp.
__device__ __forceinline__ int bestClass(float logit, int id) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) {
    const float otherLogit = __shfl_xor_sync(~0u, logit, mask);
    const int otherId = __shfl_xor_sync(~0u, id, mask);
    if (otherLogit > logit || (otherLogit == logit && otherId < id)) {
      logit = otherLogit;
      id = otherId;
    }
  }
  return id;
}

// Rows of logits at the corners of a cell.
template <typename T>
struct CellLogits {
  const T* corner[4];

  // Stages classes first .. first + count (filled up to whole groups). Returns the class that wins at all four corners
  // among these, or -1.
  __device__ __forceinline__ int stage(Corners* staged, int first, int count, int lane) const {
    float best[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    int ids[4] = {0, 0, 0, 0};
    for (int i = lane; i < ceilDiv(count, kGroup) * kGroup; i += 32) {
      float logits[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        logits[j] = i < count ? toFloat(corner[j][first + i]) : kAbsent;
        if (i < count && logits[j] > best[j]) {
          best[j] = logits[j];
          ids[j] = first + i;
        }
      }
      staged[i] = {logits[0], logits[1], logits[2], logits[3]};
    }
    const int winner = bestClass(best[0], ids[0]);
    bool agree = true;
#pragma unroll
    for (int j = 1; j < 4; ++j) agree &= bestClass(best[j], ids[j]) == winner;
    __syncwarp();
    return agree ? winner : -1;
  }
};

// Up to kPixels neighbouring pixels of a row: their best classes so far.
template <int kPixels>
struct PixelRun {
  float weights[kPixels];
  float best[kPixels];
  int groups[kPixels];  // where `best` was found, in the staged classes; -1: not in these
  int labels[kPixels];

  // Compares with the staged classes.
  __device__ __forceinline__ void update(const Corners* staged, int first, int count, float rowWeight) {
#pragma unroll
    for (int p = 0; p < kPixels; ++p) groups[p] = -1;
    for (int group = 0; group < count; group += kGroup) {
      float largest[kPixels];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const RowLogit row = rowLogit(staged[group + i], rowWeight);
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
          const float logit = row.at(weights[p]);
          largest[p] = i == 0 ? logit : fmaxf(largest[p], logit);
        }
      }
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        if (largest[p] > best[p]) {
          best[p] = largest[p];
          groups[p] = group;
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      if (groups[p] < 0) continue;
      // The same operations give the same bits, so one of the group equals the maximum.
      int found = kGroup - 1;
#pragma unroll
      for (int i = kGroup - 1; i >= 0; --i) {
        if (rowLogit(staged[groups[p] + i], rowWeight).at(weights[p]) == best[p]) found = i;
      }
      labels[p] = first + (groups[p] + found < count ? groups[p] + found : 0);
    }
  }
};

template <typename T, int kPixels>
__global__ void __launch_bounds__(kWarps * 32)
    labelsKernel(LabelsShape shape, const T* __restrict__ logits, int32_t* __restrict__ labels) {
  __shared__ Corners shared[kWarps][kStaged];
  const int lane = threadIdx.x % 32;
  Corners* staged = shared[threadIdx.x / 32];
  const Axis vertical = shape.vertical, horizontal = shape.horizontal;
  const uint32_t cell = blockIdx.x * kWarps + threadIdx.x / 32;
  if (cell >= vertical.source * horizontal.source) return;
  const uint32_t cellRow = cell / horizontal.source, cellColumn = cell % horizontal.source;
  const int top = vertical.firstPixel(cellRow), bottom = vertical.firstPixel(cellRow + 1);
  const int left = horizontal.firstPixel(cellColumn), right = horizontal.firstPixel(cellColumn + 1);
  if (top == bottom || left == right) return;

  const T* image = logits + int64_t(blockIdx.y) * vertical.source * horizontal.source * shape.classes;
  const auto patch = [&](uint32_t row, uint32_t column) {
    return image + int64_t(row * horizontal.source + column) * shape.classes;
  };
  const uint32_t nextRow = vertical.next(cellRow), nextColumn = horizontal.next(cellColumn);
  const CellLogits<T> cellLogits{{patch(cellRow, cellColumn), patch(cellRow, nextColumn), patch(nextRow, cellColumn),
                                  patch(nextRow, nextColumn)}};
  int32_t* target = labels + int64_t(blockIdx.y) * vertical.target * horizontal.target;
  const int classes = shape.classes, width = right - left;

  const bool fits = classes <= kStaged;
  if (fits) {
    const int winner = cellLogits.stage(staged, 0, classes, lane);
    if (winner >= 0) {
      // Unsigned: one more step than the pixels of a cell may reach 2^31.
      for (unsigned i = lane; i < unsigned((bottom - top) * width); i += 32) {
        target[int64_t(top + i / width) * horizontal.target + left + i % width] = winner;
      }
      return;
    }
  }

  const int runs = ceilDiv(width, kPixels);
  // Whole rounds of 32 runs, so that all lanes take part in staging.
  for (int start = 0; start < (bottom - top) * runs; start += 32) {
    const int run = start + lane;
    const bool exists = run < (bottom - top) * runs;
    const int y = exists ? top + run / runs : top, x = exists ? left + run % runs * kPixels : left;
    const float rowWeight = vertical.weight(y, cellRow);
    PixelRun<kPixels> pixels;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      pixels.weights[p] = x + p < right ? horizontal.weight(x + p, cellColumn) : 0.0f;
      pixels.best[p] = -INFINITY;
      pixels.labels[p] = 0;
    }
    for (int first = 0; first < classes; first += kStaged) {
      const int count = classes - first < kStaged ? classes - first : kStaged;
      if (!fits) {
        __syncwarp();
        cellLogits.stage(staged, first, count, lane);
      }
      pixels.update(staged, first, count, rowWeight);
    }
    if (!exists) continue;
    int32_t* row = target + int64_t(y) * horizontal.target;
    if (kPixels % 4 == 0 && x + kPixels <= right && reinterpret_cast<uintptr_t>(row + x) % 16 == 0) {
#pragma unroll
      for (int p = 0; p + 4 <= kPixels; p += 4) {
        const int* four = pixels.labels + p;
        storePack<int32_t, 4>(row + x + p, {four[0], four[1], four[2], four[3]});
      }
      continue;
    }
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      if (x + p < right) row[x + p] = pixels.labels[p];
    }
  }
}

LabelsShape shapeOf(const AlgmLabelsParams& p) {
  const Axis vertical{uint32_t(p.grid_height), uint32_t(p.height)};
  const Axis horizontal{uint32_t(p.grid_width), uint32_t(p.width)};
  return {vertical, horizontal, p.batch, p.classes};
}

}  // namespace

bool isValid(const AlgmLabelsParams* p) {
  if (p == nullptr || !isDtype(p->dtype) || !inRange(p->batch, 1, kMaxBatch)) return false;
  if (!inRange(p->classes, 1, 65535)) return false;
  if (!inRange(p->grid_height, 1, 65536) || !inRange(p->grid_width, 1, 65536)) return false;
  if (!inRange(p->height, 1, 65536) || !inRange(p->width, 1, 65536)) return false;
  const LabelsShape shape = shapeOf(*p);
  return shape.vertical.isExact() && shape.horizontal.isExact() &&
         inRange(int64_t(p->grid_height) * p->grid_width, 1, kMaxRows) &&
         inRange(int64_t(p->height) * p->width, 1, INT32_MAX);
}

}  // namespace algm

extern "C" size_t algm_labels_workspace(const AlgmLabelsParams*) { return 0; }

extern "C" AlgmStatus algm_labels(const AlgmLabelsParams* params, const void* logits, int32_t* labels, void*, size_t,
                                  cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(logits) || !isUsableScalar(labels)) return ALGM_INVALID_ARGUMENT;
  const LabelsShape shape = shapeOf(*params);
  const dim3 grid(ceilDiv(params->grid_height * params->grid_width, kWarps), params->batch);
  const dim3 block(kWarps * 32);
  const auto start = [&](auto* typed) {
    // Small cells give all lanes a run only if runs are short.
    using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    if (params->width > 8 * params->grid_width) {
      return launch(labelsKernel<T, 8>, grid, block, 0, stream, shape, typed, labels);
    }
    return launch(labelsKernel<T, 2>, grid, block, 0, stream, shape, typed, labels);
  };
  return params->dtype == ALGM_FLOAT16 ? start(static_cast<const __half*>(logits))
                                       : start(static_cast<const float*>(logits));
}
