// AlgmPackedAttention, AlgmAppendTokens, AlgmUnmerge and AlgmLabels for TensorRT.
#pragma once

#include "plugin.h"

namespace algm::plugin {

struct PackedAttention : OpDefaults<PackedAttention> {
  struct Attributes {
    int32_t heads;
    int32_t maxTokens;
  };

  static constexpr char const* kNAME = "AlgmPackedAttention";
  static constexpr FieldRule kFIELDS[] = {
      integers("heads", 1, 1, 1024, offsetof(Attributes, heads)),
      integers("max_tokens", 1, 1, 1 << 20, offsetof(Attributes, maxTokens)),
  };
  static constexpr TensorRule kINPUTS[] = {{"qkv", TensorKind::kACTIVATION, 2}, {"cu_seqlens", TensorKind::kINT32, 1}};
  static constexpr TensorRule kOUTPUTS[] = {{"y", TensorKind::kACTIVATION, 2}};

  static bool accepts(Attributes const& a, Dims const* in) noexcept {
    int64_t const width = in[0].d[1];
    if (width < 0) {
      return true;
    }
    for (int64_t const depth : {32, 48, 64, 80, 96, 128}) {
      if (width == 3 * a.heads * depth) {
        return true;
      }
    }
    reportError("%s: qkv has %lld channels, which is not 3 x %d heads x 32, 48, 64, 80, 96 or 128", kNAME,
                static_cast<long long>(width), a.heads);
    return false;
  }

  static void shapes(Attributes const&, DimsExprs const* in, DimsExprs* out, ShapeMath& math) noexcept {
    out[0].d[0] = in[0].d[0];
    out[0].d[1] = math.quotient(in[0].d[1], 3);
  }

  using Params = AlgmPackedAttentionParams;
  static constexpr auto kWORKSPACE = &algm_packed_attention_workspace;

  static Params params(Attributes const& a, int32_t dtype, Dims const* in) noexcept {
    return {dtype, narrow(imagesOf(in[1])), narrow(in[0].d[0]), narrow(in[0].d[1] / 3), a.heads, a.maxTokens};
  }

  static AlgmStatus launch(Params const& params, void const* const* inputs, void* const* outputs, void* workspace,
                           size_t bytes, cudaStream_t stream) noexcept {
    return algm_packed_attention(&params, inputs[0], static_cast<int32_t const*>(inputs[1]), outputs[0], workspace,
                                 bytes, stream);
  }
};

struct AppendTokens : OpDefaults<AppendTokens> {
  struct Attributes {
    int32_t drop;
  };

  static constexpr char const* kNAME = "AlgmAppendTokens";
  static constexpr FieldRule kFIELDS[] = {integers("drop", 1, 0, 2, offsetof(Attributes, drop))};
  static constexpr TensorRule kINPUTS[] = {
      {"x", TensorKind::kACTIVATION, 2}, {"cu_seqlens", TensorKind::kINT32, 1}, {"tokens", TensorKind::kACTIVATION, 2}};
  static constexpr TensorRule kOUTPUTS[] = {{"y", TensorKind::kACTIVATION, 2}, {"cu_seqlens", TensorKind::kINT32, 1}};

  static bool accepts(Attributes const&, Dims const* in) noexcept {
    return agree(kNAME, "x and tokens must have as many channels", in[0].d[1], in[2].d[1]);
  }

  static void shapes(Attributes const& a, DimsExprs const* in, DimsExprs* out, ShapeMath& math) noexcept {
    Extent const batch = math.difference(in[1].d[0], math.constant(1));
    Extent const step = math.difference(in[2].d[0], math.constant(a.drop));
    out[0].d[0] = math.sum(in[0].d[0], math.product(batch, step));
    out[0].d[1] = in[0].d[1];
    out[1].d[0] = in[1].d[0];
  }

  using Params = AlgmAppendTokensParams;
  static constexpr auto kWORKSPACE = &algm_append_tokens_workspace;

  static Params params(Attributes const& a, int32_t dtype, Dims const* in) noexcept {
    return {dtype, narrow(imagesOf(in[1])), narrow(in[0].d[0]), narrow(in[0].d[1]), narrow(in[2].d[0]), a.drop};
  }

