// Global memory as a launch uses it: what is loaded through the read-only cache (ld.global.nc) must not be stored to by
// the same launch, by any of its threads and at any time.
#ifndef ALGM_TESTS_PTX_READ_ONLY_H_
#define ALGM_TESTS_PTX_READ_ONLY_H_

#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace ptx {

class GlobalMemory {
 public:
  // False if the bytes, which lie within one line, were stored to.
  bool load(uint64_t address, size_t bytes) {
    Line& line = lines_[address / kLineBytes];
    line.loaded |= mask(address, bytes);
    return (line.loaded & line.stored) == 0;
  }

  // False if the bytes were loaded.
  bool store(uint64_t address, size_t bytes) {
    Line& line = lines_[address / kLineBytes];
    line.stored |= mask(address, bytes);
    return (line.loaded & line.stored) == 0;
  }

 private:
  static constexpr uint64_t kLineBytes = 64;

  // A bit for each byte.
  struct Line {
    uint64_t loaded = 0, stored = 0;
  };

  static uint64_t mask(uint64_t address, size_t bytes) { return ((uint64_t(1) << bytes) - 1) << address % kLineBytes; }

  std::unordered_map<uint64_t, Line> lines_;
};

}  // namespace ptx

#endif  // ALGM_TESTS_PTX_READ_ONLY_H_
