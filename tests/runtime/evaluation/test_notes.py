"""Notes on class names and on means over different classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers.fake_engine import make_card

from algm_trt.runtime.evaluation.notes import notes_on_means, notes_on_names

EXPECTED = ("Sky", "traffic light", "class 2", "road", "tree")


def test_names_that_contradict_the_order_are_told_once_per_model() -> None:
    cards = {
        "same.onnx": replace(make_card(), classes=("sky", "traffic_light", "car", "road", "Tree")),
        "numbered.onnx": replace(make_card(), classes=tuple(f"class {number}" for number in range(5))),
        "one.onnx": replace(make_card(), classes=("sky", "traffic-light", "x", "road", "bicyclist")),
        "all.onnx": replace(make_card(), classes=("bicyclist", "tree", "car", "sky", "road")),
    }
    assert notes_on_names(cards, EXPECTED, "camvid") == [
        'class 4 is "bicyclist" in one.onnx, "tree" in camvid: is the order the same?',
        'class 0 is "bicyclist" in all.onnx, "Sky" in camvid, and 3 more: is the order the same?',
    ]


def test_means_over_different_classes() -> None:
    everything = np.full(5, 0.5)
    some, fewer = everything.copy(), np.full(5, np.nan)
    some[2] = np.nan
    assert notes_on_means([], EXPECTED) == []
    assert notes_on_means([some], EXPECTED) == []
    assert notes_on_means([some, some], EXPECTED) == []
    assert notes_on_means([everything, some], EXPECTED) == [
        "the mean IoU is over different sets of classes, those that occur: 5 in (1), 4 in (2); not in all: class 2"
    ]
    assert notes_on_means([fewer, some], EXPECTED)[0].endswith("not in all: Sky, traffic light, road, ...")
