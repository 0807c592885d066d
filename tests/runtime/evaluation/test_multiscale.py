"""Short side, sliding windows, scales and flip against upstream's steps carried out in plain torch."""

from __future__ import annotations

from unittest import mock

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_engine import FakeEngine, color_picture, make_card
from helpers.pictures import drawn_scene
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.evaluation import multiscale
from algm_trt.runtime.evaluation.multiscale import Protocol, View, labels_of_views
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.pipeline import Item, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.windows import plan_slide

OFFICIAL_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MARGIN = 2e-3  # windows are rounded to uint8 here and not upstream, which moves a probability by less than this


def upstream_sizes(height: int, width: int, long: float, short: float) -> tuple[int, int]:
    """What mmcv's imrescale gives: the largest size within (long, short) of the same proportions."""
    factor = min(long / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def upstream_probabilities(picture: NDArray[np.uint8], engine: FakeEngine, protocol: Protocol) -> NDArray[np.float32]:
    """Mean of the softmax maps of all views, (K, H, W), step by step as the official evaluation goes."""
    height, width = picture.shape[:2]
    window, stride, patch = engine.card.size[0], engine.card.stride, engine.card.patch_size
    total = torch.zeros(len(engine.card.classes), height, width)
    count = 0
    for scale in protocol.scales:
        for flip in (False, True) if protocol.flip else (False,):
            if protocol.short_side is None:
                size = int(height * scale + 0.5), int(width * scale + 0.5)
            else:
                long = np.inf if protocol.max_ratio is None else int(protocol.max_ratio * protocol.short_side * scale)
                size = upstream_sizes(height, width, long, int(protocol.short_side * scale))
            shown = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
            shown = np.ascontiguousarray(shown[:, ::-1]) if flip else shown
            logits = upstream_windows(shown, engine, window, stride, patch)
            logits = F.interpolate(logits[None], (height, width), mode="bilinear")[0]
            logits = torch.flip(logits, (2,)) if flip else logits
            total += logits.softmax(0)
            count += 1
    return (total / count).numpy()


def upstream_windows(
    shown: NDArray[np.uint8], engine: FakeEngine, window: int, stride: int, patch: int
) -> torch.Tensor:
    """Logits (K, H, W) of a resized picture: enlarge to the window, cut, run, average."""
    image = torch.from_numpy(shown).permute(2, 0, 1)[None].float()
    h, w = image.shape[2:]
    if min(h, w) < window:
        ratio = w / h if h < w else h / w
        size = (window, int(ratio * window)) if h < w else (int(ratio * window), window)
        image = F.interpolate(image, size, mode="bilinear")
    h, w = image.shape[2:]
    tops = [edge for edge in range(0, h, stride) if edge < h - window] + [h - window]
    lefts = [edge for edge in range(0, w, stride) if edge < w - window] + [w - window]
    logits, count = torch.zeros(len(engine.card.classes), h, w), torch.zeros(1, h, w)
    for top in tops:
        for left in lefts:
            crop = image[0, :, top : top + window, left : left + window]
            output = engine.run(crop.permute(1, 2, 0).round().byte().numpy()[None])
            patches = torch.from_numpy(output.logits)
            grid = patches.shape[2] * patch, patches.shape[3] * patch
            full = F.interpolate(patches, grid, mode="bilinear")[0, :, :window, :window]
            logits[:, top : top + window, left : left + window] += full
            count[:, top : top + window, left : left + window] += 1
    return logits / count


def our_labels(picture: NDArray[np.uint8], engine: FakeEngine, protocol: Protocol) -> NDArray[np.integer]:
    size = picture.shape[:2]
    items = [
        Item(view, load=lambda view=view: view.image(picture), size=lambda view=view: view.size(size))
        for view in protocol.views
    ]
    fields: list[LogitField] = []
    for outcome in run_pipeline(engine, PipelineOptions(batch_size=3), items, lambda _, inferred: inferred):
        assert outcome.value is not None, outcome.error
        fields.append(outcome.value.scores.field().at((size[0], size[1])))
    return labels_of_views(protocol.views, fields)


PROTOCOLS = {
    "as it is": Protocol(),
    "short side, enlarged": Protocol(short_side=150, max_ratio=4),
    "short side, reduced": Protocol(short_side=48, max_ratio=2),
    "long side limits": Protocol(short_side=150, max_ratio=1),
    "flip": Protocol(flip=True),
    "scales": Protocol(short_side=96, max_ratio=4, scales=(0.5, 1.0, 1.75)),
    "scales as it is": Protocol(scales=(0.75, 1.25)),
    "official": Protocol(short_side=80, max_ratio=4, scales=OFFICIAL_SCALES, flip=True),
}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("size", [(97, 131), (131, 97), (64, 64), (61, 40)])
def test_labels_equal_upstreams_steps(protocol: Protocol, size: tuple[int, int]) -> None:
    engine = FakeEngine(make_card(size=(64, 64), patch_size=16))
    picture = color_picture(*size, seed=sum(size))
    expected = upstream_probabilities(picture, engine, protocol)
    labels = our_labels(picture, engine, protocol)
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > MARGIN
    assert clear.mean() > 0.9
    assert labels.shape == size
    assert np.array_equal(labels[clear], expected.argmax(axis=0)[clear])


def test_window_that_no_patch_divides() -> None:
    engine = FakeEngine(make_card(size=(50, 50), patch_size=16))
    picture, protocol = drawn_scene(73, 101), Protocol(scales=(1.0, 0.5), flip=True)
    expected = upstream_probabilities(picture, engine, protocol)
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > MARGIN
    assert np.array_equal(our_labels(picture, engine, protocol)[clear], expected.argmax(axis=0)[clear])


def test_sizes_round_as_mmcv() -> None:
    ade = View(1.0, False, 512, 4)
    assert ade.size((683, 512)) == (683, 512)
    assert ade.size((300, 400)) == (512, 683)
    assert ade.size((256, 2560)) == upstream_sizes(256, 2560, 2048, 512)
    assert View(1.0, False, 1024, 2).size((1024, 2048)) == (1024, 2048)
    random = np.random.default_rng(0)
    for height, width in random.integers(1, 3000, (200, 2)).tolist():
        for scale in OFFICIAL_SCALES:
            size = View(scale, False, 520, 8).size((height, width))
            expected = upstream_sizes(height, width, int(8 * 520 * scale), int(520 * scale))
            assert size == tuple(max(1, side) for side in expected)


def test_view_without_change_is_the_picture_itself() -> None:
    picture = color_picture(20, 30)
    assert View().image(picture) is picture
    mirrored = View(flipped=True).image(picture)
    assert np.array_equal(mirrored[:, ::-1], picture)
    assert mirrored.flags.c_contiguous


def test_bands_do_not_change_the_labels() -> None:
    engine = FakeEngine(make_card(size=(64, 64), patch_size=16))
    picture, protocol = color_picture(97, 75), Protocol(flip=True)
    whole = our_labels(picture, engine, protocol)
    with mock.patch.object(multiscale, "_BAND_VALUES", 1):
        assert np.array_equal(our_labels(picture, engine, protocol), whole)


def test_a_mirrored_view_alone_is_mirrored_back() -> None:
    plan = plan_slide((97, 75), (64, 64), 48)
    logits = np.random.default_rng(2).standard_normal((len(plan), 5, 4, 4)).astype(np.float32)
    field = LogitField(plan, logits, 16)
    assert np.array_equal(labels_of_views([View()], [field]), field.labels())
    assert (labels_of_views([View(flipped=True)], [field]) == field.labels()[:, ::-1]).mean() > 0.99


def test_views_are_all_scales_with_both_directions() -> None:
    views = Protocol(scales=OFFICIAL_SCALES, flip=True).views
    assert [(view.scale, view.flipped) for view in views] == [
        (scale, flip) for scale in OFFICIAL_SCALES for flip in (False, True)
    ]


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0.0,)}, {"scales": (1.0, 1.0)}, {"scales": (17.0,)}, {"short_side": 0}]
)
def test_protocol_that_makes_no_sense(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Protocol(**wrong)
