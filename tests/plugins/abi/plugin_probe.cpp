// Drives a plugin library the way TensorRT does, through plain C functions for Python's ctypes.
//
// Compiled against our declaration of the interface, or with ALGM_PROBE_NVIDIA_HEADERS against NVIDIA's: then the real
// library is called through NVIDIA's own types. Objects are handed out as opaque pointers; text is owned by this file.
#ifdef ALGM_PROBE_NVIDIA_HEADERS
#include <NvInferRuntime.h>
#else
#include "trt_abi.h"
#endif

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace trt = nvinfer1;

#define PROBE extern "C" __attribute__((visibility("default")))

namespace {

// An extent with a value; `symbolic` ones answer like extents that are known only when the engine runs.
class Expression final : public trt::IDimensionExpr {
 public:
  Expression(int64_t value, bool symbolic, bool sizeTensor) : mExpression(value, symbolic, sizeTensor) {
    mImpl = &mExpression;
  }
  Expression(Expression const&) = delete;
  ~Expression() noexcept override = default;

  struct Impl final : trt::apiv::VDimensionExpr {
    Impl(int64_t v, bool s, bool t) : value(v), symbolic(s), sizeTensor(t) {}
    bool isConstant() const override { return !symbolic; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return sizeTensor; }
    int64_t value;
    bool symbolic;
    bool sizeTensor;
  };
  Impl mExpression;
};

Expression::Impl const& look(trt::IDimensionExpr const* expression) {
  return static_cast<Expression const*>(expression)->mExpression;
}

// Computes with values as TensorRT does with expressions; refuses operations on size tensors as it does, and extents
// that no tensor has.
class Builder final : public trt::IExprBuilder {
 public:
  Builder() : mBuilder(*this) { mImpl = &mBuilder; }
  ~Builder() noexcept override = default;

  trt::IDimensionExpr const* make(int64_t value, bool symbolic, bool sizeTensor = false) {
    return &mExpressions.emplace_back(value, symbolic, sizeTensor);
  }

  int32_t sizeOutput{-1};
  int64_t sizeHint{-1};

 private:
  struct Impl final : trt::apiv::VExprBuilder {
    explicit Impl(Builder& owner) : mOwner(owner) {}
    trt::IDimensionExpr const* constant(int64_t value) override { return mOwner.make(value, false); }
    trt::IDimensionExpr const* operation(trt::DimensionOperation op, trt::IDimensionExpr const& first,
                                         trt::IDimensionExpr const& second) override {
      Expression::Impl const& a = look(&first);
      Expression::Impl const& b = look(&second);
      int64_t const value = apply(op, a.value, b.value);
      bool const refused = a.sizeTensor || b.sizeTensor || value > INT32_MAX;
      return refused ? nullptr : mOwner.make(value, a.symbolic || b.symbolic);
    }
    trt::IDimensionExpr const* declareSizeTensor(int32_t output, trt::IDimensionExpr const& opt,
                                                 trt::IDimensionExpr const& upper) override {
      mOwner.sizeOutput = output;
      mOwner.sizeHint = look(&opt).value;
      return look(&opt).sizeTensor ? nullptr : mOwner.make(look(&upper).value, true, true);
    }
    Builder& mOwner;
  };

  static int64_t apply(trt::DimensionOperation op, int64_t a, int64_t b) {
    switch (op) {
      case trt::DimensionOperation::kSUM:
        return a + b;
      case trt::DimensionOperation::kPROD:
        return a * b;
      case trt::DimensionOperation::kMAX:
        return std::max(a, b);
      case trt::DimensionOperation::kMIN:
        return std::min(a, b);
      case trt::DimensionOperation::kSUB:
        return a - b;
      case trt::DimensionOperation::kEQUAL:
        return a == b;
      case trt::DimensionOperation::kLESS:
        return a < b;
      case trt::DimensionOperation::kFLOOR_DIV:
        return a / b;
      case trt::DimensionOperation::kCEIL_DIV:
        return (a + b - 1) / b;
    }
    return -1;
  }

