"""Tests of the builder: tiny models with random weights, complete as algm-export writes them, and the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from helpers.models import LINEAR, TINY, TWO, random_segmenter

from algm_trt.engines.agreement import Agreement, Reference
from algm_trt.exporter.config import NORMALIZATIONS, SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.runtime.card import METADATA_KEY, MergeSettings, ModelCard
from algm_trt.runtime.check_pictures import Picture
from algm_trt.runtime.class_lists import numbered_classes

Command = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = (sys.executable, "-c", "import sys; from algm_trt.engines.cli import main; sys.exit(main())")


def card_of(
    config: SegmenterConfig, merge: MergeSettings | None, size: tuple[int, int], precision: str = "fp32"
) -> ModelCard:
    """The card of a model with numbered classes, whose windows do not overlap."""
    classes = numbered_classes(config.n_cls)
    mean, std = NORMALIZATIONS[config.normalization]
    return ModelCard(
        classes=classes.classes,
        palette=classes.palette,
        size=size,
        patch_size=config.patch_size,
        stride=min(size),
        mean=mean,
        std=std,
        extra_tokens=config.extra_tokens,
        merge=merge,
        precision=precision,
    )


def tiny_model(
    config: SegmenterConfig = TINY,
    merge: MergeSettings | None = TWO,
    size: tuple[int, int] = (128, 128),
    precision: str = "fp32",
) -> onnx.ModelProto:
    """A model with its card, the same for the same arguments."""
    model = random_segmenter(config, merge)
    proto = build_graph(model, size, precision)
    proto.metadata_props.add(key=METADATA_KEY, value=card_of(config, merge, size, precision).to_json())
    return proto


def save_tiny_model(folder: Path) -> Path:
    """`model.onnx` in a folder, with the linear decoder: float16 keeps the labels of its random weights."""
    path = folder / "model.onnx"
    onnx.save(tiny_model(LINEAR), path)
    return path


def with_initializer(model: onnx.ModelProto, name: str, scale: float = 1, shift: float = 0) -> onnx.ModelProto:
    """A copy with one weight multiplied and shifted."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(scale) + np.float32(shift)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return copy


def model_that_float16_ruins(merge: MergeSettings | None = TWO) -> onnx.ModelProto:
    """Scores around 32768, where float16 has steps of 16 to 32: what tells classes apart is lost.

    Not positions: ONNX Runtime before 1.27 cannot normalise tokens of so large a mean in float32 either.
    """
    return with_initializer(tiny_model(LINEAR, merge), "decoder.head.bias", scale=10, shift=32768)


def compare_precisions(
    full: onnx.ModelProto, half: onnx.ModelProto, card: ModelCard, pictures: Sequence[Picture]
) -> Agreement:
    """A float32 model and its float16 twin on pictures, without the roundings of an engine."""
    return Reference.of(full, card, pictures).compare(half.SerializeToString())
