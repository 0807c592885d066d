"""What every backend offers, and how to open the right one for a model file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.checks import finite_threshold
from algm_trt.runtime.engine_options import EngineOptions

CHECKPOINT_SUFFIXES: Final = (".pth", ".pt", ".ckpt")
"""Files of PyTorch; in small letters."""


class EngineError(AlgmError):
    """A model file that cannot be opened or run."""


class EngineClosedError(EngineError):
    """The engine is closed, or cannot be used in this process."""


class EngineOutput:
    """What a model says about a batch of B pictures.

    Attributes:
        token_counts: (B, 3) int32 tokens per picture [grid + extra, after the local, after the last global merge].
        token_map: (B, h, w) int32 token that each patch went to, counted with the extra tokens.
    """

    def __init__(
        self,
        logits: NDArray[np.float32] | None,
        labels: NDArray[np.integer] | Callable[[], NDArray[np.integer]],
        token_counts: NDArray[np.int32],
        token_map: NDArray[np.int32],
    ) -> None:
        """Take what a model gave; labels may be a function, which is called when they are asked for.

        Logits are None where they stayed with the device.
        """
        self.token_counts = token_counts
        self.token_map = token_map
        self._labels = labels
        self._logits = logits

    @property
    def logits(self) -> NDArray[np.float32]:
        """(B, K, h, w) float32 class scores on the patch grid.

        Raises:
            UsageError: the run was told to leave them out, and the engine did.
        """
        if self._logits is None:
            raise UsageError("logits were left out of this run: run(images, logits=True) brings them")
        return self._logits

    @property
    def labels(self) -> NDArray[np.integer]:
        """(B, H, W) class ids at the model's input size; uint8 up to 256 classes, else int32."""
        if callable(self._labels):
            self._labels = self._labels()
        return self._labels


class Engine(Protocol):
    """A model ready to run.

    Attributes:
        card: what the model expects and means.
        description: backend and device, for people.
    """

    card: ModelCard
    description: str

    def run(self, images: NDArray[np.uint8], threshold: float | None = None, *, logits: bool = True) -> EngineOutput:
        """Segment pictures of the model's input size.

        Args:
            images: (B, H, W, 3) uint8 RGB, B >= 1.
            threshold: similarity at which windows merge; None takes the model card's.
            logits: False where labels do: a GPU then keeps its logits, and the output may have none.

        Raises:
            UsageError: images of another shape or type, or a threshold that is not finite or for a dense model.
            AlgmError: the engine is closed, or the model failed.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot run afterwards."""
        ...


def open_engine(path: str | Path, options: EngineOptions | None = None) -> Engine:
    """Open an exported model with the backend that its suffix and the options ask for.

    Args:
        path: `.onnx` or `.plan` file.
        options: None takes the defaults.

    Raises:
        EngineError: not a model of this toolkit.
        UsageError: no such file, a suffix that no backend knows, or a backend that cannot open it.
        MissingDependencyError: the backend's library or device is not on this machine.
    """
    file, options = Path(path), options or EngineOptions()
    if file.is_dir():
        raise UsageError(f"{file} is a folder: name the model file in it, such as {file / 'model.onnx'}")
    if not file.is_file():
        maker = "algm-build-engine MODEL.onnx" if file.suffix.lower() == ".plan" else "algm-export CHECKPOINT"
        raise UsageError(f"{file}: no such model file; {maker} makes one")
    backend = backend_for(file, options)
    if backend == "tensorrt":
        from algm_trt.runtime.backends.tensorrt.engine import TensorRTEngine

        return TensorRTEngine(file)
    if backend == "openvino":
        from algm_trt.runtime.backends.openvino.engine import OpenVinoEngine

        return OpenVinoEngine(file, precision=options.cpu_precision, threads=options.threads, streams=options.streams)
    from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(file, device=options.device, threads=options.threads, streams=options.streams)


def backend_for(file: Path, options: EngineOptions) -> str:
    """The backend that opens a model file: one of BACKENDS, never "auto".

    Raises:
        UsageError: no backend takes such files, or not the one that was asked for, or not on that device.
    """
    suffix = file.suffix.lower()
    if suffix in CHECKPOINT_SUFFIXES:
        raise UsageError(f"{file} is a checkpoint: algm-export {file} makes a model.onnx of it")
    if suffix not in (".onnx", ".plan"):
        raise UsageError(f"{file}: no backend for '{file.suffix}' files; expected .onnx or .plan")
    if suffix == ".plan":
        if options.backend not in ("auto", "tensorrt") or options.device == "cpu":
            raise UsageError(
                f"{file}: a plan runs in TensorRT on a GPU only; for a CPU take the .onnx it was built from"
            )
        return "tensorrt"
    if options.backend == "tensorrt":
        raise UsageError(f"{file}: TensorRT takes plans: algm-build-engine {file} --fp16 makes one")
    if options.backend == "auto":
        return "onnxruntime" if options.cpu_precision == "fp32" else "openvino"
    return options.backend


def joined(found: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Arrays of several pieces as those of one batch."""
    return [np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*found, strict=True)]


def checked_images(images: NDArray[np.uint8], card: ModelCard) -> NDArray[np.uint8]:
    """The images, contiguous, if they are what the model takes.

    Raises:
        UsageError: another shape or type.
    """
    if not isinstance(images, np.ndarray):
        raise _other_images(type(images).__name__, card)
    check_batch(str(images.dtype), images.shape, card)
    return np.ascontiguousarray(images)


def check_batch(dtype: str, shape: tuple[int, ...], card: ModelCard) -> None:
    """Check that an array, of the host or of a GPU, is a batch of what the model takes.

    Args:
        dtype: NumPy's name of its type.
        shape: its extents.
        card: of the model.

    Raises:
        UsageError: another shape or type, or no picture.
    """
    if dtype != "uint8" or len(shape) != 4 or shape[1:] != (*card.size, 3):
        raise _other_images(f"{dtype} {shape}", card)
    if not shape[0]:
        raise UsageError("the batch is empty")


def _other_images(found: str, card: ModelCard) -> UsageError:
    return UsageError(f"images must be uint8 (B, {card.size[0]}, {card.size[1]}, 3) RGB, got {found}")


def checked_threshold(threshold: float | None, card: ModelCard) -> float:
    """The threshold to run with.

    Raises:
        UsageError: a threshold for a dense model, or one that is not a number, or not finite as float32.
    """
    if card.merge is None:
        if threshold is not None:
            raise UsageError("the model does not merge (exported with --no-merge): it takes no threshold")
        return 0.0
    return finite_threshold(card.merge.threshold if threshold is None else threshold)