  std::deque<Expression> mExpressions;
  Impl mBuilder;
};

trt::IPluginV3OneCore* core(void* plugin) {
  return static_cast<trt::IPluginV3OneCore*>(
      static_cast<trt::IPluginV3*>(plugin)->getCapabilityInterface(trt::PluginCapabilityType::kCORE));
}

trt::IPluginV3OneBuild* build(void* plugin) {
  return static_cast<trt::IPluginV3OneBuild*>(
      static_cast<trt::IPluginV3*>(plugin)->getCapabilityInterface(trt::PluginCapabilityType::kBUILD));
}

trt::IPluginV3OneRuntime* runtime(void* plugin) {
  return static_cast<trt::IPluginV3OneRuntime*>(
      static_cast<trt::IPluginV3*>(plugin)->getCapabilityInterface(trt::PluginCapabilityType::kRUNTIME));
}

// Text that lives until the next call of the same thread.
char const* keep(std::string text) {
  thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

std::string fieldText(trt::PluginField const& field) {
  std::string text = std::string(field.name) + "=";
  for (int32_t i = 0; field.data != nullptr && i < field.length; ++i) {
    text += i == 0 ? "" : ",";
    text += field.type == trt::PluginFieldType::kINT32 ? std::to_string(static_cast<int32_t const*>(field.data)[i])
                                                       : std::to_string(static_cast<float const*>(field.data)[i]);
  }
  return text + ";";
}

std::vector<trt::DynamicPluginTensorDesc> descriptions(int32_t count, int32_t const* ranks, int64_t const* extents,
                                                       int32_t const* types, int32_t const* formats) {
  std::vector<trt::DynamicPluginTensorDesc> all(static_cast<size_t>(count));
  for (auto& tensor : all) {
    tensor = {};
    tensor.desc.type = static_cast<trt::DataType>(*types++);
    tensor.desc.format = static_cast<trt::TensorFormat>(formats == nullptr ? 0 : *formats++);
    tensor.max.nbDims = *ranks++;
    std::copy_n(extents, tensor.max.nbDims, tensor.max.d);
    extents += tensor.max.nbDims;
    tensor.desc.dims = tensor.min = tensor.opt = tensor.max;
  }
  return all;
}

std::vector<trt::PluginTensorDesc> plain(std::vector<trt::DynamicPluginTensorDesc> const& dynamic) {
  std::vector<trt::PluginTensorDesc> all;
  for (auto const& tensor : dynamic) {
    all.push_back(tensor.desc);
  }
  return all;
}

}  // namespace

PROBE void* probe_open(char const* path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }
PROBE char const* probe_open_error() { return keep(dlerror()); }

PROBE int32_t probe_creators(void* library, void** creators, int32_t room) {
  using GetCreators = trt::IPluginCreatorInterface* const* (*)(int32_t&);
  auto const getCreators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
  if (getCreators == nullptr) {
    return -1;
  }
  int32_t count = 0;
  trt::IPluginCreatorInterface* const* const found = getCreators(count);
  for (int32_t i = 0; i < std::min(count, room); ++i) {
    creators[i] = static_cast<trt::IPluginCreatorV3One*>(found[i]);
  }
  return count;
}

#ifdef ALGM_PROBE_NVIDIA_HEADERS
// The creators as a TensorRT library's own registry hands them out after it has loaded the plugin library. Answers the
// number of `names` that it knows, -1 without a registry, -2 when the headers are of another major version (the layout
// of the registry differs), -3 when it does not load the plugin library.
PROBE int32_t probe_registry(void* tensorrt, char const* plugins, char const* const* names, void** creators,
                             int32_t count) {
  auto const version = reinterpret_cast<int32_t (*)()>(dlsym(tensorrt, "getInferLibVersion"));
  auto const registry = reinterpret_cast<trt::IPluginRegistry* (*)()>(dlsym(tensorrt, "getPluginRegistry"));
  if (version == nullptr || registry == nullptr) {
    return -1;
  }
  if (version() / 10000 != NV_TENSORRT_MAJOR) {
    return -2;
  }
  if (registry()->loadLibrary(plugins) == nullptr) {
    return -3;
  }
  int32_t found = 0;
  for (int32_t i = 0; i < count; ++i) {
    creators[i] = static_cast<trt::IPluginCreatorV3One*>(registry()->getCreator(names[i], "1", "algm"));
    found += creators[i] != nullptr ? 1 : 0;
  }
  return found;
}
#endif

PROBE char const* probe_creator_identity(void* creator) {
  auto const& c = *static_cast<trt::IPluginCreatorV3One*>(creator);
  trt::InterfaceInfo const info = c.getInterfaceInfo();
  return keep(std::string(c.getPluginNamespace()) + "::" + c.getPluginName() + ":" + c.getPluginVersion() + " " +
              info.kind + " " + std::to_string(info.major) + "." + std::to_string(info.minor));
}

PROBE char const* probe_creator_fields(void* creator) {
  trt::PluginFieldCollection const& fields = *static_cast<trt::IPluginCreatorV3One*>(creator)->getFieldNames();
  std::string text;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    text += std::string(fields.fields[i].name) + ":" + std::to_string(static_cast<int32_t>(fields.fields[i].type)) +
            ":" + std::to_string(fields.fields[i].length) + ";";
  }
  return keep(text);
}

