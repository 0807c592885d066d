// Index arithmetic of AlgmLocalMerge: windows, the order of merging windows, and where each token goes.
//
// An image's output: extra tokens, merging windows by descending similarity (ties: lower window), single tokens
// ascending.
#ifndef ALGM_NATIVE_LOCAL_MERGE_WINDOW_ORDER_H_
#define ALGM_NATIVE_LOCAL_MERGE_WINDOW_ORDER_H_

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace algm {

// A grid cut into windows; windows, and members inside a window, are numbered row by row.
struct WindowGrid {
  int gridWidth;
  int windowHeight;
  int windowWidth;
  int windowsPerRow;
  int windows;

  ALGM_HD int members() const { return windowHeight * windowWidth; }

  // Grid token of the first member of row `row` of a window.
  ALGM_HD int tokenOfRow(int window, int row) const {
    const int gridRow = window / windowsPerRow * windowHeight + row;
    return gridRow * gridWidth + window % windowsPerRow * windowWidth;
  }

  ALGM_HD int token(int window, int member) const {
    return tokenOfRow(window, member / windowWidth) + member % windowWidth;
  }
};

ALGM_HD WindowGrid makeWindowGrid(int gridHeight, int gridWidth, int windowHeight, int windowWidth) {
  const int perRow = gridWidth / windowWidth;
  return {gridWidth, windowHeight, windowWidth, perRow, gridHeight / windowHeight * perRow};
}

// Key of a window that does not merge: behind every key of one that does.
constexpr uint32_t kSingle = 0xFFFFFFFFu;

// Ascending keys are descending similarities. NaN, on either side, does not merge.
ALGM_HD uint32_t mergeKey(float similarity, float threshold) {
  if (!(similarity >= threshold)) return kSingle;
  const float value = similarity + 0.0f;  // -0 becomes +0: they are a tie
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// Whether window a stands before window b in the output; both merge.
ALGM_HD bool standsBefore(uint32_t keyA, int a, uint32_t keyB, int b) {
  return keyA < keyB + (uint32_t(a - b) >> 31);  // one more where a < b
}

// The lowest `count` bits; none below 0, all from 32 on.
ALGM_HD uint32_t bitsBelow(int count) {
  if (count <= 0) return 0;
  return count < 32 ? (1u << count) - 1 : ~0u;
}

// Among the single tokens of an image, the place of the first one in row `row` of a single window. `before`,
// `beforeRow` and `afterRow` count the single windows before this window, before its row of windows, and up to that
// row's end.
ALGM_HD int singlePlace(const WindowGrid& grid, int row, int before, int beforeRow, int afterRow) {
  return grid.members() * beforeRow + row * grid.windowWidth * (afterRow - beforeRow) +
         grid.windowWidth * (before - beforeRow);
}

// Tokens that an image keeps, given its number of single windows.
ALGM_HD int keptTokens(const WindowGrid& grid, int extraTokens, int singles) {
  return extraTokens + (grid.windows - singles) + grid.members() * singles;
}

}  // namespace algm

#endif  // ALGM_NATIVE_LOCAL_MERGE_WINDOW_ORDER_H_
