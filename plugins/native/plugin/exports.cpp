// The two functions by which TensorRT's registry finds the plugins of a library that it loads.
#include "merge_ops.h"
#include "packed_ops.h"

extern "C" __attribute__((visibility("default"))) ALGM_TRT_NAMESPACE::IPluginCreatorInterface* const* getCreators(
    int32_t& nbCreators) {
  static algm::plugin::Creator<algm::plugin::LocalMerge> localMerge;
  static algm::plugin::Creator<algm::plugin::GlobalMerge> globalMerge;
  static algm::plugin::Creator<algm::plugin::PackedAttention> packedAttention;
  static algm::plugin::Creator<algm::plugin::AppendTokens> appendTokens;
  static algm::plugin::Creator<algm::plugin::Unmerge> unmerge;
  static algm::plugin::Creator<algm::plugin::Labels> labels;
  static ALGM_TRT_NAMESPACE::IPluginCreatorInterface* const creators[] = {&localMerge,   &globalMerge, &packedAttention,
                                                                          &appendTokens, &unmerge,     &labels};
  nbCreators = static_cast<int32_t>(std::size(creators));
  return creators;
}

// The logger's interface differs between TensorRT 10 and 11; the plugins report on stderr instead (report.h).
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(ALGM_TRT_NAMESPACE::ILoggerFinder*) {}

#ifndef ALGM_SOURCES
#define ALGM_SOURCES ""
#endif
// Digest of the sources that algm-build-plugins compiled; "" where something else did. See sources_digest of build.py.
extern "C" __attribute__((visibility("default"))) char const* algm_sources(void) { return ALGM_SOURCES; }
