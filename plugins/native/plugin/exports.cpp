// The two functions by which TensorRT's registry finds the plugins of a library that it loads.
#include "merge_ops.h"
#include "packed_ops.h"

extern "C" __attribute__((visibility("default"))) ALGM_TRT_NAMESPACE::IPluginCreatorInterface* const* getCreators(
    int32_t& nbCreators) {
  static algm::Creator<algm::LocalMerge> localMerge;
  static algm::Creator<algm::GlobalMerge> globalMerge;
  static algm::Creator<algm::PackedAttention> packedAttention;
  static algm::Creator<algm::AppendTokens> appendTokens;
  static algm::Creator<algm::Unmerge> unmerge;
  static algm::Creator<algm::Labels> labels;
  static ALGM_TRT_NAMESPACE::IPluginCreatorInterface* const creators[] = {&localMerge,   &globalMerge, &packedAttention,
                                                                          &appendTokens, &unmerge,     &labels};
  nbCreators = static_cast<int32_t>(std::size(creators));
  return creators;
}

// The logger's interface differs between TensorRT 10 and 11; the plugins report on stderr instead (report.h).
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(ALGM_TRT_NAMESPACE::ILoggerFinder*) {}
