"""The training script on drawn pictures in CamVid's layout: checkpoints, accuracy and speed of both networks."""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import train_camvid
from parts.training_arithmetic import packed_attention

from algm_trt.exporter import ops
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.segmenter import segmenter_from_checkpoint

TINY = ["--steps", "3", "--backbone", "tiny", "--crop", "64", "--batch", "2", "--rounds", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(drawn_camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of the script."""
    folder = tmp_path_factory.mktemp("trained")
    run(drawn_camvid, folder)
    return folder


def run(data: Path, folder: Path, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        output = ["-o", str(folder), "--json", str(folder / "train.json")]
        patch.setattr(sys, "argv", ["train_camvid.py", str(data), *output, *TINY, *more])
        train_camvid.main()


def test_checkpoints_are_official_and_say_how_they_were_trained(trained: Path) -> None:
    dense, algm = (load_checkpoint(trained / name) for name in ("dense", "algm"))
    assert dense.merge is None
    assert algm.merge is not None
    assert algm.merge.layers == (1, 5)
    assert algm.merge.threshold == 0.88
    assert dense.crop == algm.crop == (64, 64)
    assert dense.dataset == "camvid"
    assert segmenter_from_checkpoint(algm, algm.merge).config.n_cls == 11


def test_both_are_evaluated_dense_and_merged_and_timed(trained: Path) -> None:
    record = json.loads((trained / "train.json").read_text())
    for name in ("dense", "algm"):
        runs = record["trained"][name]["test"]
        assert [row["run"] for row in runs] == ["dense", "merged"]
        assert [row["pictures"] for row in runs] == [3, 3]
        assert runs[0]["tokens_kept"] == 1.0
        assert runs[1]["tokens_kept"] < 1.0
    assert record["trained"]["dense"]["course"][-1]["tokens_kept"] == 1.0
    assert record["trained"]["algm"]["course"][-1]["tokens_kept"] < 1.0
    assert all(rate > 0 for rate in record["speed"]["images_per_second"].values())


def test_the_seed_decides_the_weights(trained: Path, drawn_camvid: Path, tmp_path: Path) -> None:
    run(drawn_camvid, tmp_path)
    for name in ("dense", "algm"):
        one, other = (load_checkpoint(folder / name).state for folder in (trained, tmp_path))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_are_those_that_were_evaluated(trained: Path) -> None:
    state = load_checkpoint(trained / "algm").state
    assert {value.dtype for value in state.values()} == {torch.float16}


def test_both_trainings_fit_into_the_time(drawn_camvid: Path, tmp_path: Path) -> None:
    run(drawn_camvid, tmp_path, "--steps", "1000000", "--seconds", "1.5")
    record = json.loads((tmp_path / "train.json").read_text())
    for training in record["trained"].values():
        assert 1 <= training["steps"] < 1000
        assert training["course"][-1]["step"] == training["steps"]
        assert training["seconds"] < 10


def test_a_network_is_recorded_before_it_is_evaluated(
    drawn_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_camvid, "evaluate", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(drawn_camvid, tmp_path)
    assert json.loads((tmp_path / "train.json").read_text())["trained"]["dense"]["steps"] == 3
    assert load_checkpoint(tmp_path / "dense").crop == (64, 64)


def settings(**changes: object) -> train_camvid.Settings:
    merge = train_camvid.MergeSettings((1, 5), (2, 2), 0.88)
    return dataclasses.replace(train_camvid.Settings("tiny", 64, 100, 2, merge, None, "cpu", 0), **changes)


def test_a_training_ends_by_steps_or_by_time() -> None:
    assert train_camvid._done(settings(), 50, 1e6) == 0.5
    timed = settings(seconds=8.0)
    assert train_camvid._done(timed, 50, 1.0) == 0.5
    assert train_camvid._done(timed, 50, 9.0) == 0.9
    assert train_camvid._done(timed, 50, 10.0) == 1.0
    rates = [train_camvid._rate(settings(), step / 100) for step in range(100)]
    assert rates.index(max(rates)) in (4, 5)
    assert min(rates) > 0


def attention_of_each_image(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *others: Any) -> torch.Tensor:
    """What `torch.nn.attention.varlen` says it computes; it runs on GPUs only."""
    starts, other_starts, *longest = others
    assert torch.equal(starts, other_starts)
    assert longest == [40, 40]
    images = [
        torch.softmax(torch.einsum("qhd,khd->hqk", q[a:b], k[a:b]) * q.shape[-1] ** -0.5, -1) @ v[a:b].transpose(0, 1)
        for a, b in pairwise(starts.tolist())
    ]
    return torch.cat(images, dim=1).transpose(0, 1)


def test_variable_length_attention_takes_the_place_of_packed_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attention_of_each_image)
    qkv, starts = torch.randn(50, 3 * 64), torch.tensor([0, 5, 12, 50], dtype=torch.int32)
    found = packed_attention(qkv, starts, 2, 40)
    torch.testing.assert_close(found, ops.packed_attention(qkv, starts, 2, 40))


def test_training_goes_on_from_a_checkpoint(trained: Path, drawn_camvid: Path, tmp_path: Path) -> None:
    run(drawn_camvid, tmp_path, "--weights", str(trained / "dense" / "checkpoint.pth"))
    record = json.loads((tmp_path / "train.json").read_text())
    assert record["start"] == "checkpoint.pth"
    assert (tmp_path / "algm" / "variant.yml").read_text().count("opt: sgd") == 1
