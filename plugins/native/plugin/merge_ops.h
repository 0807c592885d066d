// AlgmLocalMerge and AlgmGlobalMerge for TensorRT: attributes, tensors, shapes, workspace, launch.
#pragma once

#include "plugin.h"

namespace algm::plugin {

struct LocalMerge : OpDefaults<LocalMerge> {
  struct Attributes {
    int32_t grid[2];
    int32_t window[2];
    int32_t extraTokens;
    float expectedKeep;
  };

  static constexpr char const* kNAME = "AlgmLocalMerge";
  static constexpr FieldRule kFIELDS[] = {
      integers("grid", 2, 1, 4096, offsetof(Attributes, grid)),
      integers("window", 2, 1, 64, offsetof(Attributes, window)),
      integers("extra_tokens", 1, 1, 2, offsetof(Attributes, extraTokens)),
      hint("expected_keep", 0.0, 1.0, offsetof(Attributes, expectedKeep), 1.0),
  };
  static constexpr TensorRule kINPUTS[] = {{"x", TensorKind::kACTIVATION, 3}, {"threshold", TensorKind::kFLOAT32, 0}};
  static constexpr TensorRule kOUTPUTS[] = {{"y", TensorKind::kACTIVATION, 2},
                                            {"sizes", TensorKind::kINT32, 1},
                                            {"cu_seqlens", TensorKind::kINT32, 1},
                                            {"token_map", TensorKind::kINT32, 2},
                                            {"count", TensorKind::kINT32, 0}};
  static constexpr int32_t kCOUNT = 4;

  static bool valid(Attributes const& a) noexcept {
    if (a.window[0] * a.window[1] < 2) {
      reportError("%s: attribute 'window' is 1x1; a window must hold at least two tokens", kNAME);
      return false;
    }
    if (a.grid[0] % a.window[0] != 0 || a.grid[1] % a.window[1] != 0) {
      reportError("%s: the window %dx%d does not divide the grid %dx%d", kNAME, a.window[0], a.window[1], a.grid[0],
                  a.grid[1]);
      return false;
    }
    return true;
  }

  static bool accepts(Attributes const& a, Dims const* in) noexcept {
    int64_t const tokens = a.extraTokens + gridTokens(a);
    if (in[0].d[1] >= 0 && in[0].d[1] != tokens) {
      reportError("%s: x has %lld tokens per image; a grid of %dx%d with %d extra tokens has %lld", kNAME,
                  static_cast<long long>(in[0].d[1]), a.grid[0], a.grid[1], a.extraTokens,
                  static_cast<long long>(tokens));
      return false;
    }
    return true;
  }

  static void shapes(Attributes const& a, DimsExprs const* in, DimsExprs* out, ShapeMath& math) noexcept {
    Extent const batch = in[0].d[0];
    Extent const all = math.product(batch, math.constant(a.extraTokens + gridTokens(a)));
    Extent const left = math.sizeTensor(kCOUNT, all, a.expectedKeep);
    out[0].d[0] = left;
    out[0].d[1] = in[0].d[2];
    out[1].d[0] = left;
    out[2].d[0] = math.sum(batch, math.constant(1));
    out[3].d[0] = batch;
    out[3].d[1] = math.constant(gridTokens(a));
  }

  static int64_t gridTokens(Attributes const& a) noexcept { return static_cast<int64_t>(a.grid[0]) * a.grid[1]; }

  using Params = AlgmLocalMergeParams;
  static constexpr auto kWORKSPACE = &algm_local_merge_workspace;

  static Params params(Attributes const& a, int32_t dtype, Dims const* in) noexcept {
    return {dtype,     narrow(in[0].d[0]), narrow(in[0].d[2]), a.grid[0],
            a.grid[1], a.window[0],        a.window[1],        a.extraTokens};
  }

  static AlgmStatus launch(Params const& params, void const* const* inputs, void* const* outputs, void* workspace,
                           size_t bytes, cudaStream_t stream) noexcept {
    return algm_local_merge(&params, inputs[0], static_cast<float const*>(inputs[1]), outputs[0],
                            static_cast<int32_t*>(outputs[1]), static_cast<int32_t*>(outputs[2]),
                            static_cast<int32_t*>(outputs[3]), static_cast<int32_t*>(outputs[kCOUNT]), workspace, bytes,
                            stream);
  }
};

struct GlobalMerge : OpDefaults<GlobalMerge> {
  struct Attributes {
    int32_t layer;
    int32_t extraTokens;
    int32_t maxTokens;
    float expectedKeep;
  };

  static constexpr char const* kNAME = "AlgmGlobalMerge";
  static constexpr FieldRule kFIELDS[] = {
      integers("layer", 1, 1, 1024, offsetof(Attributes, layer)),
      integers("extra_tokens", 1, 1, 2, offsetof(Attributes, extraTokens)),
      integers("max_tokens", 1, 1, 1 << 20, offsetof(Attributes, maxTokens)),
      hint("expected_keep", 0.0, 1.0, offsetof(Attributes, expectedKeep), 1.0),
  };
  static constexpr TensorRule kINPUTS[] = {{"x", TensorKind::kACTIVATION, 2},
                                           {"sizes", TensorKind::kINT32, 1},
                                           {"cu_seqlens", TensorKind::kINT32, 1},
                                           {"token_map", TensorKind::kINT32, 2}};
  static constexpr TensorRule kOUTPUTS[] = {{"y", TensorKind::kACTIVATION, 2},
                                            {"sizes", TensorKind::kINT32, 1},
                                            {"cu_seqlens", TensorKind::kINT32, 1},
                                            {"token_map", TensorKind::kINT32, 2},
                                            {"count", TensorKind::kINT32, 0}};
  static constexpr int32_t kCOUNT = 4;

  static bool accepts(Attributes const&, Dims const* in) noexcept {
    return agree(kNAME, "x and sizes must be of as many tokens", in[0].d[0], in[1].d[0]) &&
           agree(kNAME, "cu_seqlens and token_map must be of as many images", imagesOf(in[2]), in[3].d[0]);
  }

  static void shapes(Attributes const& a, DimsExprs const* in, DimsExprs* out, ShapeMath& math) noexcept {
    Extent const left = math.sizeTensor(kCOUNT, in[0].d[0], a.expectedKeep);
    out[0].d[0] = left;
    out[0].d[1] = in[0].d[1];
    out[1].d[0] = left;
    out[2].d[0] = in[2].d[0];
    out[3].d[0] = in[3].d[0];
    out[3].d[1] = in[3].d[1];
  }

  using Params = AlgmGlobalMergeParams;
  static constexpr auto kWORKSPACE = &algm_global_merge_workspace;

  static Params params(Attributes const& a, int32_t dtype, Dims const* in) noexcept {
    return {dtype,   narrow(in[3].d[0]), narrow(in[0].d[0]), narrow(in[0].d[1]), narrow(in[3].d[1]),
            a.layer, a.extraTokens,      a.maxTokens};
  }

  static AlgmStatus launch(Params const& params, void const* const* inputs, void* const* outputs, void* workspace,
                           size_t bytes, cudaStream_t stream) noexcept {
    return algm_global_merge(&params, inputs[0], static_cast<int32_t const*>(inputs[1]),
                             static_cast<int32_t const*>(inputs[2]), static_cast<int32_t const*>(inputs[3]), outputs[0],
                             static_cast<int32_t*>(outputs[1]), static_cast<int32_t*>(outputs[2]),
                             static_cast<int32_t*>(outputs[3]), static_cast<int32_t*>(outputs[kCOUNT]), workspace,
                             bytes, stream);
  }
};

}  // namespace algm::plugin