PROBE void* probe_create(void* creator, int32_t count, char const* const* names, int32_t const* types,
                         int32_t const* lengths, void const* const* data, int32_t phase) {
  std::vector<trt::PluginField> fields(static_cast<size_t>(count));
  for (size_t i = 0; i < fields.size(); ++i) {
    fields[i].name = names[i];
    fields[i].data = data[i];
    fields[i].type = static_cast<trt::PluginFieldType>(types[i]);
    fields[i].length = lengths[i];
  }
  trt::PluginFieldCollection const collection{count, fields.data()};
  return static_cast<trt::IPluginCreatorV3One*>(creator)->createPlugin("node", &collection,
                                                                       static_cast<trt::TensorRTPhase>(phase));
}

// What TensorRT does when it loads a plan: the stored fields, from memory of its own, to the creator.
PROBE void* probe_recreate(void* creator, void* plugin) {
  trt::PluginFieldCollection const& stored = *runtime(plugin)->getFieldsToSerialize();
  std::vector<trt::PluginField> fields(stored.fields, stored.fields + stored.nbFields);
  std::deque<std::string> bytes;
  for (auto& field : fields) {
    bytes.emplace_back(static_cast<char const*>(field.data), 4 * static_cast<size_t>(field.length));
    field.data = bytes.back().data();
  }
  trt::PluginFieldCollection const collection{stored.nbFields, fields.data()};
  return static_cast<trt::IPluginCreatorV3One*>(creator)->createPlugin("node", &collection,
                                                                       trt::TensorRTPhase::kRUNTIME);
}

PROBE void* probe_clone(void* plugin) { return static_cast<trt::IPluginV3*>(plugin)->clone(); }
PROBE void* probe_attach(void* plugin) { return runtime(plugin)->attachToContext(nullptr); }
PROBE void probe_delete(void* plugin) { delete static_cast<trt::IPluginV3*>(plugin); }

PROBE char const* probe_identity(void* plugin) {
  auto const& c = *core(plugin);
  return keep(std::string(c.getPluginNamespace()) + "::" + c.getPluginName() + ":" + c.getPluginVersion());
}

PROBE char const* probe_fields(void* plugin) {
  trt::PluginFieldCollection const& fields = *runtime(plugin)->getFieldsToSerialize();
  std::string text;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    text += fieldText(fields.fields[i]);
  }
  return keep(text);
}

PROBE char const* probe_timing_id(void* plugin) { return keep(build(plugin)->getTimingCacheID()); }
PROBE int32_t probe_nb_outputs(void* plugin) { return build(plugin)->getNbOutputs(); }
PROBE int32_t probe_nb_tactics(void* plugin) { return build(plugin)->getNbTactics(); }
PROBE int32_t probe_set_tactic(void* plugin, int32_t tactic) { return runtime(plugin)->setTactic(tactic); }

PROBE int32_t probe_types(void* plugin, int32_t const* in, int32_t nbIn, int32_t* out, int32_t nbOut) {
  static_assert(sizeof(trt::DataType) == sizeof(int32_t));
  return build(plugin)->getOutputDataTypes(reinterpret_cast<trt::DataType*>(out), nbOut,
                                           reinterpret_cast<trt::DataType const*>(in), nbIn);
}

