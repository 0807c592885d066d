// algm_slide_labels: from the logits of all windows of a picture to its labels, without full-size logits.
//
// Two passes. The first (mosaic.cuh) arranges the logits so that the classes of a node lie next to each other, finds
// each node's winner, and sees whether all logits are finite. The second gives a block to each tile of the source. If
// one class wins at all of the tile's nodes, it wins at every pixel, for a mean cannot overtake a class that leads
// everywhere: the block only fills the tile. Else it drops the classes that can win nowhere (contest.cuh) and computes
// the rest, kGroup classes at a time: first the sums along the rows' nodes into shared memory, one for each row, column
// node and class, then each thread sums along the column nodes for its pixel. Column nodes come kAcross at a time and
// tiles in strips of one pixel a thread, so that no size of support or tile needs more shared memory or registers.
//
// Traffic: logits read once and written once by the first pass, then read from L2 for the tiles with more than one
// winner; labels written once. Floor: logits read once, labels written once.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "algm.h"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "slide/axis.h"
#include "slide/contest.cuh"
#include "slide/mosaic.cuh"

namespace algm {
namespace {

constexpr int kGroup = 8;   // classes at a time
constexpr int kAcross = 8;  // column nodes at a time
constexpr int kMaxSupport = 32768;

// Sums along the rows' nodes: rows of a strip, column nodes, classes. The padding spreads rows over the banks.
struct alignas(16) Tall {
  float values[kTileSide][kAcross * kGroup + 4];
};

// Pixels of a tile from `start`, one a thread. Threads beyond the last pixel have its place.
struct Strip {
  int firstRow, rows;  // of the source
  int row, x;          // of the thread's pixel: row within the strip, source column

