// One axis of the way from the mosaic of patches to the source picture, read safely whatever its arrays hold.
#ifndef ALGM_NATIVE_SLIDE_AXIS_H_
#define ALGM_NATIVE_SLIDE_AXIS_H_

#include <cstdint>

#include "common/host_device.h"

namespace algm {

constexpr int kTileSide = 32;  // positions of a tile; further ones are left alone

// Neighbouring source positions.
struct Run {
  int first, count;
};

// The arrays are those of AlgmSlideLabelsParams.
struct SlideAxis {
  const int32_t* starts;
  const int32_t* supports;
  const int32_t* nodes;
  const float* shares;
  int tiles, width;          // `width`: columns of nodes and shares
  int length, mosaicLength;  // positions of the source, nodes of the mosaic

  ALGM_HD Run run(int tile) const {
    const int first = clampIndex(starts[tile], 0, length);
    const int end = clampIndex(starts[tile + 1], first, length);
    return {first, end - first < kTileSide ? end - first : kTileSide};
  }

  ALGM_HD int support(int tile) const { return clampIndex(supports[tile], 1, width); }

  ALGM_HD int node(int tile, int i) const { return clampIndex(nodes[int64_t(tile) * width + i], 0, mosaicLength - 1); }

  ALGM_HD float share(int position, int i) const { return shares[int64_t(position) * width + i]; }
};

}  // namespace algm

#endif  // ALGM_NATIVE_SLIDE_AXIS_H_
