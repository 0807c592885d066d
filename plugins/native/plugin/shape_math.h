// Arithmetic on extents that TensorRT knows only as expressions, with one check for failure at the end.
#pragma once

#include "trt_abi.h"

namespace algm::plugin {

using ALGM_TRT_NAMESPACE::DimensionOperation;
using ALGM_TRT_NAMESPACE::IDimensionExpr;
using ALGM_TRT_NAMESPACE::IExprBuilder;

using Extent = IDimensionExpr const*;

// Wraps an expression builder. A step that TensorRT refuses gives nullptr; later steps pass it on and ok() is false.
class ShapeMath {
 public:
  explicit ShapeMath(IExprBuilder& builder) noexcept : mBuilder(builder) {}

  Extent constant(int64_t value) noexcept { return checked(mBuilder.constant(value)); }
  Extent sum(Extent a, Extent b) noexcept { return operation(DimensionOperation::kSUM, a, b); }
  Extent difference(Extent a, Extent b) noexcept { return operation(DimensionOperation::kSUB, a, b); }
  Extent product(Extent a, Extent b) noexcept { return operation(DimensionOperation::kPROD, a, b); }
  Extent quotient(Extent a, int64_t divisor) noexcept {
    return operation(DimensionOperation::kFLOOR_DIV, a, constant(divisor));
  }

  // The extent that output `outputIndex` will carry: at most `upper`, tuned for `keep` * upper and at least one.
  Extent sizeTensor(int32_t outputIndex, Extent upper, float keep) noexcept {
    // Expressions are integers: the share goes in as parts of 1024.
    Extent const parts = constant(static_cast<int64_t>(keep * 1024.0F));
    Extent const share = operation(DimensionOperation::kCEIL_DIV, product(upper, parts), constant(1024));
    Extent const expected = operation(DimensionOperation::kMAX, share, constant(1));
    return expected == nullptr || upper == nullptr
               ? checked(nullptr)
               : checked(mBuilder.declareSizeTensor(outputIndex, *expected, *upper));
  }

  bool ok() const noexcept { return mOk; }

 private:
  Extent operation(DimensionOperation op, Extent a, Extent b) noexcept {
    return a == nullptr || b == nullptr ? checked(nullptr) : checked(mBuilder.operation(op, *a, *b));
  }
  Extent checked(Extent extent) noexcept {
    mOk = mOk && extent != nullptr;
    return extent;
  }

  IExprBuilder& mBuilder;
  bool mOk{true};
};

}  // namespace algm::plugin