  __device__ __forceinline__ Strip(const Run& tileRows, const Run& tileColumns, int start) {
    const int width = tileColumns.count, last = tileRows.count * width - 1;
    const int end = start + kSlideThreads - 1 < last ? start + kSlideThreads - 1 : last;
    const int pixel = start + int(threadIdx.x) < end ? start + int(threadIdx.x) : end;
    const int above = start / width;
    firstRow = tileRows.first + above;
    rows = end / width - above + 1;
    row = pixel / width - above;
    x = tileColumns.first + pixel % width;
  }
};

template <typename T>
__device__ __forceinline__ bool hasOneWinner(const Tile& tile, const Mosaic<T>& mosaic, int& winner) {
  winner = mosaic.winners[mosaic.node(tile.rowNode(0), tile.columnNode(0))];
  bool agree = true;
  for (int i = threadIdx.x; i < tile.nodes(); i += kSlideThreads) {
    const int rowNode = tile.rowNode(i / tile.columnSupport), columnNode = tile.columnNode(i % tile.columnSupport);
    agree &= mosaic.winners[mosaic.node(rowNode, columnNode)] == winner;
  }
  return __syncthreads_and(agree);
}

// Sums along the rows' nodes for `rows` rows from `firstRow`, column nodes first .. first + across, and up to kGroup
// classes, four a thread, which share the nodes and weights. The last class fills up the group: it ties with itself.
template <typename T>
__device__ __forceinline__ void sumRows(const Tile& tile, const Mosaic<T>& mosaic, Tall& tall, int firstRow, int rows,
                                        int first, int across, const uint16_t* ids, int classes) {
  constexpr int kQuads = kGroup / 4;
  for (unsigned i = threadIdx.x; i < unsigned(rows * across * kQuads); i += kSlideThreads) {
    const int group = i % kQuads * 4, column = i / kQuads % across, row = i / kQuads / across;
    int ofClass[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) ofClass[j] = ids[group + j < classes ? group + j : classes - 1];
    const int columnNode = tile.columnNode(first + column);
    Pack<float, 4> sums = {};
#pragma unroll 1
    for (int a = 0; a < tile.rowSupport; ++a) {
      const T* logits = mosaic.at(tile.rowNode(a), columnNode);
      const float share = tile.down.share(firstRow + row, a);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums.values[j] = fmaf(share, toFloat(logits[ofClass[j]]), sums.values[j]);
    }
    storePack<float, 4>(tall.values[row] + column * kGroup + group, sums);
  }
}

// Adds the column nodes first .. first + across to the values of kGroup classes at source column x.
__device__ __forceinline__ void sumColumns(const SlideAxis& axis, int x, int first, int across, const float* tall,
                                           float (&values)[kGroup]) {
  for (int b = 0; b < across; ++b) {
    const float share = axis.share(x, first + b);
#pragma unroll
    for (int i = 0; i < kGroup; i += 4) {
      const Pack<float, 4> four = loadPack<float, 4>(tall + b * kGroup + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i + j] = fmaf(share, four.values[j], values[i + j]);
    }
  }
}

// Values of up to kGroup classes at the thread's pixel of a strip.
template <typename T>
__device__ __forceinline__ void valuesAt(const Tile& tile, const Mosaic<T>& mosaic, const Strip& strip,
                                         Tall (&talls)[2], int& turn, const uint16_t* ids, int classes,
                                         float (&values)[kGroup]) {
  for (int first = 0; first < tile.columnSupport; first += kAcross) {
    const int across = tile.columnSupport - first < kAcross ? tile.columnSupport - first : kAcross;
    // Two buffers in turn: who writes one knows by the last barrier that all have read it.
    Tall& tall = talls[turn];
    turn ^= 1;
    sumRows(tile, mosaic, tall, strip.firstRow, strip.rows, first, across, ids, classes);
    __syncthreads();
    sumColumns(tile.across, strip.x, first, across, tall.values[strip.row], values);
  }
}

template <typename T, typename Label>
__global__ void __launch_bounds__(kSlideThreads, 3)
    slideLabelsKernel(SlideAxis down, SlideAxis across, Mosaic<T> mosaic, Label* __restrict__ labels) {
  __shared__ Tall talls[2];
  __shared__ Candidates candidates;
  __shared__ float maxima[kSlideWarps];
  const Tile tile(down, across, blockIdx.x);
  const Run rows = down.run(tile.row), columns = across.run(tile.column);
  const int pixels = rows.count * columns.count;

  int winner;
  if (hasOneWinner(tile, mosaic, winner)) {
    for (int pixel = threadIdx.x; pixel < pixels; pixel += kSlideThreads) {
      const int y = rows.first + pixel / columns.count, x = columns.first + pixel % columns.count;
      labels[int64_t(y) * across.length + x] = Label(winner);
    }
    return;
  }
  const float toReach = valueToReach(tile, mosaic, maxima);
  int count = 0, turn = 0;
  for (int start = 0; start < pixels; start += kSlideThreads) {
    const Strip strip(rows, columns, start);
    float best = -INFINITY;
    int label = 0;
    for (int firstClass = 0; firstClass < mosaic.classes; firstClass += kSlideThreads) {
      // One round of classes lasts for all strips.
      if (start == 0 || mosaic.classes > kSlideThreads) count = candidates.select(tile, mosaic, firstClass, toReach);
      for (int first = 0; first < count; first += kGroup) {
        float values[kGroup] = {};
        valuesAt(tile, mosaic, strip, talls, turn, candidates.ids + first, count - first, values);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          if (values[i] > best) {
            best = values[i];
            label = candidates.ids[first + i];
          }
        }
      }
    }
    if (start + int(threadIdx.x) < pixels) {
      labels[int64_t(strip.firstRow + strip.row) * across.length + strip.x] = Label(label);
    }
  }
}

// Before the mosaic, which takes it back where a logit is not finite.
__global__ void presumeFiniteKernel(int32_t* finite) { *finite = 1; }

bool isValid(const AlgmSlideLabelsParams* p) {
  if (p == nullptr || !isDtype(p->dtype) || !inRange(p->classes, 1, 65535)) return false;
  if (p->windows_down < 1 || p->windows_across < 1 || p->grid_height < 1 || p->grid_width < 1) return false;
  const int64_t rows = int64_t(p->windows_down) * p->grid_height;
  const int64_t columns = int64_t(p->windows_across) * p->grid_width;
  if (rows > kMaxRows || columns > kMaxRows || rows * columns > kMaxRows) return false;
  if (!inRange(p->height, 1, kMaxRows) || !inRange(p->width, 1, kMaxRows)) return false;
  if (!inRange(p->row_tiles, 1, p->height) || !inRange(p->column_tiles, 1, p->width)) return false;
  if (!inRange(int64_t(p->row_tiles) * p->column_tiles, 1, INT32_MAX)) return false;
  return p->row_support >= 1 && p->column_support >= 1;
}

struct SlideWorkspace {
  void* values;
  uint16_t* winners;
  size_t bytes;

