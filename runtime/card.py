"""The model card: what a model file must carry so that a picture can become a mask.

The exporter writes it into the ONNX metadata under `METADATA_KEY` and beside the model as JSON; every backend reads it.
Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.json_text import json_object

METADATA_KEY = "algm_model_card"
FORMAT_VERSION = 1
LICENCE_NOTE = (
    "The licence of the weights is that of the checkpoint they came from; "
    "the official ALGM code is partly under CC BY-NC 4.0. The file itself contains no code of it."
)


class ModelCardError(AlgmError):
    """A model card that is missing, of another format version, or inconsistent."""


@dataclass(frozen=True)
class MergeSettings:
    """Where and how much tokens merge.

    Attributes:
        layers: 1-based encoder layers, ascending; the first merges locally, every later one globally.
        window: height and width in tokens of the merging window of the local merge.
        threshold: default similarity at or above which a window merges (cosine, -1..1); a run-time input of the model.
    """

    layers: tuple[int, ...]
    window: tuple[int, int]
    threshold: float

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise ModelCardError(f"merge layers must be ascending and at least 1, got {self.layers}")
        if min(self.window) < 1 or self.window[0] * self.window[1] < 2:
            raise ModelCardError(f"the merging window must hold at least 2 tokens, got {self.window}")
        if not math.isfinite(self.threshold):
            raise ModelCardError(f"the threshold must be a finite number, got {self.threshold}")


@dataclass(frozen=True)
class ModelCard:
    """What the weights expect and what the outputs mean.

    Attributes:
        classes: class names; the index is the class id.
        palette: one (red, green, blue) of 0..255 per class.
        size: height and width in pixels of the model's input (the crop).
        patch_size: side of a patch in pixels.
        stride: step in pixels of the sliding window.
        short_side: pixels that the short side of a picture is resized to before windows are cut, as it was in training
            and is in the official evaluation; None: as it is.
        mean: per-channel mean in 0..255, already applied inside the model.
        std: per-channel standard deviation in 0..255, already applied inside the model.
        extra_tokens: tokens in front of the patches (1: class; 2: class and distillation).
        merge: merge settings, or None for a dense model.
        dataset: name of the data set of the class list, or "" if unknown.
        ignore_index: value that label files use for "no class".
        architecture: one line for people, such as "ViT d384 h6 L12 /16, mask_transformer".
        precision: "fp32", "fp16", or "int8": float32 with linear layers of bytes, for ONNX Runtime on a CPU.
        checkpoint_sha256: of the checkpoint file.
        tool_version: version of algm-trt that wrote the card.
        licence: note on the licence of the weights.
        format_version: of this card.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    size: tuple[int, int]
    patch_size: int
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    short_side: int | None = None
    extra_tokens: int = 1
    merge: MergeSettings | None = None
    dataset: str = ""
    ignore_index: int = 255
    architecture: str = ""
    precision: str = "fp32"
    checkpoint_sha256: str = ""
    tool_version: str = ""
    licence: str = LICENCE_NOTE
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ModelCardError(
                f"the model card has format {self.format_version}, this version reads {FORMAT_VERSION}: "
                "export the model again with this version of algm-trt"
            )
        if not self.classes or len(self.palette) != len(self.classes):
            raise ModelCardError(f"{len(self.classes)} classes with {len(self.palette)} colours")
        if not all(0 <= value <= 255 for colour in self.palette for value in colour):
            raise ModelCardError("colours must lie in 0..255")
        shown = () if self.short_side is None else (self.short_side,)
        if min(*self.size, self.patch_size, self.stride, *shown) < 1:
            raise ModelCardError(
                f"size {self.size}, patch {self.patch_size}, stride {self.stride} and short side {self.short_side} "
                "must be positive"
            )

    def thresholds(self, asked: Sequence[float]) -> tuple[float | None, ...]:
        """The thresholds to run the model at: those asked for, else its own; None for a dense model."""
        if self.merge is None:
            return (None,)
        return tuple(asked) or (self.merge.threshold,)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patch grid; the last row and column may reach beyond `size` (zero padding)."""
        return -(-self.size[0] // self.patch_size), -(-self.size[1] // self.patch_size)

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_metadata(cls, path: Path, text: str | None) -> ModelCard:
        """The card of a model file.

        Args:
            path: of the model, for the message.
            text: the entry `METADATA_KEY` of its metadata; None if there is none.

        Raises:
            ModelCardError: the model is not from algm-export, or from another version of it.
        """
        if text is None:
            raise ModelCardError(
                f"{path}: not a model of algm-export (it carries no model card); export the checkpoint again"
            )
        return cls.from_json(text)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card from JSON text.

        Raises:
            ModelCardError: not a card, or one of another format version.
        """
        try:
            return json_object(cls, text)
        except ValueError as error:
            raise ModelCardError(f"the model card cannot be read ({error}): export the model again") from error
