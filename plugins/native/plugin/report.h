// How a plugin tells the user what is wrong: one line on stderr, kept for algm_plugin_error().
#pragma once

namespace algm::plugin {

// Prints "algm: <message>" to stderr and remembers the message for the calling process.
// TensorRT's logger would be the better place, but its interface changed in 11.0; this library serves 10.9 and later.
void reportError(char const* format, ...) noexcept __attribute__((format(printf, 1, 2)));

}  // namespace algm::plugin

extern "C" {
// The last message of reportError, or "" when nothing was reported. Valid until the calling thread asks again.
__attribute__((visibility("default"))) char const* algm_plugin_error(void);
}
