// Attributes of an operator as a table: read from TensorRT's fields, checked, written back, described.
//
// An operator keeps its attributes in a plain struct of int32_t and float members; the table says where each lies.
#pragma once

#include "trt_abi.h"

namespace algm::plugin {

using ALGM_TRT_NAMESPACE::PluginField;
using ALGM_TRT_NAMESPACE::PluginFieldCollection;

enum class FieldKind : int32_t {
  kINTEGER,  // int32_t members
  kREAL      // float members
};

// One attribute: `length` elements at `offset` of the struct, each within [minimum, maximum].
struct FieldRule {
  char const* name;
  FieldKind kind;
  int32_t length;
  double minimum;
  double maximum;
  size_t offset;
  bool optional;  // a tuning hint: `fallback` is taken where the node does not carry it
  double fallback;
};

constexpr FieldRule integers(char const* name, int32_t length, double minimum, double maximum, size_t offset) {
  return {name, FieldKind::kINTEGER, length, minimum, maximum, offset, false, 0.0};
}

constexpr FieldRule hint(char const* name, double minimum, double maximum, size_t offset, double fallback) {
  return {name, FieldKind::kREAL, 1, minimum, maximum, offset, true, fallback};
}

// Fills `attributes` from `fields`. False, with the reason reported, when an attribute is missing, unknown, of the
// wrong type or length, or out of range. Integers may come as INT32 or INT64, reals as FLOAT32 or FLOAT64.
bool readFields(char const* op, FieldRule const* rules, int32_t nbRules, PluginFieldCollection const* fields,
                void* attributes) noexcept;

// Makes `out[i]` point at the i-th attribute inside `attributes`.
void writeFields(FieldRule const* rules, int32_t nbRules, void const* attributes, PluginField* out) noexcept;

// Text of all attributes, such as "grid=32,32;window=2,2;", cut at `size` bytes.
void describeFields(FieldRule const* rules, int32_t nbRules, void const* attributes, char* text, size_t size) noexcept;

}  // namespace algm::plugin
