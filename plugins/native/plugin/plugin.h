// The one plugin class: what TensorRT asks of every operator, answered from the operator's description.
//
// An operator is a struct with
//   Attributes                     plain struct of int32_t and float members
//   kNAME, kFIELDS                 ONNX op_type, table of attributes
//   kINPUTS, kOUTPUTS              tables of tensors
//   shapes(attributes, in, out, math)
//   Params                         the kernels' parameters (algm.h)
//   params(attributes, dtype, in)  filled for these input extents
//   kWORKSPACE                     the kernels' workspace query
//   launch(params, inputs, outputs, workspace, bytes, stream)
// and, where the answers of OpDefaults are not its own, valid, accepts and nbOutputs.
// The library holds one binary for all TensorRT versions, so nothing here calls into TensorRT's registry or logger.
#pragma once

#include <cstdio>
#include <iterator>
#include <new>

#include "algm.h"
#include "common/validity.h"
#include "fields.h"
#include "report.h"
#include "shape_math.h"
#include "trt_abi.h"

namespace algm::plugin {

using namespace ALGM_TRT_NAMESPACE;

constexpr char const* kNAMESPACE = "algm";
constexpr char const* kVERSION = "1";

// Type of a tensor: that of the activations (float32 or float16, the type of input 0), or a fixed one.
enum class TensorKind : int32_t { kACTIVATION, kFLOAT32, kINT32 };

struct TensorRule {
  char const* name;
  TensorKind kind;
  int32_t rank;
};

// Answers that most operators share.
template <typename Op>
struct OpDefaults {
  // Whether the attributes, each within its bounds, fit together.
  template <typename Attributes>
  static bool valid(Attributes const&) noexcept {
    return true;
  }
  // Whether attributes and input extents fit together; -1 stands for an extent that is not known yet.
  template <typename Attributes>
  static bool accepts(Attributes const&, Dims const*) noexcept {
    return true;
  }
  template <typename Attributes>
  static int32_t nbOutputs(Attributes const&) noexcept {
    return static_cast<int32_t>(std::size(Op::kOUTPUTS));
  }
};

// The kernels count in 32 bits. An extent that does not fit becomes one that they refuse.
inline int32_t narrow(int64_t extent) noexcept {
  return extent >= 0 && extent <= INT32_MAX ? static_cast<int32_t>(extent) : -1;
}

// Whether two extents that must be equal are; one that is not known yet (-1) may be anything. Reports `rule` otherwise.
inline bool agree(char const* op, char const* rule, int64_t first, int64_t second) noexcept {
  bool const good = first < 0 || second < 0 || first == second;
  if (!good) {
    reportError("%s: %s; found %lld and %lld", op, rule, static_cast<long long>(first), static_cast<long long>(second));
  }
  return good;
}

// Text of the extents of all tensors that have any, such as " x=70x64 sizes=70", cut at `size` bytes.
inline void describeShapes(TensorRule const* tensors, int32_t count, Dims const* shapes, char* text,
                           size_t size) noexcept {
  size_t used = 0;
  for (int32_t i = 0; i < count; ++i) {
    for (int32_t k = 0; k < shapes[i].nbDims && used < size; ++k) {
      used += static_cast<size_t>(std::snprintf(text + used, size - used, "%s%s%s%lld", k == 0 ? " " : "",
                                                k == 0 ? tensors[i].name : "", k == 0 ? "=" : "x",
                                                static_cast<long long>(shapes[i].d[k])));
    }
  }
}

// Images that `cu_seqlens` describes; -1 when that is not known.
inline int64_t imagesOf(Dims const& cuSeqlens) noexcept { return cuSeqlens.d[0] < 0 ? -1 : cuSeqlens.d[0] - 1; }

template <typename Op>
class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  using Attributes = typename Op::Attributes;
  static constexpr int32_t kNB_INPUTS = static_cast<int32_t>(std::size(Op::kINPUTS));
  static constexpr int32_t kNB_FIELDS = static_cast<int32_t>(std::size(Op::kFIELDS));

  explicit Plugin(Attributes const& attributes) noexcept : mAttributes(attributes) {
    writeFields(Op::kFIELDS, kNB_FIELDS, &mAttributes, mFields);
    int const used = std::snprintf(mText, sizeof(mText), "%d:", algm_version());
    describeFields(Op::kFIELDS, kNB_FIELDS, &mAttributes, mText + used, sizeof(mText) - static_cast<size_t>(used));
  }

