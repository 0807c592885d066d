"""From a checkpoint to a verified `model.onnx` with its model card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import onnx

from algm_trt.exporter.checkpoint import Checkpoint, default_stride, load_checkpoint
from algm_trt.exporter.config import NORMALIZATIONS, SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.segmenter import Segmenter, segmenter_from_checkpoint
from algm_trt.exporter.variant import DEFAULT_MERGE
from algm_trt.exporter.verify import Verification, verify
from algm_trt.plugins import spec
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import METADATA_KEY, MergeSettings, ModelCard, ModelCardError
from algm_trt.runtime.datasets import DatasetClasses, dataset_classes, known_datasets, numbered_classes, read_class_file
from algm_trt.runtime.files import check_writable, renamed_together

_MERGE_LIMITS: Final = {attribute.name: attribute for attribute in spec.LOCAL_MERGE.attributes}
_LABELS_LIMITS: Final = {attribute.name: attribute for attribute in spec.LABELS.attributes}

PRECISIONS: Final = ("fp32", "fp16", "int8")


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
        classes: file with class names, see `algm_trt.runtime.datasets.read_class_file`.
        verify: whether to compare PyTorch with ONNX Runtime.
        verify_images: folder of pictures, of which the first 8 that can be read are compared; None draws some.
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


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: the ONNX file.
        report_path: JSON beside it with the card and the verification.
        card: its model card.
        nodes: top-level nodes of the graph.
        notes: what was inferred or assumed, one sentence each.
        verification: the comparison, or None if it was left out.
    """

    path: Path
    report_path: Path
    card: ModelCard
    nodes: int
    notes: tuple[str, ...]
    verification: Verification | None


def export_onnx(
    checkpoint: str | Path | Checkpoint, path: str | Path | None = None, options: ExportOptions | None = None
) -> ExportReport:
    """Export a checkpoint.

    Args:
        checkpoint: folder, `.pth` file, or a loaded checkpoint.
        path: of the ONNX file; default: `model.onnx` beside the checkpoint.
        options: choices; default: what the checkpoint says.

    Returns:
        A report; `verification.passed` says whether the model agrees with PyTorch. The files are written either way.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: the options make no model; the message says what would.
        ClassListError: the file with class names cannot be read.
        AlgmError: the model cannot be written there.
    """
    options = options or ExportOptions()
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    target = Path(path) if path else loaded.path.with_name("model.onnx")
    report_path = target.with_name(f"{target.name}.json")
    _check_places(target, report_path, loaded, options)
    size = options.size or loaded.crop
    merge = resolve_merge(loaded.merge, options)
    check_grid(size, loaded.config, merge)
    model = segmenter_from_checkpoint(loaded, merge)
    classes, class_notes = classes_of(loaded, options.classes)
    card = model_card(loaded, model, size, options, classes)
    proto = build_graph(model, size, options.precision)
    proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    with renamed_together() as temporary:
        draft = temporary(target)
        onnx.save(proto, draft)
        checked = verify(draft, model, card, options.verify_images) if options.verify else None
        report = {"card": asdict(card), "verification": checked and checked.to_dict()}
        temporary(report_path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    notes = (*loaded.notes, *class_notes, *_merge_notes(loaded, merge, options), *_threshold_notes(merge))
    return ExportReport(target, report_path, card, len(proto.graph.node), notes, checked)


def _check_places(target: Path, report: Path, checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Refuse to write over a folder or over what is read, and a name by which no backend knows the model.

    Raises:
        UsageError: one of the files to write is there as something else, or the model's name does not end in .onnx.
        AlgmError: the model cannot be written there.
    """
    read = [checkpoint.path, checkpoint.path.with_name("variant.yml")]
    read += [Path(options.classes)] if options.classes else []
    for path in (target, report):
        if path.is_dir():
            raise UsageError(f"{path} is a folder: -o takes the name of a file, such as {path / 'model.onnx'}")
        if path.resolve() in [source.resolve() for source in read]:
            raise UsageError(f"{path} is read and would be written over: give -o another name")
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"{target}: the name of a model must end in .onnx")
    try:
        check_writable(target)
    except OSError as error:
        raise AlgmError(f"{error}; name another place with -o") from error


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
        merge = replace(
            base,
            layers=base.layers if options.merge_layers is None else options.merge_layers,
            window=base.window if options.merge_window is None else options.merge_window,
            threshold=base.threshold if options.threshold is None else options.threshold,
        )
    except ModelCardError as error:
        raise UsageError(str(error)) from error
    if not math.isfinite(merge.threshold):
        raise UsageError(f"the threshold must be a finite number, got {merge.threshold}")
    return merge


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


def classes_of(checkpoint: Checkpoint, file: str | Path | None) -> tuple[DatasetClasses, tuple[str, ...]]:
    """Class names and colours: of a file, of the checkpoint's data set, or numbered; and notes about the choice.

    Raises:
        UsageError: the file has another number of classes than the model.
    """
    count = checkpoint.config.n_cls
    if file is not None:
        classes = read_class_file(file)
        if len(classes.classes) != count:
            raise UsageError(f"{file}: {len(classes.classes)} classes, but the model has {count}")
        return classes, ()
    if checkpoint.dataset in known_datasets():
        classes = dataset_classes(checkpoint.dataset)
        if len(classes.classes) == count:
            return classes, ()
    reason = f"data set '{checkpoint.dataset}' with {count} classes" if checkpoint.dataset else "data set"
    return numbered_classes(count), (
        f"classes are numbered, because the {reason} is not known: name them with --classes",
    )


def _merge_notes(checkpoint: Checkpoint, merge: MergeSettings | None, options: ExportOptions) -> tuple[str, ...]:
    if not checkpoint.described and merge is None and options.merge:
        return (
            "nothing says whether the checkpoint merged while it was trained, the model is dense: put its variant.yml "
            "beside it, or give --merge-layers, --merge-window and --threshold as they were",
        )
    if not checkpoint.described and merge is not None:
        return (
            "nothing says how the checkpoint merged while it was trained: layers, window and threshold must be those",
        )
    if merge is None and options.merge:
        return ("the checkpoint was trained without merging, the model is dense: --threshold 0.88 makes it merge",)
    if merge is not None and checkpoint.merge is None:
        return ("the checkpoint was trained without merging: check the accuracy of the merged model on your data",)
    return ()


def _threshold_notes(merge: MergeSettings | None) -> tuple[str, ...]:
    if merge is not None and merge.threshold > 1:
        return (f"no window reaches a similarity of {merge.threshold:g}, cosines end at 1: nothing merges locally",)
    return ()


def model_card(
    checkpoint: Checkpoint, model: Segmenter, size: tuple[int, int], options: ExportOptions, classes: DatasetClasses
) -> ModelCard:
    """The model card of a network with the weights of a checkpoint."""
    config = checkpoint.config
    mean, std = NORMALIZATIONS[config.normalization]
    stride = checkpoint.stride if size == checkpoint.crop else default_stride(min(size), checkpoint.dataset)
    return ModelCard(
        classes=classes.classes,
        palette=classes.palette,
        ignore_index=classes.ignore_index,
        dataset=classes.name or checkpoint.dataset,
        size=size,
        patch_size=config.patch_size,
        stride=stride,
        mean=mean,
        std=std,
        extra_tokens=config.extra_tokens,
        merge=model.merge,
        architecture=config.describe(),
        precision=options.precision,
        checkpoint_sha256=checkpoint.sha256,
        tool_version=version("algm-trt"),
    )
