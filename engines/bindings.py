"""The TensorRT that builds, or the one message that says what is missing and what works without it."""

from __future__ import annotations

from typing import Final

from algm_trt.runtime.backends.tensorrt.bindings import RTX_CURE, Target, TensorRT, load_tensorrt, load_tensorrt_rtx

MEANWHILE: Final = (
    "without them, algm-infer --engine model.onnx works now, and --target rtx builds a plan for RTX GPUs on any "
    f"Linux machine with the same kind of processor ({RTX_CURE})"
)


def load_builder(target: Target) -> TensorRT:
    """Import the builder of a target.

    Raises:
        MissingDependencyError: it is not installed, too old, or cannot be loaded; the message has the cure.
    """
    if target == "rtx":
        return load_tensorrt_rtx()
    return load_tensorrt(needs="Builder", meanwhile=MEANWHILE)
