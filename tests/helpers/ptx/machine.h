// What the translated PTX of a kernel runs on: the threads, memories and collectives of the PTX ISA, by the scheduler of
// the CPU twin. Written from the ISA and not from the twin's own instructions, for a second opinion of fragment layouts.
//
// An error ends the process and names kernel and line of the PTX: an access that is misaligned or outside of shared
// memory, lanes that meet in different instructions or are missing, a launch that CUDA would refuse, a load through the
// read-only cache of what the launch stores.
#ifndef ALGM_TESTS_PTX_MACHINE_H_
#define ALGM_TESTS_PTX_MACHINE_H_

#include "cuda_on_cpu.h"

#include <string>

#include "arithmetic.h"
#include "kernels.h"
#include "races.h"
#include "read_only.h"

namespace ptx {

enum Shuffle { kShuffle_up, kShuffle_down, kShuffle_bfly, kShuffle_idx };

// Kinds of meeting of the lanes of a warp. Those of .aligned instructions must be the same instruction: its line.
constexpr int kWarpBarrier = twin::kSync, kVote = -1, kFirstShuffle = -16;

template <typename T, int kCount>
struct Vector {
  T values[kCount];
};

// A thread of a kernel: the fibre that runs.
class Thread {
 public:
  explicit Thread(const Launch& launch) : launch_(launch) {}

  dim3 tid() const { return threadIdx; }
  dim3 ntid() const { return blockDim; }
  dim3 ctaid() const { return blockIdx; }
  dim3 nctaid() const { return gridDim; }
  uint32_t laneid() const { return twin::current->lane; }

  template <typename T>
  T quotient(T a, T b, int line) const {
    if (b == 0 || (T(-1) < 0 && b == T(-1) && a == -a && a != 0)) fail(line, "a quotient that is not defined");
    return a / b;
  }

  template <typename T, int kCount>
  Vector<T, kCount> loadParameter(int parameter, int offset) const {
    return read<T, kCount>(static_cast<const unsigned char*>(launch_.arguments[parameter]) + offset);
  }

  template <typename T, int kCount>
  Vector<T, kCount> loadShared(uint32_t address, int line) const {
    const unsigned char* source = shared(address, sizeof(T) * kCount, line);
    twin::races::access(source, sizeof(T) * kCount, false);
    return read<T, kCount>(source);
  }

  template <typename T, int kCount>
  void storeShared(uint32_t address, const Vector<T, kCount>& vector, int line) const {
    unsigned char* target = shared(address, sizeof(T) * kCount, line);
    twin::races::access(target, sizeof(T) * kCount, true);
    std::memcpy(target, &vector, sizeof(vector));
  }

  template <typename T, int kCount>
  Vector<T, kCount> loadGlobal(uint64_t address, int line) const {
    const unsigned char* source = global(address, sizeof(T) * kCount, line);
    twin::races::access(source, sizeof(T) * kCount, false);
    return read<T, kCount>(source);
  }

  template <typename T, int kCount>
  Vector<T, kCount> loadReadOnly(uint64_t address, int line) const {
    if (!launch_.memory.load(address, sizeof(T) * kCount)) fail(line, "a read-only load of what the launch stores");
    return loadGlobal<T, kCount>(address, line);
  }

  template <typename T, int kCount>
  void storeGlobal(uint64_t address, const Vector<T, kCount>& vector, int line) const {
    unsigned char* target = global(address, sizeof(T) * kCount, line);
    if (!launch_.memory.store(address, sizeof(T) * kCount)) fail(line, "a store to what was loaded as read-only");
    twin::races::access(target, sizeof(T) * kCount, true);
    std::memcpy(target, &vector, sizeof(vector));
  }

  // 16 bytes, of which `sourceBytes` are read and the others become zero. At the wait, or at once, as the seed says.
  void copyAsync(uint32_t target, uint64_t source, uint32_t sourceBytes, int line) {
    if (sourceBytes > 16) fail(line, "an asynchronous copy of more bytes than it has");
    const Copy copy{shared(target, 16, line), global(source, 16, line), sourceBytes};
    twin::races::access(copy.target, 16, true);
    if (twin::copiesAreEager()) {
      perform(copy);
    } else {
      openCopies_.push_back(copy);
    }
  }

  void commitCopies() {
    groups_.push_back(std::move(openCopies_));
    openCopies_.clear();
  }

  // Until at most `pending` of the groups are under way.
  void waitCopies(size_t pending) {
    while (groups_.size() > pending) {
      for (const Copy& copy : groups_.front()) perform(copy);
      groups_.erase(groups_.begin());
    }
  }

  void barrier(int line) const {
    meet(nullptr, 0, line);  // the lanes of a warp must be at the same barrier
    twin::blockBarrier();
  }

  bool barrierAnd(bool vote, int line) const {
    meet(nullptr, 0, line);
    return twin::blockAgrees(vote);
  }

  void warpBarrier(uint32_t members, int line) const {
    needWholeWarp(members, line);
    meet(nullptr, 0, kWarpBarrier);
  }

  uint32_t ballot(bool vote, uint32_t members, int line) const {
    needWholeWarp(members, line);
    const unsigned char* lanes = meet(&vote, sizeof(vote), kVote);
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= uint32_t(twin::laneValue<bool>(lanes, lane)) << lane;
    return bits;
  }

  struct Shuffled {
    uint32_t value;
    bool inside;
  };

