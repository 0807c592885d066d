// Error messages of the plugins: printed once, kept for the Python side.
#include "report.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>

namespace {

constexpr size_t kMESSAGE_BYTES = 512;
std::mutex gMutex;
char gMessage[kMESSAGE_BYTES] = "";

}  // namespace

namespace algm::plugin {

void reportError(char const* format, ...) noexcept {
  char message[kMESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "algm: %s\n", message);
  std::lock_guard<std::mutex> const lock(gMutex);
  std::memcpy(gMessage, message, sizeof(message));
}

}  // namespace algm::plugin

extern "C" char const* algm_plugin_error(void) {
  // TensorRT's parser and builder call plugins from threads of their own; the reader gets a copy of its own.
  thread_local char copy[kMESSAGE_BYTES];
  std::lock_guard<std::mutex> const lock(gMutex);
  std::memcpy(copy, gMessage, sizeof(copy));
  return copy;
}
