// Reading, checking and writing the attributes of an operator.
#include "fields.h"

#include <cstdio>
#include <cstring>

#include "report.h"

namespace algm::plugin {
namespace {

using ALGM_TRT_NAMESPACE::PluginFieldType;

FieldRule const* findRule(FieldRule const* rules, int32_t nbRules, char const* name) noexcept {
  for (int32_t i = 0; i < nbRules; ++i) {
    if (std::strcmp(rules[i].name, name) == 0) {
      return &rules[i];
    }
  }
  return nullptr;
}

PluginField const* findField(PluginFieldCollection const& fields, char const* name) noexcept {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    if (fields.fields[i].name != nullptr && std::strcmp(fields.fields[i].name, name) == 0) {
      return &fields.fields[i];
    }
  }
  return nullptr;
}

template <typename T>
T element(void const* data, int32_t index) noexcept {
  T value;
  std::memcpy(&value, static_cast<char const*>(data) + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

bool typeFits(FieldKind kind, PluginFieldType type) noexcept {
  return kind == FieldKind::kINTEGER ? type == PluginFieldType::kINT32 || type == PluginFieldType::kINT64
                                     : type == PluginFieldType::kFLOAT32 || type == PluginFieldType::kFLOAT64;
}

// The double holds every value inside the bounds exactly; what it rounds lies outside of them.
double fieldElement(PluginField const& field, int32_t index) noexcept {
  switch (field.type) {
    case PluginFieldType::kINT32:
      return element<int32_t>(field.data, index);
    case PluginFieldType::kINT64:
      return static_cast<double>(element<int64_t>(field.data, index));
    case PluginFieldType::kFLOAT32:
      return element<float>(field.data, index);
    default:
      return element<double>(field.data, index);
  }
}

void store(FieldRule const& rule, int32_t index, double value, void* attributes) noexcept {
  char* const member = static_cast<char*>(attributes) + rule.offset;
  if (rule.kind == FieldKind::kINTEGER) {
    reinterpret_cast<int32_t*>(member)[index] = static_cast<int32_t>(value);
  } else {
    reinterpret_cast<float*>(member)[index] = static_cast<float>(value);
  }
}

bool readField(char const* op, FieldRule const& rule, PluginField const& field, void* attributes) noexcept {
  char const* const kind = rule.kind == FieldKind::kINTEGER ? "integer" : "real number";
  if (!typeFits(rule.kind, field.type) || field.length != rule.length || field.data == nullptr) {
    reportError("%s: attribute '%s' has %d value(s) of field type %d; it must be %d %s(s)", op, rule.name, field.length,
                static_cast<int>(field.type), rule.length, kind);
    return false;
  }
  for (int32_t i = 0; i < rule.length; ++i) {
    double const value = fieldElement(field, i);
    if (!(value >= rule.minimum && value <= rule.maximum))  // also true for NaN
    {
      reportError("%s: attribute '%s' is %.10g (value %d of %d); it must be %.10g to %.10g", op, rule.name, value,
                  i + 1, rule.length, rule.minimum, rule.maximum);
      return false;
    }
    store(rule, i, value, attributes);
  }
  return true;
}

// The parser's own attributes may come along; anything else that the table does not know is a spelling mistake.
bool knowsAll(char const* op, FieldRule const* rules, int32_t nbRules, PluginFieldCollection const& fields) noexcept {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    char const* const name = fields.fields[i].name == nullptr ? "" : fields.fields[i].name;
    bool const ofParser = std::strcmp(name, "plugin_namespace") == 0 || std::strcmp(name, "plugin_version") == 0;
    if (!ofParser && findRule(rules, nbRules, name) == nullptr) {
      reportError("%s: there is no attribute '%s'", op, name);
      return false;
    }
  }
  return true;
}

}  // namespace

bool readFields(char const* op, FieldRule const* rules, int32_t nbRules, PluginFieldCollection const* fields,
                void* attributes) noexcept {
  PluginFieldCollection const none{};
  PluginFieldCollection const& given = fields == nullptr ? none : *fields;
  if (!knowsAll(op, rules, nbRules, given)) {
    return false;
  }
  for (int32_t i = 0; i < nbRules; ++i) {
    PluginField const* const field = findField(given, rules[i].name);
    if (field == nullptr && !rules[i].optional) {
      reportError("%s: attribute '%s' is missing", op, rules[i].name);
      return false;
    }
    if (field == nullptr) {
      store(rules[i], 0, rules[i].fallback, attributes);
    } else if (!readField(op, rules[i], *field, attributes)) {
      return false;
    }
  }
  return true;
}

void writeFields(FieldRule const* rules, int32_t nbRules, void const* attributes, PluginField* out) noexcept {
  for (int32_t i = 0; i < nbRules; ++i) {
    out[i].name = rules[i].name;
    out[i].data = attributes == nullptr ? nullptr : static_cast<char const*>(attributes) + rules[i].offset;
    out[i].type = rules[i].kind == FieldKind::kINTEGER ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32;
    out[i].length = rules[i].length;
  }
}

void describeFields(FieldRule const* rules, int32_t nbRules, void const* attributes, char* text, size_t size) noexcept {
  size_t used = 0;
  for (int32_t i = 0; i < nbRules; ++i) {
    char const* const member = static_cast<char const*>(attributes) + rules[i].offset;
    for (int32_t k = 0; k < rules[i].length && used < size; ++k) {
      double const value = rules[i].kind == FieldKind::kINTEGER ? element<int32_t>(member, k)
                                                                : static_cast<double>(element<float>(member, k));
      used += static_cast<size_t>(std::snprintf(text + used, size - used, "%s%s%.9g%s", k == 0 ? rules[i].name : "",
                                                k == 0 ? "=" : ",", value, k + 1 == rules[i].length ? ";" : ""));
    }
  }
}

}  // namespace algm::plugin
