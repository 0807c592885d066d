// Objects of our declaration that record which method was reached, and calls of NVIDIA's objects through our
// declaration. In a file of its own: a compiler that sees both declarations may conclude that the calls cannot happen.
#include "abi_objects.h"

#include "trt_abi.h"

namespace our = ALGM_TRT_NAMESPACE;

namespace {

struct OurCore final : our::IPluginV3OneCore {
  char const* getPluginName() const noexcept override { return reached("getPluginName", address<char const>(161)); }
  char const* getPluginVersion() const noexcept override {
    return reached("getPluginVersion", address<char const>(162));
  }
  char const* getPluginNamespace() const noexcept override {
    return reached("getPluginNamespace", address<char const>(163));
  }
};

struct OurBuild final : our::IPluginV3OneBuild {
  int32_t configurePlugin(our::DynamicPluginTensorDesc const* in, int32_t nbIn, our::DynamicPluginTensorDesc const* out,
                          int32_t nbOut) noexcept override {
    return reached("configurePlugin", in == address<void>(16) && nbIn == 2 && out == address<void>(32) && nbOut == 3);
  }
  int32_t getOutputDataTypes(our::DataType* out, int32_t nbOut, our::DataType const* in,
                             int32_t nbIn) const noexcept override {
    return reached("getOutputDataTypes",
                   out == address<void>(16) && nbOut == 2 && in == address<void>(32) && nbIn == 3);
  }
  int32_t getOutputShapes(our::DimsExprs const* in, int32_t nbIn, our::DimsExprs const* shapes, int32_t nbShapes,
                          our::DimsExprs* out, int32_t nbOut, our::IExprBuilder& builder) noexcept override {
    return reached("getOutputShapes", in == address<void>(16) && nbIn == 2 && shapes == address<void>(32) &&
                                          nbShapes == 3 && out == address<void>(48) && nbOut == 4 &&
                                          &builder == address<void>(64));
  }
  bool supportsFormatCombination(int32_t pos, our::DynamicPluginTensorDesc const* inOut, int32_t nbIn,
                                 int32_t nbOut) noexcept override {
    return reached("supportsFormatCombination", pos == 1 && inOut == address<void>(16) && nbIn == 2 && nbOut == 3);
  }
  int32_t getNbOutputs() const noexcept override { return reached("getNbOutputs", 17); }
  size_t getWorkspaceSize(our::DynamicPluginTensorDesc const* in, int32_t nbIn, our::DynamicPluginTensorDesc const* out,
                          int32_t nbOut) const noexcept override {
    bool const good = in == address<void>(16) && nbIn == 2 && out == address<void>(32) && nbOut == 3;
    return reached("getWorkspaceSize", good ? size_t{1} << 33 : 0);
  }
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override {
    return reached("getValidTactics", tactics == address<void>(16) && count == 2);
  }
  int32_t getNbTactics() noexcept override { return reached("getNbTactics", 18); }
  char const* getTimingCacheID() noexcept override { return reached("getTimingCacheID", address<char const>(164)); }
  int32_t getFormatCombinationLimit() noexcept override { return reached("getFormatCombinationLimit", 19); }
  char const* getMetadataString() noexcept override { return reached("getMetadataString", address<char const>(165)); }
};

struct OurRuntime final : our::IPluginV3OneRuntime {
  int32_t setTactic(int32_t tactic) noexcept override { return reached("setTactic", tactic); }
  int32_t onShapeChange(our::PluginTensorDesc const* in, int32_t nbIn, our::PluginTensorDesc const* out,
                        int32_t nbOut) noexcept override {
    return reached("onShapeChange", in == address<void>(16) && nbIn == 2 && out == address<void>(32) && nbOut == 3);
  }
  int32_t enqueue(our::PluginTensorDesc const* inDesc, our::PluginTensorDesc const* outDesc, void const* const* in,
                  void* const* out, void* workspace, cudaStream_t stream) noexcept override {
    return reached("enqueue", inDesc == address<void>(16) && outDesc == address<void>(32) && in == address<void>(48) &&
                                  out == address<void>(64) && workspace == address<void>(80) &&
                                  stream == address<void>(96));
  }
  our::IPluginV3* attachToContext(our::IPluginResourceContext* context) noexcept override {
    return reached("attachToContext", reinterpret_cast<our::IPluginV3*>(context));
  }
  our::PluginFieldCollection const* getFieldsToSerialize() noexcept override {
    return reached("getFieldsToSerialize", address<our::PluginFieldCollection>(112));
  }
};

struct OurPlugin final : our::IPluginV3 {
  explicit OurPlugin(bool& deleted) : mDeleted(deleted) {}
  ~OurPlugin() noexcept override { mDeleted = true; }
  our::IPluginCapability* getCapabilityInterface(our::PluginCapabilityType type) noexcept override {
    return reached("getCapabilityInterface", address<our::IPluginCapability>(16 + static_cast<int64_t>(type)));
  }
  our::IPluginV3* clone() noexcept override { return reached("clone", address<our::IPluginV3>(32)); }
  bool& mDeleted;
};

struct OurCreator final : our::IPluginCreatorV3One {
  our::IPluginV3* createPlugin(char const* name, our::PluginFieldCollection const* fields,
                               our::TensorRTPhase phase) noexcept override {
    bool const good = name == address<char>(16) && fields == address<void>(32) && phase == our::TensorRTPhase::kRUNTIME;
    return reached("createPlugin", address<our::IPluginV3>(good ? 48 : 0));
  }
  our::PluginFieldCollection const* getFieldNames() noexcept override {
    return reached("getFieldNames", address<our::PluginFieldCollection>(64));
  }
  char const* getPluginName() const noexcept override { return reached("getPluginName", address<char const>(161)); }
  char const* getPluginVersion() const noexcept override {
    return reached("getPluginVersion", address<char const>(162));
  }
  char const* getPluginNamespace() const noexcept override {
    return reached("getPluginNamespace", address<char const>(163));
  }
};

}  // namespace

void* makeCore() { return static_cast<our::IPluginV3OneCore*>(new OurCore); }
void* makeBuild() { return static_cast<our::IPluginV3OneBuild*>(new OurBuild); }
void* makeRuntime() { return static_cast<our::IPluginV3OneRuntime*>(new OurRuntime); }
void* makePlugin(bool* deleted) { return static_cast<our::IPluginV3*>(new OurPlugin(*deleted)); }
void* makeCreator() { return static_cast<our::IPluginCreatorV3One*>(new OurCreator); }

void callExpression(void const* object) {
  auto const& expression = *static_cast<our::IDimensionExpr const*>(object);
  expectReached("isConstant", expression.isConstant());
  expectReached("getConstantValue", expression.getConstantValue() == int64_t{1} << 40);
  expectReached("isSizeTensor", expression.isSizeTensor());
}

void callBuilder(void* object) {
  using Expression = our::IDimensionExpr;
  auto& builder = *static_cast<our::IExprBuilder*>(object);
  Expression const& first = *address<Expression>(16);
  Expression const& second = *address<Expression>(32);
  expectReached("constant", builder.constant(96) == address<Expression>(96));
  expectReached("operation",
                builder.operation(our::DimensionOperation::kCEIL_DIV, first, second) == address<Expression>(48));
  expectReached("declareSizeTensor", builder.declareSizeTensor(4, first, second) == address<Expression>(64));
}