  // `clamp` holds the limits of segments of lanes, as the ISA encodes them.
  Shuffled shuffle(Shuffle mode, uint32_t value, uint32_t by, uint32_t clamp, uint32_t members, int line) const {
    needWholeWarp(members, line);
    const int lane = twin::current->lane, offset = by & 31, limit = clamp & 31, segment = clamp >> 8 & 31;
    const int first = lane & segment, last = first | (limit & ~segment);
    int source = lane;
    bool inside = false;
    switch (mode) {
      case kShuffle_up:
        source = lane - offset;
        inside = source >= last;
        break;
      case kShuffle_down:
        source = lane + offset;
        inside = source <= last;
        break;
      case kShuffle_bfly:
        source = lane ^ offset;
        inside = source <= last;
        break;
      case kShuffle_idx:
        source = first | (offset & ~segment);
        inside = source <= last;
        break;
    }
    const unsigned char* lanes = meet(&value, sizeof(value), kFirstShuffle + mode);
    return {twin::laneValue<uint32_t>(lanes, inside ? source : lane), inside};
  }

  // Four matrices of 8 x 8 halves, a register each; lane 8 m + r has the address of row r of matrix m. A lane gets two
  // halves of each: of row lane / 4 in columns 2 (lane % 4) and the next, or with rows and columns swapped.
  Vector<uint32_t, 4> loadMatrices(uint32_t address, bool transposed, int line) const {
    const auto row = loadShared<uint16_t, 8>(address, line);
    const unsigned char* lanes = meet(&row, sizeof(row), line);
    const int lane = twin::current->lane;
    Vector<uint32_t, 4> result{};
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int half = 0; half < 2; ++half) {
        const int major = lane / 4, minor = lane % 4 * 2 + half;
        const auto source = twin::laneValue<Vector<uint16_t, 8>>(lanes, 8 * matrix + (transposed ? minor : major));
        result.values[matrix] |= uint32_t(source.values[transposed ? major : minor]) << 16 * half;
      }
    }
    return result;
  }

  // A (16 x 16 halves) B (16 x 8 halves) + C (16 x 8 floats), in fragments: which elements lane and register hold is
  // the table "Matrix Fragments for mma.m16n8k16 with floating point type" of the ISA. Rounded once.
  Vector<uint32_t, 4> multiplyAdd(const Vector<uint32_t, 4>& a, const Vector<uint32_t, 2>& b,
                                  const Vector<uint32_t, 4>& c, int line) const {
    struct Fragments {
      float a[8], b[4];
    };
    Fragments mine;
    for (int i = 0; i < 8; ++i) mine.a[i] = fromHalf(uint16_t(a.values[i / 2] >> 16 * (i % 2)));
    for (int i = 0; i < 4; ++i) mine.b[i] = fromHalf(uint16_t(b.values[i / 2] >> 16 * (i % 2)));
    const unsigned char* lanes = meet(&mine, sizeof(mine), line);
    // The matrices, as far as the results of this lane need them.
    const int lane = twin::current->lane, resultGroup = lane / 4, firstColumn = lane % 4 * 2;
    float left[16][16], right[16][8];
    for (int owner = 0; owner < 32; ++owner) {
      const int group = owner / 4, inGroup = owner % 4;
      if (group != resultGroup && group != firstColumn && group != firstColumn + 1) continue;
      const auto fragments = twin::laneValue<Fragments>(lanes, owner);
      for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const int column = inGroup * 2 + (i & 1) + (i < 4 ? 0 : 8);
        left[row][column] = fragments.a[i];
      }
      for (int i = 0; i < 4; ++i) {
        const int row = inGroup * 2 + (i & 1) + (i < 2 ? 0 : 8), column = group;
        right[row][column] = fragments.b[i];
      }
    }
    Vector<uint32_t, 4> result;
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? resultGroup : resultGroup + 8, column = firstColumn + (i & 1);
      double sum = real(c.values[i]);
      for (int k = 0; k < 16; ++k) sum += double(left[row][k]) * right[k][column];
      result.values[i] = number(float(sum));
    }
    return result;
  }

 private:
  struct Copy {
    unsigned char* target;
    const unsigned char* source;
    uint32_t bytes;
  };

  [[noreturn]] void fail(int line, const char* what) const {
    twin::fail((launch_.kernel.name + (", PTX line " + std::to_string(line)) + ": " + what).c_str());
  }

  template <typename T, int kCount>
  static Vector<T, kCount> read(const unsigned char* source) {
    Vector<T, kCount> vector;
    std::memcpy(&vector, source, sizeof(vector));
    return vector;
  }

  template <typename Address>
  Address checked(Address address, size_t bytes, int line) const {
    if (address % bytes != 0) fail(line, "a misaligned address");
    return address;
  }

  unsigned char* shared(uint32_t address, uint32_t bytes, int line) const {
    checked(address, bytes, line);
    const uint32_t offset = address - kSharedBegin;
    if (offset >= launch_.sharedBytes || launch_.sharedBytes - offset < bytes) fail(line, "outside of shared memory");
    return twin::dynamicShared() + offset;
  }

  unsigned char* global(uint64_t address, size_t bytes, int line) const {
    return reinterpret_cast<unsigned char*>(checked(address, bytes, line));
  }

  void perform(const Copy& copy) const {
    twin::races::access(copy.target, 16, true);
    std::memcpy(copy.target, copy.source, copy.bytes);
    std::memset(copy.target + copy.bytes, 0, 16 - copy.bytes);
  }

  // The kernels have no other groups of lanes that meet.
  void needWholeWarp(uint32_t members, int line) const {
    if (members != ~0u) fail(line, "a meeting of some lanes of a warp");
  }

  const unsigned char* meet(const void* value, size_t bytes, int kind) const {
    return twin::exchange(value, bytes, kind);
  }

  const Launch& launch_;
  std::vector<Copy> openCopies_;           // since the last commit
  std::vector<std::vector<Copy>> groups_;  // committed, oldest first
};

}  // namespace ptx

#endif  // ALGM_TESTS_PTX_MACHINE_H_
