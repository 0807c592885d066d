"""The model card: what it refuses, its grid, and its way through JSON."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_engine import make_card

from algm_trt.runtime.card import MergeSettings, ModelCard, ModelCardError

FULL = ModelCard(
    classes=("wall", "sky"),
    palette=((1, 2, 3), (253, 254, 255)),
    size=(33, 48),
    patch_size=16,
    stride=21,
    mean=(1.5, 2.5, 3.5),
    std=(4.5, 5.5, 6.5),
    extra_tokens=2,
    merge=MergeSettings(layers=(2, 5, 7), window=(2, 4), threshold=-0.25),
    dataset="somewhere",
    ignore_index=0,
    architecture="ViT",
    precision="fp16",
    checkpoint_sha256="ab12",
    tool_version="9.9",
    licence="none",
)


@pytest.mark.parametrize("card", [FULL, replace(FULL, merge=None), make_card()], ids=["merging", "dense", "defaults"])
def test_json_keeps_every_field_and_its_type(card: ModelCard) -> None:
    again = ModelCard.from_json(card.to_json())
    assert again == card
    assert hash(again) == hash(card)


def test_a_card_without_the_optional_fields_has_one_class_token_and_no_merging() -> None:
    card = ModelCard(("a",), ((0, 0, 0),), (32, 32), 16, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    required = {name: json.loads(card.to_json())[name] for name in [field.name for field in fields(card)][:7]}
    assert ModelCard.from_json(json.dumps(required)) == card
    assert (card.extra_tokens, card.merge, card.ignore_index, card.precision) == (1, None, 255, "fp32")


@pytest.mark.parametrize(
    ("size", "grid"), [((32, 32), (2, 2)), ((33, 48), (3, 3)), ((1, 17), (1, 2)), ((31, 64), (2, 4))]
)
def test_grid_reaches_beyond_the_size(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert replace(FULL, size=size).grid == grid


@pytest.mark.parametrize(("layers", "window"), [((1,), (1, 2)), ((1, 2), (2, 1)), ((3, 12), (4, 4))])
def test_merge_settings_at_their_limits(layers: tuple[int, ...], window: tuple[int, int]) -> None:
    assert MergeSettings(layers, window, 0.5).window == window


@pytest.mark.parametrize("layers", [(), (0,), (0, 1), (-1, 2), (8, 1), (1, 1)])
def test_layers_ascend_from_one(layers: tuple[int, ...]) -> None:
    with pytest.raises(ModelCardError, match="layers must be ascending"):
        MergeSettings(layers, (2, 2), 0.5)


@pytest.mark.parametrize("window", [(1, 1), (0, 4), (4, 0), (-2, -2)])
def test_a_merging_window_holds_two_tokens(window: tuple[int, int]) -> None:
    with pytest.raises(ModelCardError, match="at least 2 tokens"):
        MergeSettings((1,), window, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": (), "palette": ()}, "0 classes with 0 colours"),
        ({"classes": ("wall",)}, "1 classes with 2 colours"),
        ({"palette": ((1, 2, 3), (253, 254, 256))}, r"colours must lie in 0\.\.255"),
        ({"palette": ((1, 2, 3), (253, -1, 255))}, r"colours must lie in 0\.\.255"),
        ({"size": (0, 48)}, "must be positive"),
        ({"size": (33, 0)}, "must be positive"),
        ({"patch_size": 0}, "must be positive"),
        ({"stride": 0}, "must be positive"),
        ({"format_version": 0}, "format 0, this version reads 1: export the model again"),
        ({"format_version": 2}, "format 2, this version reads 1: export the model again"),
    ],
)
def test_cards_that_contradict_themselves(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelCardError, match=message):
        replace(FULL, **change)


def test_the_smallest_card() -> None:
    assert replace(FULL, size=(1, 1), patch_size=1, stride=1).grid == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"size": [32]},
        {"size": [32, 32, 3]},
        {"size": "32x32"},
        {"palette": [[1, 2], [3, 4]]},
        {"classes": None},
        {"patch_size": "16"},
        {"merge": {"layers": [1]}},
        {"merge": [1, 2]},
        {"size": [32, 1e999]},
        {"patch_size": float("nan")},
        {"stride": 10**30},
        {"classes": ["wall", 2]},
        {"mean": [1.5, 2.5]},
        {"std": [4.5, 5.5, None]},
        {"architecture": 5},
        {"precision": None},
        {"merge": False},
        {"a field of tomorrow": 1},
    ],
    ids=str,
)
def test_json_that_is_no_card(change: dict[str, Any]) -> None:
    with pytest.raises(ModelCardError, match=r"cannot be read \(.+\): export the model again"):
        ModelCard.from_json(json.dumps({**json.loads(FULL.to_json()), **change}))


def test_model_without_a_card_is_named() -> None:
    assert ModelCard.from_metadata(Path("model.onnx"), FULL.to_json()) == FULL
    with pytest.raises(ModelCardError, match=r"^model\.onnx: not a model of algm-export \("):
        ModelCard.from_metadata(Path("model.onnx"), None)


@pytest.mark.parametrize("text", ["", "[]", "null", "1", "{", "{}", '"card"', "[" * 100_000], ids=lambda text: text[:6])
def test_text_that_is_no_card(text: str) -> None:
    with pytest.raises(ModelCardError, match="cannot be read"):
        ModelCard.from_json(text)
