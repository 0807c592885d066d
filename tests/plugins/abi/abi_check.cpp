// The order of virtual functions in plugins/native/plugin/trt_abi.h against NVIDIA's headers: every method of our
// objects is called through NVIDIA's types, every method of NVIDIA's expressions through ours.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include <cstdio>
#include <cstring>

#include "abi_objects.h"

namespace nv = nvinfer1;

char const* gReached = "";

namespace {

int gChecks = 0;
int gFailures = 0;

void expect(char const* what, bool good) {
  ++gChecks;
  if (!good) {
    ++gFailures;
    std::printf("FAILED: %s (reached '%s')\n", what, gReached);
  }
}

// Kind and version of an interface object must be what NVIDIA's own class of that interface says.
template <typename Nv>
void checkInfo(Nv* object, char const* kind) {
  nv::InterfaceInfo const ours = object->getInterfaceInfo();
  nv::InterfaceInfo const theirs = object->Nv::getInterfaceInfo();
  expect(kind, std::strcmp(ours.kind, theirs.kind) == 0 && ours.major == theirs.major && ours.minor == theirs.minor);
  expect(kind, object->getAPILanguage() == nv::APILanguage::kCPP);
}

void checkCore() {
  auto* const core = static_cast<nv::IPluginV3OneCore*>(makeCore());
  checkInfo(core, "core info");
  expectReached("getPluginName", core->getPluginName() == address<char>(161));
  expectReached("getPluginVersion", core->getPluginVersion() == address<char>(162));
  expectReached("getPluginNamespace", core->getPluginNamespace() == address<char>(163));
}

void checkBuild() {
  auto* const build = static_cast<nv::IPluginV3OneBuild*>(makeBuild());
  auto* const in = address<nv::DynamicPluginTensorDesc>(16);
  auto* const out = address<nv::DynamicPluginTensorDesc>(32);
  checkInfo(build, "build info");
  expectReached("configurePlugin", build->configurePlugin(in, 2, out, 3) == 1);
  expectReached("getOutputDataTypes",
                build->getOutputDataTypes(address<nv::DataType>(16), 2, address<nv::DataType>(32), 3) == 1);
  expectReached("getOutputShapes",
                build->getOutputShapes(address<nv::DimsExprs>(16), 2, address<nv::DimsExprs>(32), 3,
                                       address<nv::DimsExprs>(48), 4, *address<nv::IExprBuilder>(64)) == 1);
  expectReached("supportsFormatCombination", build->supportsFormatCombination(1, in, 2, 3));
  expectReached("getNbOutputs", build->getNbOutputs() == 17);
  expectReached("getWorkspaceSize", build->getWorkspaceSize(in, 2, out, 3) == size_t{1} << 33);
  expectReached("getValidTactics", build->getValidTactics(address<int32_t>(16), 2) == 1);
  expectReached("getNbTactics", build->getNbTactics() == 18);
  expectReached("getTimingCacheID", build->getTimingCacheID() == address<char>(164));
  expectReached("getFormatCombinationLimit", build->getFormatCombinationLimit() == 19);
  expectReached("getMetadataString", build->getMetadataString() == address<char>(165));
}

void checkRuntime() {
  auto* const runtime = static_cast<nv::IPluginV3OneRuntime*>(makeRuntime());
  auto* const in = address<nv::PluginTensorDesc>(16);
  auto* const out = address<nv::PluginTensorDesc>(32);
  checkInfo(runtime, "runtime info");
  expectReached("setTactic", runtime->setTactic(21) == 21);
  expectReached("onShapeChange", runtime->onShapeChange(in, 2, out, 3) == 1);
  expectReached("enqueue", runtime->enqueue(in, out, address<void const*>(48), address<void*>(64), address<void>(80),
                                            address<CUstream_st>(96)) == 1);
  expectReached("attachToContext",
                runtime->attachToContext(address<nv::IPluginResourceContext>(112)) == address<nv::IPluginV3>(112));
  expectReached("getFieldsToSerialize", runtime->getFieldsToSerialize() == address<nv::PluginFieldCollection>(112));
}

void checkPlugin() {
  bool deleted = false;
  auto* const plugin = static_cast<nv::IPluginV3*>(makePlugin(&deleted));
  checkInfo(plugin, "plugin info");
  expectReached("getCapabilityInterface", plugin->getCapabilityInterface(nv::PluginCapabilityType::kRUNTIME) ==
                                              address<nv::IPluginCapability>(18));
  expectReached("clone", plugin->clone() == address<nv::IPluginV3>(32));
  delete plugin;
  expect("destructor", deleted);
}

void checkCreator() {
  auto* const creator = static_cast<nv::IPluginCreatorV3One*>(makeCreator());
  auto* const fields = address<nv::PluginFieldCollection>(32);
  checkInfo(creator, "creator info");
  expectReached("createPlugin", creator->createPlugin(address<char>(16), fields, nv::TensorRTPhase::kRUNTIME) ==
                                    address<nv::IPluginV3>(48));
  expectReached("getFieldNames", creator->getFieldNames() == address<nv::PluginFieldCollection>(64));
  expectReached("getPluginName", creator->getPluginName() == address<char>(161));
  expectReached("getPluginVersion", creator->getPluginVersion() == address<char>(162));
  expectReached("getPluginNamespace", creator->getPluginNamespace() == address<char>(163));
}

struct ExpressionImpl final : nv::apiv::VDimensionExpr {
  bool isConstant() const override { return reached("isConstant", true); }
  int64_t getConstantValue() const override { return reached("getConstantValue", int64_t{1} << 40); }
  bool isSizeTensor() const override { return reached("isSizeTensor", true); }
};

struct Expression final : nv::IDimensionExpr {
  Expression() { mImpl = &mExpression; }
  ~Expression() noexcept override = default;
  ExpressionImpl mExpression;
};

struct BuilderImpl final : nv::apiv::VExprBuilder {
  nv::IDimensionExpr const* constant(int64_t value) override {
    return reached("constant", address<nv::IDimensionExpr>(value));
  }
  nv::IDimensionExpr const* operation(nv::DimensionOperation op, nv::IDimensionExpr const& first,
                                      nv::IDimensionExpr const& second) override {
    bool const good =
        op == nv::DimensionOperation::kCEIL_DIV && &first == address<void>(16) && &second == address<void>(32);
    return reached("operation", address<nv::IDimensionExpr>(good ? 48 : 0));
  }
  nv::IDimensionExpr const* declareSizeTensor(int32_t output, nv::IDimensionExpr const& opt,
                                              nv::IDimensionExpr const& upper) override {
    bool const good = output == 4 && &opt == address<void>(16) && &upper == address<void>(32);
    return reached("declareSizeTensor", address<nv::IDimensionExpr>(good ? 64 : 0));
  }
};

struct Builder final : nv::IExprBuilder {
  Builder() { mImpl = &mBuilder; }
  ~Builder() noexcept override = default;
  BuilderImpl mBuilder;
};

void checkExpressions() {
  Expression expression;
  callExpression(static_cast<nv::IDimensionExpr const*>(&expression));
  Builder builder;
  callBuilder(static_cast<nv::IExprBuilder*>(&builder));
}

}  // namespace

void expectReached(char const* method, bool good) {
  expect(method, good && std::strcmp(gReached, method) == 0);
  gReached = "";
}

int main() {
  checkCore();
  checkBuild();
  checkRuntime();
  checkPlugin();
  checkCreator();
  checkExpressions();
  std::printf("TensorRT headers %d.%d: %d checks, %d failures\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, gChecks,
              gFailures);
  return gFailures == 0 ? 0 : 1;
}
