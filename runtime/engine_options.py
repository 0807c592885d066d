"""Which backend runs a model, where and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.checks import whole_number

BACKENDS: Final = ("auto", "onnxruntime", "openvino", "tensorrt")
DEVICES: Final = ("auto", "cpu", "cuda")
CPU_PRECISIONS: Final = ("fp32", "bf16")
MOST_THREADS: Final = 1024


@dataclass(frozen=True)
class EngineOptions:
    """What runs a model, and where.

    Attributes:
        backend: one of BACKENDS; "auto" takes TensorRT for a .plan, OpenVINO for an .onnx in bf16, else ONNX Runtime.
        device: "auto", "cpu" or "cuda".
        threads: threads of a CPU backend, of all its streams together, at least one each; None lets it choose.
        cpu_precision: "fp32", or "bf16" (OpenVINO, on a CPU that computes in bfloat16; on others it is refused).
        streams: pictures that a CPU backend runs side by side, each with its part of the threads: more of them per
            second, each later. 1 is best for one picture at a time; None takes as many as suit the processor.
    """

    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cpu_precision: str = "fp32"
    streams: int | None = 1

    def __post_init__(self) -> None:
        for what, value, known in (
            ("backend", self.backend, BACKENDS),
            ("device", self.device, DEVICES),
            ("CPU precision", self.cpu_precision, CPU_PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"unknown {what} '{value}': expected {', '.join(known)}")
        for what, number in (("threads", self.threads), ("streams", self.streams)):
            if number is None:
                continue
            whole = whole_number(what, number)
            if not 1 <= whole <= MOST_THREADS:
                raise UsageError(f"{what} must be between 1 and {MOST_THREADS}, got {whole}")
            object.__setattr__(self, what, whole)  # one of NumPy becomes Python's, which every backend takes
        if self.cpu_precision != "fp32" and (self.backend not in ("auto", "openvino") or self.device == "cuda"):
            raise UsageError(f"{self.cpu_precision} on a CPU needs the OpenVINO backend: --backend openvino")
        if self.backend == "openvino" and self.device == "cuda":
            raise UsageError("the OpenVINO backend runs on CPUs: take --device cpu or another backend")