  // The field table points into the object: a copy is always made from the attributes.
  Plugin(Plugin const&) = delete;
  Plugin& operator=(Plugin const&) = delete;

  // IPluginV3

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE:
        return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD:
        return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME:
        return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(mAttributes); }

  // IPluginV3OneCore

  AsciiChar const* getPluginName() const noexcept override { return Op::kNAME; }
  AsciiChar const* getPluginVersion() const noexcept override { return kVERSION; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNAMESPACE; }

  // IPluginV3OneBuild

  int32_t getNbOutputs() const noexcept override { return Op::nbOutputs(mAttributes); }

  int32_t getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes,
                             int32_t nbInputs) const noexcept override {
    if (!countsFit(nbInputs, nbOutputs)) {
      return 1;
    }
    for (int32_t i = 0; i < nbOutputs; ++i) {
      outputTypes[i] = typeOf(Op::kOUTPUTS[i].kind, inputTypes[0]);
    }
    return 0;
  }

  int32_t getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*, int32_t, DimsExprs* outputs,
                          int32_t nbOutputs, IExprBuilder& exprBuilder) noexcept override {
    if (!countsFit(nbInputs, nbOutputs)) {
      return 1;
    }
    Dims known[kNB_INPUTS];
    for (int32_t i = 0; i < kNB_INPUTS; ++i) {
      known[i] = knownExtents(inputs[i]);
    }
    if (!accepted(known)) {
      return 1;
    }
    for (int32_t i = 0; i < nbOutputs; ++i) {
      outputs[i].nbDims = Op::kOUTPUTS[i].rank;
    }
    ShapeMath math(exprBuilder);
    Op::shapes(mAttributes, inputs, outputs, math);
    if (!math.ok()) {
      reportError("%s: TensorRT refused the expression of an output's shape", Op::kNAME);
    }
    return math.ok() ? 0 : 1;
  }

  bool supportsFormatCombination(int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
                                 int32_t nbOutputs) noexcept override {
    if (!countsFit(nbInputs, nbOutputs) || pos < 0 || pos >= nbInputs + nbOutputs) {
      return false;
    }
    PluginTensorDesc const& tensor = inOut[pos].desc;
    DataType const activation = inOut[0].desc.type;
    bool const activationFits = activation == DataType::kFLOAT || activation == DataType::kHALF;
    TensorKind const kind = pos < nbInputs ? Op::kINPUTS[pos].kind : Op::kOUTPUTS[pos - nbInputs].kind;
    return activationFits && tensor.format == TensorFormat::kLINEAR && tensor.type == typeOf(kind, activation);
  }

  int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs, DynamicPluginTensorDesc const*,
                          int32_t nbOutputs) noexcept override {
    Dims largest[kNB_INPUTS];
    return countsFit(nbInputs, nbOutputs) && accepted(maxima(in, largest)) && inRange(in[0].desc.type, largest) ? 0 : 1;
  }

  size_t getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t nbInputs, DynamicPluginTensorDesc const*,
                          int32_t) const noexcept override {
    if (nbInputs != kNB_INPUTS) {
      return 0;
    }
    Dims largest[kNB_INPUTS];
    typename Op::Params const params = Op::params(mAttributes, dtypeOf(inputs[0].desc.type), maxima(inputs, largest));
    return Op::kWORKSPACE(&params);
  }

  char const* getTimingCacheID() noexcept override { return mText; }
  char const* getMetadataString() noexcept override { return mText; }

  // IPluginV3OneRuntime

  int32_t onShapeChange(PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const*,
                        int32_t nbOutputs) noexcept override {
    if (!countsFit(nbInputs, nbOutputs)) {
      return 1;
    }
    Dims actual[kNB_INPUTS];
    return accepted(extents(in, actual)) ? 0 : 1;
  }

  int32_t enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    Dims actual[kNB_INPUTS];
    typename Op::Params const params = Op::params(mAttributes, dtypeOf(inputDesc[0].type), extents(inputDesc, actual));
    // What TensorRT reserved is for the largest shapes; these need no more.
    AlgmStatus const status = Op::launch(params, inputs, outputs, workspace, Op::kWORKSPACE(&params), stream);
    if (status == ALGM_CUDA_ERROR) {
      reportError("%s: %s: %s", Op::kNAME, algm_status_string(status), algm_last_cuda_error());
    } else if (status != ALGM_OK) {
      reportError("%s: %s", Op::kNAME, algm_status_string(status));
    }
    return static_cast<int32_t>(status);
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }

  PluginFieldCollection const* getFieldsToSerialize() noexcept override { return &mCollection; }

 private:
  static DataType typeOf(TensorKind kind, DataType activation) noexcept {
    switch (kind) {
      case TensorKind::kACTIVATION:
        return activation;
      case TensorKind::kFLOAT32:
        return DataType::kFLOAT;
      case TensorKind::kINT32:
        return DataType::kINT32;
    }
    return activation;
  }

  static int32_t dtypeOf(DataType type) noexcept { return type == DataType::kHALF ? ALGM_FLOAT16 : ALGM_FLOAT32; }

  bool countsFit(int32_t nbInputs, int32_t nbOutputs) const noexcept {
    bool const fit = nbInputs == kNB_INPUTS && nbOutputs == getNbOutputs();
    if (!fit) {
      reportError("%s: the node has %d inputs and %d outputs; it must have %d and %d", Op::kNAME, nbInputs, nbOutputs,
                  kNB_INPUTS, getNbOutputs());
    }
    return fit;
  }

  bool accepted(Dims const* in) const noexcept {
    for (int32_t i = 0; i < kNB_INPUTS; ++i) {
      if (in[i].nbDims != Op::kINPUTS[i].rank) {
        reportError("%s: input '%s' has %d dimensions; it must have %d", Op::kNAME, Op::kINPUTS[i].name, in[i].nbDims,
                    Op::kINPUTS[i].rank);
        return false;
      }
    }
    return Op::accepts(mAttributes, in);
  }

  // Whether the kernels can take inputs of the profile's largest shapes. If not, their workspace would be 0 bytes, and
  // only the first run would fail.
  bool inRange(DataType activation, Dims const* largest) const noexcept {
    typename Op::Params const params = Op::params(mAttributes, dtypeOf(activation), largest);
    if (isValid(&params)) {
      return true;
    }
    char text[256];
    describeShapes(Op::kINPUTS, kNB_INPUTS, largest, text, sizeof(text));
    reportError("%s: the kernels do not take the largest shapes of the profile:%s", Op::kNAME, text);
    return false;
  }

  static Dims knownExtents(DimsExprs const& expressions) noexcept {
    Dims dims{};
    dims.nbDims = expressions.nbDims;
    for (int32_t i = 0; i < expressions.nbDims && i < Dims::MAX_DIMS; ++i) {
      dims.d[i] = expressions.d[i]->isConstant() ? expressions.d[i]->getConstantValue() : -1;
    }
    return dims;
  }

  static Dims const* maxima(DynamicPluginTensorDesc const* in, Dims* out) noexcept {
    for (int32_t i = 0; i < kNB_INPUTS; ++i) {
      out[i] = in[i].max;
    }
    return out;
  }

  static Dims const* extents(PluginTensorDesc const* in, Dims* out) noexcept {
    for (int32_t i = 0; i < kNB_INPUTS; ++i) {
      out[i] = in[i].dims;
    }
    return out;
  }

  Attributes mAttributes;
  PluginField mFields[kNB_FIELDS];
  PluginFieldCollection mCollection{kNB_FIELDS, mFields};
  char mText[192];
};

// Makes plugins of one operator; every attribute is checked here, in both phases.
template <typename Op>
class Creator final : public IPluginCreatorV3One {
 public:
  Creator() noexcept { writeFields(Op::kFIELDS, kNB_FIELDS, nullptr, mFields); }

  IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* fields, TensorRTPhase) noexcept override {
    typename Op::Attributes attributes{};
    bool const good = readFields(Op::kNAME, Op::kFIELDS, kNB_FIELDS, fields, &attributes) && Op::valid(attributes);
    return good ? new (std::nothrow) Plugin<Op>(attributes) : nullptr;
  }
  PluginFieldCollection const* getFieldNames() noexcept override { return &mCollection; }
  AsciiChar const* getPluginName() const noexcept override { return Op::kNAME; }
  AsciiChar const* getPluginVersion() const noexcept override { return kVERSION; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNAMESPACE; }

 private:
  static constexpr int32_t kNB_FIELDS = Plugin<Op>::kNB_FIELDS;
  PluginField mFields[kNB_FIELDS];
  PluginFieldCollection mCollection{kNB_FIELDS, mFields};
};

}  // namespace algm::plugin