  SlideWorkspace(const AlgmSlideLabelsParams& p, void* base) {
    Workspace workspace(base);
    const size_t nodes = size_t(p.windows_down) * p.windows_across * p.grid_height * p.grid_width;
    values = workspace.take<unsigned char>(nodes * p.classes * elementBytes(p.dtype));
    winners = workspace.take<uint16_t>(nodes);
    bytes = workspace.bytes();
  }
};

template <typename T>
AlgmStatus slideLabels(const AlgmSlideLabelsParams& p, const T* logits, const SlideAxis& down, const SlideAxis& across,
                       void* labels, int32_t* finite, const SlideWorkspace& workspace, cudaStream_t stream) {
  const Mosaic<T> mosaic{
      static_cast<T*>(workspace.values), workspace.winners, finite, down.mosaicLength, across.mosaicLength, p.classes};
  const MosaicWindows windows{p.windows_across, p.grid_height, p.grid_width};
  ALGM_RETURN_IF_ERROR(launch(presumeFiniteKernel, dim3(1), dim3(1), 0, stream, finite));
  ALGM_RETURN_IF_ERROR(launch(mosaicKernel<T>, dim3(p.windows_down * p.windows_across * windows.blocks()),
                              dim3(kMosaicWarps * 32), 0, stream, windows, logits, mosaic));
  const dim3 grid(p.row_tiles * p.column_tiles), block(kSlideThreads);
  if (p.classes > 256) {
    return launch(slideLabelsKernel<T, uint16_t>, grid, block, 0, stream, down, across, mosaic,
                  static_cast<uint16_t*>(labels));
  }
  return launch(slideLabelsKernel<T, uint8_t>, grid, block, 0, stream, down, across, mosaic,
                static_cast<uint8_t*>(labels));
}

}  // namespace
}  // namespace algm

extern "C" size_t algm_slide_labels_workspace(const AlgmSlideLabelsParams* params) {
  using namespace algm;
  return isValid(params) ? SlideWorkspace(*params, nullptr).bytes : 0;
}

extern "C" AlgmStatus algm_slide_labels(const AlgmSlideLabelsParams* params, const void* logits,
                                        const int32_t* row_starts, const int32_t* row_supports,
                                        const int32_t* row_nodes, const float* row_shares, const int32_t* column_starts,
                                        const int32_t* column_supports, const int32_t* column_nodes,
                                        const float* column_shares, void* labels, int32_t* finite, void* workspace,
                                        size_t workspace_bytes, cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(logits)) return ALGM_INVALID_ARGUMENT;
  for (const void* array : {static_cast<const void*>(row_starts), static_cast<const void*>(row_supports),
                            static_cast<const void*>(row_nodes), static_cast<const void*>(row_shares),
                            static_cast<const void*>(column_starts), static_cast<const void*>(column_supports),
                            static_cast<const void*>(column_nodes), static_cast<const void*>(column_shares),
                            static_cast<const void*>(finite)}) {
    if (!isUsableScalar(array)) return ALGM_INVALID_ARGUMENT;
  }
  if (labels == nullptr || (params->classes > 256 && reinterpret_cast<uintptr_t>(labels) % 2 != 0)) {
    return ALGM_INVALID_ARGUMENT;
  }
  const AlgmSlideLabelsParams& p = *params;
  if (p.row_support > kMaxSupport || p.column_support > kMaxSupport) return ALGM_UNSUPPORTED;
  const SlideWorkspace parts(p, workspace);
  ALGM_RETURN_IF_ERROR(checkWorkspace(workspace, workspace_bytes, parts.bytes));
  const SlideAxis down{row_starts,  row_supports,  row_nodes, row_shares,
                       p.row_tiles, p.row_support, p.height,  p.windows_down * p.grid_height};
  const SlideAxis across{column_starts,  column_supports,  column_nodes, column_shares,
                         p.column_tiles, p.column_support, p.width,      p.windows_across * p.grid_width};
  return p.dtype == ALGM_FLOAT16
             ? slideLabels(p, static_cast<const __half*>(logits), down, across, labels, finite, parts, stream)
             : slideLabels(p, static_cast<const float*>(logits), down, across, labels, finite, parts, stream);
}
