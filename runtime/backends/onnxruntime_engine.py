"""ONNX Runtime backend: runs `model.onnx` with the function bodies that it carries, no library of ours needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.runtime.backends.forked import keep_in_children
from algm_trt.runtime.backends.onnx_model import OUTPUTS, card_of, first_line
from algm_trt.runtime.card import METADATA_KEY, ModelCard
from algm_trt.runtime.engine import EngineError, EngineOutput, checked_images, checked_threshold

if TYPE_CHECKING:
    import onnxruntime as ort

PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
LOG_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """A model in an ONNX Runtime session; any number of threads may call it.

    On a CPU the pictures of a batch run one after another: measured no slower than together (nothing is padded), with
    less memory, and a picture's result cannot depend on its batch. A process that is forked while no call runs can use
    its parent's engine, on the calling thread alone.

    Attributes:
        card: what the model expects and means.
        description: backend and device, for people.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        # The thread of its telemetry, too, makes processes forked from this one hang at their end.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependencyError(f"onnxruntime is not installed ({error}): pip install onnxruntime") from error
        has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
        if device == "cuda" and not has_cuda:
            raise MissingDependencyError(
                "this onnxruntime cannot use CUDA: install onnxruntime-gpu in its place, or take --device cpu"
            )
        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS_ONLY
        if threads:
            options.intra_op_num_threads = threads
        providers = PROVIDERS["cuda" if has_cuda and device != "cpu" else "cpu"]
        try:
            # Its fallback is to try the CPU once more, which it announces on stdout.
            session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=len(providers) > 1)
        except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
            raise EngineError(f"{path}: not a model that ONNX Runtime can open ({first_line(error)})") from error
        keep_in_children(session)
        self._session: ort.InferenceSession | None = session
        self._on_gpu = session.get_providers()[0] == "CUDAExecutionProvider"
        if device == "cuda" and not self._on_gpu:
            raise MissingDependencyError(
                "ONNX Runtime found no usable CUDA device or its libraries: check nvidia-smi, or take --device cpu"
            )
        self.card = _read_card(session, path)
        self.description = f"ONNX Runtime {ort.__version__} on {'CUDA' if self._on_gpu else 'CPU'}"

    def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
        """Segment pictures of the model's input size; see `algm_trt.runtime.engine.Engine.run`."""
        images = checked_images(images, self.card)
        limit = np.array(checked_threshold(threshold, self.card), np.float32)
        step = len(images) if self._on_gpu else 1
        parts = [self._run(images[start : start + step], limit) for start in range(0, len(images), step)]
        logits, labels, counts, token_map = (
            values[0] if len(values) == 1 else np.concatenate(values) for values in zip(*parts, strict=True)
        )
        return EngineOutput(logits, labels, counts, token_map)

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _run(self, images: NDArray[np.uint8], threshold: NDArray[np.float32]) -> list[NDArray[np.generic]]:
        feed: dict[str, NDArray[np.generic]] = {"images": images}
        if self.card.merge is not None:
            feed["threshold"] = threshold
        session = self._session
        if session is None:
            raise EngineError("the engine is closed")
        try:
            outputs: list[NDArray[np.generic]] = session.run(OUTPUTS, feed)
        except Exception as error:  # see above
            raise EngineError(f"ONNX Runtime failed on a batch of {len(images)}: {first_line(error)}") from error
        return outputs


def _read_card(session: ort.InferenceSession, path: Path) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return card_of(path, text, {output.name for output in session.get_outputs()})
