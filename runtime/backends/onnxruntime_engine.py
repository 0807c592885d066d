"""ONNX Runtime backend: runs `model.onnx` with the function bodies that it carries, no library of ours needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.backends.forked import keep_in_children
from algm_trt.runtime.backends.onnx_model import OUTPUTS, SCORES, card_of, first_line, path_text
from algm_trt.runtime.backends.onnx_scores import LABELS, without_labels
from algm_trt.runtime.backends.streams import Streams, shared_threads
from algm_trt.runtime.card import METADATA_KEY, ModelCard
from algm_trt.runtime.cores import usable_cores
from algm_trt.runtime.engine import EngineError, EngineOutput, checked_images, checked_threshold, joined
from algm_trt.runtime.field import labels_of
from algm_trt.runtime.paths import printable

if TYPE_CHECKING:
    import onnxruntime as ort

PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
LOG_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """A model in an ONNX Runtime session; any number of threads may call it, their pictures take turns in its streams.

    On a CPU the pictures of a batch run singly, one in each stream: measured no slower than together (nothing is
    padded), and a picture's result cannot depend on its batch. A process that is forked while no call runs can use its
    parent's engine, on the calling thread alone.

    Labels are made of the scores when they are asked for, see `onnx_scores`.

    Attributes:
        card: what the model expects and means.
        description: backend and device, for people.
        lanes: calls of `run` that gain by being made at the same time: the streams of a CPU, or 1.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        streams: int | None = 1,
        own_labels: bool = False,
    ) -> None:
        """Open a model.

        Args:
            path: ONNX file of algm-export.
            device: "cpu", "cuda", or "auto": CUDA where this ONNX Runtime can use it.
            threads: of all streams on a CPU; None lets ONNX Runtime choose, or takes one per core for several streams.
            streams: pictures that run side by side on a CPU; None takes as many as suit it, see `shared_threads`.
            own_labels: take the labels that the model itself computes: to check a file as other programs run it.

        Raises:
            MissingDependencyError: onnxruntime is not installed or cannot be loaded, or has no CUDA for device "cuda".
            EngineError: a file that cannot be read, or not a model that ONNX Runtime can open.
            ModelCardError: a model of somebody else.
            UsageError: an int8 model on CUDA.
        """
        ort = _import_onnxruntime()
        on_cuda = _takes_cuda(ort, device)
        count, threads = shared_threads(1 if on_cuda else streams, threads)
        model, self._outputs = _model_to_run(path, own_labels)
        session = _open_session(ort, path, model, _session_options(ort, count, threads), on_cuda)
        keep_in_children(session)
        self._streams = Streams([session] * count)
        self.lanes = count
        self._on_gpu = session.get_providers()[0] == "CUDAExecutionProvider"
        if device == "cuda" and not self._on_gpu:
            raise MissingDependencyError(
                "ONNX Runtime found no usable CUDA device or its libraries: check nvidia-smi, or take --device cpu"
            )
        self.card = _read_card(session, path, self._outputs)
        if self._on_gpu and self.card.precision == "int8":
            raise UsageError(f"{path}: an int8 model is for CPUs: take --device cpu, or the fp32 or fp16 export")
        self.description = f"ONNX Runtime {ort.__version__} on {'CUDA' if self._on_gpu else 'CPU'}"

    def run(self, images: NDArray[np.uint8], threshold: float | None = None, *, logits: bool = True) -> EngineOutput:
        """Segment pictures of the model's input size; see `algm_trt.runtime.engine.Engine.run`. Logits always come."""
        images = checked_images(images, self.card)
        limit = np.array(checked_threshold(threshold, self.card), np.float32)
        step = len(images) if self._on_gpu else 1

        def part(session: ort.InferenceSession, index: int) -> list[NDArray[Any]]:
            return self._run(session, images[index * step : (index + 1) * step], limit)

        parts = self._streams.map(part, len(images) // step)
        found = dict(zip(self._outputs, joined(parts), strict=True))
        scores: NDArray[Any] = found["logits"]
        labels = found[LABELS] if LABELS in found else partial(labels_of, scores, self.card)
        return EngineOutput(scores, labels, found["token_counts"], found["token_map"])

    def close(self) -> None:
        """Free the session."""
        self._streams.close()

    def _run(
        self, session: ort.InferenceSession, images: NDArray[np.uint8], threshold: NDArray[np.float32]
    ) -> list[NDArray[Any]]:
        feed: dict[str, NDArray[Any]] = {"images": images}
        if self.card.merge is not None:
            feed["threshold"] = threshold
        try:
            outputs: list[NDArray[Any]] = session.run(self._outputs, feed)
        except Exception as error:  # see above
            raise EngineError(f"ONNX Runtime failed on a batch of {len(images)}: {first_line(error)}") from error
        return outputs


def cpu_session(model: bytes | str) -> ort.InferenceSession:
    """A session of any model, serialised or by its path, on the CPU.

    Raises:
        MissingDependencyError: onnxruntime cannot be imported.
        Exception: ONNX Runtime cannot open the model; its classes share no other base.
    """
    ort = _import_onnxruntime()
    return ort.InferenceSession(model, _session_options(ort, 1, None), providers=PROVIDERS["cpu"])


def _import_failure(error: ImportError) -> MissingDependencyError:
    """What to say where onnxruntime cannot be imported: it may be there and yet be broken."""
    if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
        return MissingDependencyError(f"onnxruntime is not installed ({error}): pip install onnxruntime")
    cure = "pip install --force-reinstall onnxruntime"
    return MissingDependencyError(f"onnxruntime is installed and cannot be loaded ({first_line(error)}): {cure}")


def _import_onnxruntime() -> ModuleType:
    """The module.

    Raises:
        MissingDependencyError: it cannot be imported.
    """
    # The thread of its telemetry, too, makes processes forked from this one hang at their end.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise _import_failure(error) from error
    module: ModuleType = onnxruntime
    return module


def _takes_cuda(ort: ModuleType, device: str) -> bool:
    """Whether to try CUDA.

    Raises:
        MissingDependencyError: it is asked for, and this ONNX Runtime has none.
    """
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise MissingDependencyError(
            "this onnxruntime cannot use CUDA: install onnxruntime-gpu in its place, or take --device cpu"
        )
    return has_cuda and device != "cpu"


def _session_options(ort: ModuleType, streams: int, threads: int | None) -> ort.SessionOptions:
    """For so many streams with so many threads each; None leaves the threads of a single stream to ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    if threads:
        # A session has one pool of threads for all who call it, and counts the caller as one of them.
        options.intra_op_num_threads = streams * (threads - 1) + 1
        if streams * threads > usable_cores():  # those that wait must not keep those that work from a core
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _model_to_run(path: Path, own_labels: bool) -> tuple[bytes | str, Sequence[str]]:
    """What a session is made of, without the labels where that can be, and the outputs to ask for."""
    try:
        if own_labels:
            return path.read_bytes(), OUTPUTS
        scores = without_labels(path)
    except OSError as error:
        raise EngineError(f"{printable(path)}: cannot be read ({error.strerror or error})") from error
    return (path_text(path), OUTPUTS) if scores is None else (scores, SCORES)


def _open_session(
    ort: ModuleType, path: Path, model: bytes | str, options: ort.SessionOptions, on_cuda: bool
) -> ort.InferenceSession:
    """A session on CUDA, or on the CPU alone.

    Raises:
        EngineError: not a model that ONNX Runtime can open.
    """
    try:
        # Its fallback is to try the CPU once more, which it announces on stdout.
        providers = PROVIDERS["cuda" if on_cuda else "cpu"]
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=on_cuda)
    except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
        raise EngineError(f"{path}: not a model that ONNX Runtime can open ({first_line(error)})") from error
    if not on_cuda:
        session.disable_fallback()  # before 1.23 it cannot be kept from it when it is made
        session._model_bytes = None  # it keeps the model for its fallback, which is off
    return session


def _read_card(session: ort.InferenceSession, path: Path, needed: Sequence[str]) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return card_of(path, text, {output.name for output in session.get_outputs()}, needed)
