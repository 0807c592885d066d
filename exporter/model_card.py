"""The model card of a checkpoint's network: what an export needs beside the graph, and what is noted on the way."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from algm_trt.exporter.checkpoint import Checkpoint
from algm_trt.exporter.config import NORMALIZATIONS
from algm_trt.exporter.options import ExportOptions
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import MergeSettings, ModelCard
from algm_trt.runtime.class_lists import (
    DatasetClasses,
    dataset_classes,
    known_datasets,
    numbered_classes,
    read_class_file,
)


def model_card(
    checkpoint: Checkpoint, model: Segmenter, size: tuple[int, int], options: ExportOptions, classes: DatasetClasses
) -> ModelCard:
    """The model card of a network with the weights of a checkpoint."""
    config = checkpoint.config
    mean, std = NORMALIZATIONS[config.normalization]
    return ModelCard(
        classes=classes.classes,
        palette=classes.palette,
        ignore_index=classes.ignore_index,
        dataset=classes.name or checkpoint.dataset,
        size=size,
        patch_size=config.patch_size,
        stride=default_stride(min(size), checkpoint.dataset),
        short_side=checkpoint.short_side,
        mean=mean,
        std=std,
        extra_tokens=config.extra_tokens,
        merge=model.merge,
        architecture=config.describe(),
        precision=options.precision,
        checkpoint_sha256=checkpoint.sha256,
        tool_version=version("algm-trt"),
    )


def default_stride(crop: int, dataset: str) -> int:
    """Step of the sliding window that the official evaluation uses: crop - 32, and 512 on Cityscapes."""
    stride = 512 if dataset == "cityscapes" else crop - 32
    return min(stride, crop) if stride > 0 else crop


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


def window_notes(checkpoint: Checkpoint, card: ModelCard) -> tuple[str, ...]:
    """How pictures will be shown to the model, where the checkpoint says something else."""
    if checkpoint.window_stride in (None, card.stride) or card.size != checkpoint.crop:
        return ()
    return (
        f"windows start every {card.stride} pixels, as in the official evaluation; variant.yml says "
        f"{checkpoint.window_stride}: --stride of the other commands",
    )


def merge_notes(checkpoint: Checkpoint, merge: MergeSettings | None, options: ExportOptions) -> tuple[str, ...]:
    """What is not known of the merging, or may surprise, one sentence each."""
    return (*_training_notes(checkpoint, merge, options), *_threshold_notes(merge))


def _training_notes(checkpoint: Checkpoint, merge: MergeSettings | None, options: ExportOptions) -> tuple[str, ...]:
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
