// Pixels and cells of AlgmLabels, in exact integer arithmetic.
//
// Pixel p of `target` pixels lies at ((2p + 1) source - target) / (2 target) on the axis of `source` patches
// (half-pixel centres), clamped to [0, source - 1]. A cell is the stretch between two neighbouring patch centres; the
// last cell holds the pixels beyond the last centre.
#ifndef ALGM_NATIVE_LABELS_CELLS_H_
#define ALGM_NATIVE_LABELS_CELLS_H_

#include <cstdint>

#include "common/host_device.h"

namespace algm {

struct Axis {
  uint32_t source;  // patches
  uint32_t target;  // pixels

  // All numerators stay below 2^32 where this holds.
  ALGM_HD bool isExact() const { return (2 * uint64_t(target) + 1) * (uint64_t(source) + 1) < (uint64_t(1) << 32); }

  // First pixel of cell c; of cell `source`: the end of the axis.
  ALGM_HD uint32_t firstPixel(uint32_t c) const {
    if (c == 0) return 0;
    if (c >= source) return target;
    return ((2 * c + 1) * target + source - 1) / (2 * source);
  }

  // Weight of the far end of the cell for a pixel of cell c.
  ALGM_HD float weight(uint32_t pixel, uint32_t c) const {
    const uint32_t numerator = (2 * pixel + 1) * source;
    if (numerator <= target || c + 1 >= source) return 0.0f;
    return static_cast<float>(numerator - target - 2 * target * c) / static_cast<float>(2 * target);
  }

  // The patch at the far end of cell c.
  ALGM_HD uint32_t next(uint32_t c) const { return c + 1 < source ? c + 1 : c; }
};

}  // namespace algm

#endif  // ALGM_NATIVE_LABELS_CELLS_H_