PROBE int32_t probe_format(void* plugin, int32_t pos, int32_t const* types, int32_t const* formats, int32_t nbIn,
                           int32_t nbOut) {
  std::vector<int32_t> const ranks(static_cast<size_t>(nbIn + nbOut), 0);
  auto const tensors = descriptions(nbIn + nbOut, ranks.data(), nullptr, types, formats);
  return build(plugin)->supportsFormatCombination(pos, tensors.data(), nbIn, nbOut);
}

// Output shapes for input extents; a negative extent -n is a symbolic one of value n. `outExtents` has 8 places for
// each output; `sizeInfo` becomes the size tensor's output, its hint, and a bit mask of the outputs that it sizes.
PROBE int32_t probe_shapes(void* plugin, int32_t nbIn, int32_t const* ranks, int64_t const* extents, int32_t nbOut,
                           int32_t* outRanks, int64_t* outExtents, int64_t* sizeInfo) {
  Builder builder;
  std::vector<trt::DimsExprs> in(static_cast<size_t>(nbIn));
  for (auto& tensor : in) {
    tensor.nbDims = *ranks++;
    for (int32_t i = 0; i < tensor.nbDims; ++i, ++extents) {
      tensor.d[i] = builder.make(*extents < 0 ? -*extents : *extents, *extents < 0);
    }
  }
  std::vector<trt::DimsExprs> out(static_cast<size_t>(nbOut));
  int32_t const status = build(plugin)->getOutputShapes(in.data(), nbIn, nullptr, 0, out.data(), nbOut, builder);
  sizeInfo[0] = builder.sizeOutput;
  sizeInfo[1] = builder.sizeHint;
  sizeInfo[2] = 0;
  for (int32_t o = 0; status == 0 && o < nbOut; ++o) {
    trt::DimsExprs const& tensor = out[static_cast<size_t>(o)];
    outRanks[o] = tensor.nbDims;
    for (int32_t i = 0; i < tensor.nbDims; ++i) {
      outExtents[8 * o + i] = look(tensor.d[i]).value;
      sizeInfo[2] |= look(tensor.d[i]).sizeTensor ? int64_t{1} << o : 0;
    }
  }
  return status;
}

PROBE size_t probe_workspace(void* plugin, int32_t nbIn, int32_t const* ranks, int64_t const* extents,
                             int32_t const* types, int32_t nbOut) {
  auto const in = descriptions(nbIn, ranks, extents, types, nullptr);
  std::vector<trt::DynamicPluginTensorDesc> const out(static_cast<size_t>(nbOut));
  return build(plugin)->getWorkspaceSize(in.data(), nbIn, out.data(), nbOut);
}

PROBE int32_t probe_configure(void* plugin, int32_t nbIn, int32_t const* ranks, int64_t const* extents,
                              int32_t const* types, int32_t nbOut) {
  auto const in = descriptions(nbIn, ranks, extents, types, nullptr);
  std::vector<trt::DynamicPluginTensorDesc> const out(static_cast<size_t>(nbOut));
  return build(plugin)->configurePlugin(in.data(), nbIn, out.data(), nbOut);
}

PROBE int32_t probe_shape_change(void* plugin, int32_t nbIn, int32_t const* ranks, int64_t const* extents,
                                 int32_t const* types, int32_t nbOut) {
  auto const in = plain(descriptions(nbIn, ranks, extents, types, nullptr));
  std::vector<trt::PluginTensorDesc> const out(static_cast<size_t>(nbOut));
  return runtime(plugin)->onShapeChange(in.data(), nbIn, out.data(), nbOut);
}

PROBE int32_t probe_enqueue(void* plugin, int32_t nbIn, int32_t const* ranks, int64_t const* extents,
                            int32_t const* types, int32_t nbOut, void const* const* inputs, void* const* outputs,
                            void* workspace, void* stream) {
  auto const in = plain(descriptions(nbIn, ranks, extents, types, nullptr));
  std::vector<trt::PluginTensorDesc> const out(static_cast<size_t>(nbOut));
  return runtime(plugin)->enqueue(in.data(), out.data(), inputs, outputs, workspace, static_cast<cudaStream_t>(stream));
}
