"""The ways in which users run an exported model on a CPU, and the model files that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import Checkpoint
from algm_trt.runtime.engine_options import EngineOptions

KINDS: Final = ("dense", "merged")


@dataclass(frozen=True)
class Backend:
    """A way to run an exported model.

    Attributes:
        library: that computes.
        precision: of its arithmetic.
        export: precision of the model file.
    """

    library: str
    precision: str = "fp32"
    export: str = "fp32"

    def options(self, threads: int, streams: int = 1) -> EngineOptions:
        """How to open the model."""
        return EngineOptions(self.library, "cpu", threads=threads, cpu_precision=self.precision, streams=streams)


BACKENDS: Final = {
    "ONNX Runtime FP32": Backend("onnxruntime"),
    "ONNX Runtime int8": Backend("onnxruntime", export="int8"),
    "OpenVINO FP32": Backend("openvino"),
    "OpenVINO bf16": Backend("openvino", "bf16"),
}
PRECISIONS: Final = ("fp32", "int8")
"""Of the model files that these take."""


def exported(
    checkpoint: Checkpoint, folder: Path, kinds: Sequence[str] = KINDS, precisions: Sequence[str] = PRECISIONS
) -> dict[tuple[str, str], Path]:
    """Model files by kind and precision: `dense.onnx`, `merged_int8.onnx`, ..."""
    models = {}
    for kind, precision in product(kinds, precisions):
        path = folder / f"{kind}{'' if precision == 'fp32' else f'_{precision}'}.onnx"
        options = ExportOptions(merge=kind == "merged", precision=precision, verify=False)
        models[kind, precision] = export_onnx(checkpoint, path, options).path
    return models