  static AlgmStatus launch(Params const& params, void const* const* inputs, void* const* outputs, void* workspace,
                           size_t bytes, cudaStream_t stream) noexcept {
    return algm_append_tokens(&params, inputs[0], static_cast<int32_t const*>(inputs[1]), inputs[2], outputs[0],
                              static_cast<int32_t*>(outputs[1]), workspace, bytes, stream);
  }
};

struct Unmerge : OpDefaults<Unmerge> {
  struct Attributes {
    int32_t appended;
    int32_t drop;
  };

  static constexpr char const* kNAME = "AlgmUnmerge";
  static constexpr FieldRule kFIELDS[] = {
      integers("appended", 1, 0, 65535, offsetof(Attributes, appended)),
      integers("drop", 1, 0, 2, offsetof(Attributes, drop)),
  };
  static constexpr TensorRule kINPUTS[] = {
      {"x", TensorKind::kACTIVATION, 2}, {"cu_seqlens", TensorKind::kINT32, 1}, {"token_map", TensorKind::kINT32, 2}};
  static constexpr TensorRule kOUTPUTS[] = {{"grid", TensorKind::kACTIVATION, 3},
                                            {"appended", TensorKind::kACTIVATION, 3}};

  // Without appended tokens there is nothing for the second output to hold.
  static int32_t nbOutputs(Attributes const& a) noexcept { return a.appended > 0 ? 2 : 1; }

  static bool accepts(Attributes const&, Dims const* in) noexcept {
    return agree(kNAME, "cu_seqlens and token_map must be of as many images", imagesOf(in[1]), in[2].d[0]);
  }

  static void shapes(Attributes const& a, DimsExprs const* in, DimsExprs* out, ShapeMath& math) noexcept {
    Extent const batch = in[2].d[0];
    Extent const channels = in[0].d[1];
    out[0].d[0] = batch;
    out[0].d[1] = in[2].d[1];
    out[0].d[2] = channels;
    if (a.appended > 0) {
      out[1].d[0] = batch;
      out[1].d[1] = math.constant(a.appended);
      out[1].d[2] = channels;
    }
  }

  using Params = AlgmUnmergeParams;
  static constexpr auto kWORKSPACE = &algm_unmerge_workspace;

  static Params params(Attributes const& a, int32_t dtype, Dims const* in) noexcept {
    return {dtype, narrow(in[2].d[0]), narrow(in[0].d[0]), narrow(in[0].d[1]), narrow(in[2].d[1]), a.appended, a.drop};
  }

  static AlgmStatus launch(Params const& params, void const* const* inputs, void* const* outputs, void* workspace,
                           size_t bytes, cudaStream_t stream) noexcept {
    return algm_unmerge(&params, inputs[0], static_cast<int32_t const*>(inputs[1]),
                        static_cast<int32_t const*>(inputs[2]), outputs[0], params.appended > 0 ? outputs[1] : nullptr,
                        workspace, bytes, stream);
  }
};

struct Labels : OpDefaults<Labels> {
  struct Attributes {
    int32_t size[2];
  };

  static constexpr char const* kNAME = "AlgmLabels";
  static constexpr FieldRule kFIELDS[] = {integers("size", 2, 1, 65536, offsetof(Attributes, size))};
  static constexpr TensorRule kINPUTS[] = {{"logits", TensorKind::kACTIVATION, 4}};
  static constexpr TensorRule kOUTPUTS[] = {{"labels", TensorKind::kINT32, 3}};

  static void shapes(Attributes const& a, DimsExprs const* in, DimsExprs* out, ShapeMath& math) noexcept {
    out[0].d[0] = in[0].d[0];
    out[0].d[1] = math.constant(a.size[0]);
    out[0].d[2] = math.constant(a.size[1]);
  }

  using Params = AlgmLabelsParams;
  static constexpr auto kWORKSPACE = &algm_labels_workspace;

  static Params params(Attributes const& a, int32_t dtype, Dims const* in) noexcept {
    return {dtype,     narrow(in[0].d[0]), narrow(in[0].d[1]), narrow(in[0].d[2]), narrow(in[0].d[3]),
            a.size[0], a.size[1]};
  }

  static AlgmStatus launch(Params const& params, void const* const* inputs, void* const* outputs, void* workspace,
                           size_t bytes, cudaStream_t stream) noexcept {
    return algm_labels(&params, inputs[0], static_cast<int32_t*>(outputs[0]), workspace, bytes, stream);
  }
};

}  // namespace algm::plugin
