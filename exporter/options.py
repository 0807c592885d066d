"""What a caller of the export may choose, and which of it makes a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.variant import DEFAULT_MERGE
from algm_trt.plugins import spec
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import MergeSettings, ModelCardError

PRECISIONS: Final = ("fp32", "fp16", "int8")

_MERGE_LIMITS: Final = {attribute.name: attribute for attribute in spec.LOCAL_MERGE.attributes}
_LABELS_LIMITS: Final = {attribute.name: attribute for attribute in spec.LABELS.attributes}


@dataclass(frozen=True)
class ExportOptions:
    """What a caller may choose; None takes what the checkpoint says.

    Attributes:
        size: height and width in pixels of the model's input.
        merge_layers: 1-based layers at which tokens merge.
        merge_window: height and width in tokens of the merging window.
        threshold: default similarity (cosine, -1..1) at or above which a window merges.
        merge: False exports the dense model.
        precision: "fp32", "fp16", or "int8" (for ONNX Runtime on a CPU), see `algm_trt.exporter.graph.build_graph`.
        classes: file with class names, see `algm_trt.runtime.class_lists.read_class_file`.
        verify: whether to compare PyTorch with ONNX Runtime.
        verify_images: folder of pictures, of which the first 8 that can be read are compared; None draws some.
        force: whether to write over a file that is no model of algm-export.
    """

    size: tuple[int, int] | None = None
    merge_layers: tuple[int, ...] | None = None
    merge_window: tuple[int, int] | None = None
    threshold: float | None = None
    merge: bool = True
    precision: str = "fp32"
    classes: str | Path | None = None
    verify: bool = True
    verify_images: str | Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what no model can have.

        Raises:
            UsageError: an unknown precision, a size without pixels, or pictures to compare on and no comparison.
        """
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{self.precision}': expected {', '.join(PRECISIONS)}")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"the input must have at least one pixel, got {self.size}")
        if self.verify_images is not None and not self.verify:
            raise UsageError("--no-verify compares no pictures: leave out --verify-images, or --no-verify")


def resolve_merge(trained: MergeSettings | None, options: ExportOptions) -> MergeSettings | None:
    """Merge settings from those of the training and the options; None for a dense model.

    Raises:
        UsageError: merge options together with `merge=False`, or merge options that make no sense.
    """
    given = (options.merge_layers, options.merge_window, options.threshold)
    if not options.merge:
        if any(value is not None for value in given):
            raise UsageError("--no-merge makes a dense model: leave out --merge-layers, --merge-window and --threshold")
        return None
    if trained is None and all(value is None for value in given):
        return None
    base = trained or DEFAULT_MERGE
    try:
        return replace(
            base,
            layers=base.layers if options.merge_layers is None else options.merge_layers,
            window=base.window if options.merge_window is None else options.merge_window,
            threshold=base.threshold if options.threshold is None else options.threshold,
        )
    except ModelCardError as error:
        raise UsageError(str(error)) from error


def check_grid(size: tuple[int, int], config: SegmenterConfig, merge: MergeSettings | None) -> None:
    """Check that the operators take the patch grid of an input, and that the merging window divides it.

    Args:
        size: height and width in pixels of the input.
        config: architecture.
        merge: merge settings, or None for a dense model.

    Raises:
        UsageError: a limit of `algm_trt.plugins.spec` is exceeded, which the message names, or the window does not
            divide the grid; then it names the nearest sizes for which it does.
    """
    patch_size = config.patch_size
    grid = [-(-side // patch_size) for side in size]
    most = spec.MAX_TOKENS - max(config.extra_tokens, config.n_cls)
    if grid[0] * grid[1] > most:
        raise UsageError(
            f"a {size[0]}x{size[1]} input has {grid[0] * grid[1]} patches, the operators take at most {most}: "
            "choose a smaller --size, through which larger pictures go in windows"
        )
    _check_sides(f"a {size[0]}x{size[1]} input", [cells * patch_size for cells in grid], _LABELS_LIMITS["size"])
    if merge is None:
        return
    _check_sides(f"the patch grid of a {size[0]}x{size[1]} input", grid, _MERGE_LIMITS["grid"])
    _check_sides("the merging window", merge.window, _MERGE_LIMITS["window"])
    if all(cells % window == 0 for cells, window in zip(grid, merge.window, strict=True)):
        return
    options = [_nearest(cells, window, patch_size) for cells, window in zip(grid, merge.window, strict=True)]
    nearest = dict.fromkeys(f"{heights}x{widths}" for heights, widths in zip(*options, strict=True))
    raise UsageError(
        f"a {size[0]}x{size[1]} input has a grid of {grid[0]}x{grid[1]} patches, which the merging window "
        f"{merge.window[0]}x{merge.window[1]} does not divide; the nearest sizes that work: {' and '.join(nearest)}"
    )


def _check_sides(what: str, sides: Sequence[int], limits: spec.Attribute) -> None:
    if not all(limits.minimum <= side <= limits.maximum for side in sides):
        raise UsageError(f"{what} is {sides[0]}x{sides[1]}, its sides must be {limits.minimum} to {limits.maximum}")


def _nearest(cells: int, window: int, patch_size: int) -> tuple[int, int]:
    """Sides in pixels just below and above whose patches the window divides."""
    below = max(cells // window, 1) * window
    above = -(-cells // window) * window
    return below * patch_size, above * patch_size
