// Sizes, offsets and enumerators of plugins/native/plugin/trt_abi.h against NVIDIA's headers, at compile time.
// CMake names our namespace algm_abi here, so that both declarations fit into one file.
#include <NvInferRuntime.h>

#include <cstddef>

#include "trt_abi.h"

namespace nv = nvinfer1;
namespace our = algm_abi;

#define SAME_SIZE(type)                                                \
  static_assert(sizeof(our::type) == sizeof(nv::type), #type " size"); \
  static_assert(alignof(our::type) == alignof(nv::type), #type " alignment")
#define SAME_MEMBER(type, member)                                                                    \
  static_assert(offsetof(our::type, member) == offsetof(nv::type, member), #type "." #member " at"); \
  static_assert(sizeof(our::type::member) == sizeof(nv::type::member), #type "." #member " size")
#define SAME_VALUE(type, value)                                                                                      \
  static_assert(static_cast<int64_t>(our::type::value) == static_cast<int64_t>(nv::type::value), #type "::" #value); \
  static_assert(sizeof(our::type) == sizeof(nv::type), #type " size")

SAME_SIZE(Dims);
SAME_MEMBER(Dims, nbDims);
SAME_MEMBER(Dims, d);
static_assert(our::Dims::MAX_DIMS == nv::Dims::MAX_DIMS);

SAME_SIZE(PluginTensorDesc);
SAME_MEMBER(PluginTensorDesc, dims);
SAME_MEMBER(PluginTensorDesc, type);
SAME_MEMBER(PluginTensorDesc, format);
SAME_MEMBER(PluginTensorDesc, scale);

SAME_SIZE(DynamicPluginTensorDesc);
SAME_MEMBER(DynamicPluginTensorDesc, desc);
SAME_MEMBER(DynamicPluginTensorDesc, min);
SAME_MEMBER(DynamicPluginTensorDesc, max);
SAME_MEMBER(DynamicPluginTensorDesc, opt);

SAME_SIZE(PluginField);
SAME_MEMBER(PluginField, name);
SAME_MEMBER(PluginField, data);
SAME_MEMBER(PluginField, type);
SAME_MEMBER(PluginField, length);

SAME_SIZE(PluginFieldCollection);
SAME_MEMBER(PluginFieldCollection, nbFields);
SAME_MEMBER(PluginFieldCollection, fields);

SAME_SIZE(InterfaceInfo);
SAME_MEMBER(InterfaceInfo, kind);
SAME_MEMBER(InterfaceInfo, major);
SAME_MEMBER(InterfaceInfo, minor);

SAME_SIZE(DimsExprs);
SAME_MEMBER(DimsExprs, nbDims);
SAME_MEMBER(DimsExprs, d);
SAME_SIZE(IDimensionExpr);
SAME_SIZE(IExprBuilder);
SAME_SIZE(IVersionedInterface);
SAME_SIZE(IPluginCapability);
SAME_SIZE(IPluginV3);
SAME_SIZE(IPluginV3OneCore);
SAME_SIZE(IPluginV3OneBuild);
SAME_SIZE(IPluginV3OneRuntime);
SAME_SIZE(IPluginCreatorInterface);
SAME_SIZE(IPluginCreatorV3One);

SAME_VALUE(DataType, kFLOAT);
SAME_VALUE(DataType, kHALF);
SAME_VALUE(DataType, kINT8);
SAME_VALUE(DataType, kINT32);
SAME_VALUE(DataType, kBOOL);
SAME_VALUE(DataType, kUINT8);
SAME_VALUE(DataType, kFP8);
SAME_VALUE(DataType, kBF16);
SAME_VALUE(DataType, kINT64);
SAME_VALUE(TensorFormat, kLINEAR);
SAME_VALUE(DimensionOperation, kSUM);
SAME_VALUE(DimensionOperation, kPROD);
SAME_VALUE(DimensionOperation, kMAX);
SAME_VALUE(DimensionOperation, kMIN);
SAME_VALUE(DimensionOperation, kSUB);
SAME_VALUE(DimensionOperation, kEQUAL);
SAME_VALUE(DimensionOperation, kLESS);
SAME_VALUE(DimensionOperation, kFLOOR_DIV);
SAME_VALUE(DimensionOperation, kCEIL_DIV);
SAME_VALUE(PluginFieldType, kFLOAT16);
SAME_VALUE(PluginFieldType, kFLOAT32);
SAME_VALUE(PluginFieldType, kFLOAT64);
SAME_VALUE(PluginFieldType, kINT8);
SAME_VALUE(PluginFieldType, kINT16);
SAME_VALUE(PluginFieldType, kINT32);
SAME_VALUE(PluginFieldType, kCHAR);
SAME_VALUE(PluginFieldType, kDIMS);
SAME_VALUE(PluginFieldType, kUNKNOWN);
SAME_VALUE(PluginFieldType, kBF16);
SAME_VALUE(PluginFieldType, kINT64);
SAME_VALUE(TensorRTPhase, kBUILD);
SAME_VALUE(TensorRTPhase, kRUNTIME);
SAME_VALUE(PluginCapabilityType, kCORE);
SAME_VALUE(PluginCapabilityType, kBUILD);
SAME_VALUE(PluginCapabilityType, kRUNTIME);
SAME_VALUE(APILanguage, kCPP);
SAME_VALUE(APILanguage, kPYTHON);
