// Index arithmetic of AlgmGlobalMerge: who may merge, who is the better destination, and where each token goes.
//
// Sources are the tokens at even positions of an image, destinations those at odd positions, extra tokens excepted. An
// image's output: extra tokens, sources that do not merge ascending, destinations ascending.
#ifndef ALGM_NATIVE_GLOBAL_MERGE_PAIRING_H_
#define ALGM_NATIVE_GLOBAL_MERGE_PAIRING_H_

#include <cstdint>

#include "common/host_device.h"

namespace algm {

// The sources and destinations of one image; token numbers count from the image's first token.
struct Pairing {
  int extraTokens;   // leading tokens kept as they are (fewer in an image that has fewer)
  int sources;       // tokens 2, 4, ...
  int destinations;  // tokens 1, 3, ... with one extra token; 3, 5, ... with two

  ALGM_HD static int sourceToken(int source) { return 2 * (source + 1); }
  ALGM_HD int destinationToken(int destination) const { return 2 * (destination + extraTokens - 1) + 1; }
  ALGM_HD bool isExtra(int token) const { return token < extraTokens; }
  ALGM_HD static bool isSource(int token) { return token >= 2 && token % 2 == 0; }
  ALGM_HD static int sourceOf(int token) { return token / 2 - 1; }
  // A sample deviation needs two sources.
  ALGM_HD bool canMerge() const { return sources >= 2 && destinations >= 1; }

  ALGM_HD int destinationOf(int token) const { return (token - 1) / 2 - (extraTokens - 1); }

  // Place of a token in the output, given how many sources stay and the codes of the sources: the number of a source
  // among those that stay, or mergesInto(destination). That of a source that merges is its destination's.
  ALGM_HD int placeOf(int token, int staying, const int32_t* codes) const {
    if (isExtra(token)) return token;
    if (!isSource(token)) return extraTokens + staying + destinationOf(token);
    const int code = codes[sourceOf(token)];
    return code >= 0 ? extraTokens + code : extraTokens + staying + mergesInto(code);
  }

  // From a destination to its code, and back.
  ALGM_HD static int mergesInto(int destination) { return -1 - destination; }
};

ALGM_HD Pairing makePairing(int tokens, int extraTokens) {
  const int sources = (tokens + 1) / 2 - 1;
  const int destinations = tokens / 2 - (extraTokens - 1);
  return {tokens < extraTokens ? tokens : extraTokens, sources > 0 ? sources : 0, destinations > 0 ? destinations : 0};
}

// A candidate destination of a source; index -1: none. Aligned so that it is loaded and stored as one.
struct alignas(8) Match {
  float similarity;
  int index;
};

ALGM_HD Match noMatch() { return {-3.0e38f, -1}; }

// Whether `a` is to be chosen over `b`: higher similarity, then lower index. NaN wins and stays, so that the statistics
// of an image with a NaN are NaN and nothing in it merges.
ALGM_HD bool isBetter(Match a, Match b) {
  // All of it is computed at once: branches would cost more, for the lanes of a warp take different ones.
  const bool nanA = a.similarity != a.similarity, nanB = b.similarity != b.similarity;
  const bool higher = (nanA & !nanB) | (a.similarity > b.similarity);
  const bool equal = (nanA & nanB) | (a.similarity == b.similarity);
  return (a.index >= 0) & ((b.index < 0) | higher | (equal & (a.index < b.index)));
}

}  // namespace algm

#endif  // ALGM_NATIVE_GLOBAL_MERGE_PAIRING_H_
