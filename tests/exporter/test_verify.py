"""Which pictures decide about an export: those whose merging does not hang on the rounding of its precision."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import TINY, random_segmenter
from helpers.pictures import drawn_scene

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.segmenter import Segmenter, normalise
from algm_trt.exporter.verify import GATES, PictureCheck, Verification, hangs_on
from algm_trt.runtime.card import MergeSettings

NOTHING = 2.0


def tokens(model: Segmenter, pixels: torch.Tensor, threshold: float) -> int:
    with torch.no_grad():
        return int(model(pixels, threshold).token_counts[0, 1])


def test_a_near_tie_of_float16_is_none_of_float32() -> None:
    """A threshold just above the similarity of the window that merges first: closer than float16 rounds."""
    model = random_segmenter(TINY, MergeSettings((1,), (2, 2), NOTHING))
    pixels = normalise(torch.from_numpy(drawn_scene(*TINY.image_size, 0)[None]), TINY.normalization)
    low, high = -1.0, NOTHING
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens(model, pixels, middle) < tokens(model, pixels, NOTHING) else (low, middle)
    for distance, near_ties in ((1e-5, ["fp16"]), (0.1, [])):
        model.merge = replace(model.merge, threshold=high + distance)  # type: ignore[type-var]
        with torch.no_grad():
            expected = model(pixels)
        assert [name for name, gate in GATES.items() if hangs_on(gate.noise, model, pixels, expected)] == near_ties
    model.merge = None
    with torch.no_grad():
        assert not hangs_on(1.0, model, pixels, model(pixels))


def test_nothing_hangs_on_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of int8: there is no need to run the network again."""
    model = random_segmenter(TINY, MergeSettings((1,), (2, 2), 0.6))
    pixels = normalise(torch.from_numpy(drawn_scene(*TINY.image_size, 0)[None]), TINY.normalization)
    with torch.no_grad():
        expected = model(pixels)
    monkeypatch.setattr(model, "forward", lambda *_: pytest.fail("the network was run"))
    assert not hangs_on(GATES["int8"].noise, model, pixels, expected)


def checked(passed: bool, near_tie: bool, labels_equal: float = 1.0) -> PictureCheck:
    return PictureCheck("picture", (9, 5, 3), (9, 5, 3), 0.0, labels_equal, near_tie, passed)


def verification(precision: str, *pictures: PictureCheck) -> Verification:
    return Verification(GATES[precision], pictures, drawn=True)


@pytest.mark.parametrize("precision", list(GATES))
def test_near_ties_do_not_decide_but_something_must(precision: str) -> None:
    def verdict(*pictures: PictureCheck) -> bool:
        return verification(precision, *pictures).passed

    def explained(*pictures: PictureCheck) -> bool:
        return "near tie:" in verification(precision, *pictures).table()

    fine, tie, wrong = checked(True, False), checked(False, True), checked(False, False)
    assert verdict(fine, tie)
    assert not verdict(fine, tie, wrong)
    assert not verdict(tie, tie)
    assert explained(fine, tie)
    assert not explained(fine, wrong)
    assert not verdict()
    assert "ONNX Runtime and PyTorch disagree on 1 of 3 pictures" in verification(precision, fine, tie, wrong).complaint
    assert "every picture is a near tie" in verification(precision, tie, tie).complaint


def test_near_ties_of_float16_count_together() -> None:
    """One of eight pictures may lose some labels; a network that loses them on most is not let through."""
    fine, tie = checked(True, False), checked(False, True, labels_equal=0.965)
    assert verification("fp16", *[fine] * 7, tie).passed
    assert not verification("fp16", fine, *[tie] * 7).passed
    assert "96.94% of the labels of all pictures are equal" in verification("fp16", fine, *[tie] * 7).complaint
    assert verification("fp32", fine, *[tie] * 7).passed


def test_what_float16_is_on_arm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """There ONNX Runtime has kernels that sum in float16; elsewhere it computes in float32."""
    told = []
    for processor in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda name=processor: name)
        tables = {name: Verification(gate, (checked(False, False),), True).table() for name, gate in GATES.items()}
        told.append([name for name, table in tables.items() if "sums float16 numbers in float16" in table])
    assert told == [[], ["fp16"]]


def test_int8_that_ruins_the_labels_does_not_pass(sample_checkpoint: Path, tmp_path: Path) -> None:
    """One channel a thousand times as large in front of every linear layer, and undone in its weights: equal numbers.

    Bytes that span that channel have no steps left for the others. Trained transformers have such channels, on a
    smaller scale.
    """
    loaded = load_checkpoint(sample_checkpoint)
    state = {name: value.clone() for name, value in loaded.state.items()}
    for index in range(loaded.config.n_layers):
        for norm, linear in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
            name = f"encoder.blocks.{index}."
            for part in ("weight", "bias"):
                state[f"{name}{norm}.{part}"][0] *= 1000
            state[f"{name}{linear}.weight"][:, 0] /= 1000
    ruined = replace(loaded, state=state)
    fp32, int8 = (
        export_onnx(ruined, tmp_path / f"{precision}.onnx", ExportOptions(precision=precision)).verification
        for precision in ("fp32", "int8")
    )
    assert fp32 is not None
    assert fp32.passed
    assert int8 is not None
    assert not int8.passed
    assert min(picture.labels_equal for picture in int8.pictures) < 0.9
