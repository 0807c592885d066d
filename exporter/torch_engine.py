"""A checkpoint as an engine: the PyTorch network behind the interface that the runtime evaluates models through."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.coupled import coupled_forward
from algm_trt.exporter.model_card import classes_of, model_card
from algm_trt.exporter.options import ExportOptions, check_grid, resolve_merge
from algm_trt.exporter.segmenter import Segmenter, SegmenterOutput, normalise, segmenter_from_checkpoint
from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.engine import EngineClosedError, EngineOutput, checked_images, checked_threshold
from algm_trt.runtime.engine_options import DEVICES
from algm_trt.runtime.field import labels_of


class TorchEngine:
    """A Segmenter in PyTorch; safe to call from one thread at a time.

    Attributes:
        card: the model card that an export of the checkpoint would have.
        description: backend and device, for people.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        merge: bool = True,
        coupled: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            path: `.pth` file or the folder of `checkpoint.pth`.
            device: "auto", "cpu" or "cuda".
            threads: CPU threads of PyTorch, for the whole process; None leaves them.
            merge: False takes the dense network.
            coupled: images of a batch merge the same number of tokens, as in the official code.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            UsageError: coupled without merging.
            MissingDependencyError: no CUDA device where one is asked for.
        """
        if device not in DEVICES:
            raise UsageError(f"unknown device '{device}': expected {', '.join(DEVICES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise MissingDependencyError("PyTorch finds no CUDA device: check nvidia-smi, or take --device cpu")
        if threads:
            torch.set_num_threads(threads)
        options = ExportOptions(merge=merge)
        checkpoint = load_checkpoint(path)
        settings = resolve_merge(checkpoint.merge, options)
        check_grid(checkpoint.crop, checkpoint.config, settings)
        if coupled and settings is None:
            raise UsageError(f"{path}: a dense model has nothing to couple: leave out :coupled, --window-batch-coupled")
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        self._device = torch.device("cuda" if on_gpu else "cpu")
        model = segmenter_from_checkpoint(checkpoint, settings)
        classes, _ = classes_of(checkpoint, None)
        self.card = model_card(checkpoint, model, checkpoint.crop, options, classes)
        self._model: Segmenter | None = model.to(self._device)
        self._coupled = coupled
        kind = ", batch-coupled" if coupled else ""
        self.description = f"PyTorch {torch.__version__} on {self._device.type.upper()}{kind}"

    def run(self, images: NDArray[np.uint8], threshold: float | None = None, *, logits: bool = True) -> EngineOutput:
        """Segment pictures of the model's input size; see `algm_trt.runtime.engine.Engine.run`. Logits always come."""
        if self._model is None:
            raise EngineClosedError("the engine is closed")
        images = checked_images(images, self.card)
        limit = checked_threshold(threshold, self.card)
        output = self._forward(self._model, torch.from_numpy(images).to(self._device), limit)
        scores = np.ascontiguousarray(output.logits.float().cpu().numpy())
        return EngineOutput(
            logits=scores,
            labels=partial(labels_of, scores, self.card),
            token_counts=output.token_counts.cpu().numpy(),
            token_map=output.token_map.cpu().numpy(),
        )

    def close(self) -> None:
        """Free the weights."""
        self._model = None

    @torch.inference_mode()
    def _forward(self, model: Segmenter, images: torch.Tensor, threshold: float) -> SegmenterOutput:
        pixels = normalise(images, model.config.normalization)
        if self._coupled:
            return coupled_forward(model, pixels, threshold)
        output: SegmenterOutput = model(pixels, threshold)
        return output
