"""Evaluations of whole data sets: scores, failures, memory, views and batches."""

from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_engine import PALETTE, FakeEngine, color_picture, make_card
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation import evaluate as evaluation
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions, evaluate
from algm_trt.runtime.evaluation.metrics import areas_of
from algm_trt.runtime.evaluation.multiscale import Protocol
from algm_trt.runtime.evaluation.sets import EvaluationSet, open_set
from algm_trt.runtime.pipeline import EngineFailedError
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.window_runner import HostWindowRunner

SIZES = [(40, 61), (32, 32), (97, 33), (20, 20), (64, 101)]


def truth_of(picture: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Class of the nearest colour of the palette, with some pixels ignored."""
    distance = np.abs(picture[:, :, None].astype(int) - np.array(PALETTE)).sum(axis=-1)
    truth = distance.argmin(axis=2).astype(np.uint8)
    truth[np.random.default_rng(seed).random(truth.shape) < 0.1] = 255
    return truth


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of five pictures in two folders."""
    for index, size in enumerate(SIZES):
        picture = color_picture(*size, seed=index)
        for folder, pixels in (("images", picture), ("labels", truth_of(picture, seed=index))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"p{index}.png")
    return tmp_path


def opened(root: Path) -> EvaluationSet:
    return open_set("folder", root, make_card())


def options(batch_size: int = 1, protocol: Protocol | None = None, coupled: bool = False) -> EvaluationOptions:
    return EvaluationOptions(
        protocol=protocol or Protocol(),
        pipeline=PipelineOptions(batch_size=batch_size, workers=2),
        window_batch_coupled=coupled,
        quiet=True,
    )


def expected_scores(root: Path, names: list[str], short_side: int | None = None) -> tuple[float, float, float]:
    """mIoU, pixel accuracy and mean accuracy of the public interface's labels, counted class by class."""
    segmenter = Segmenter(FakeEngine())
    truth = np.concatenate([np.asarray(Image.open(root / "labels" / f"{name}.png")).ravel() for name in names])
    paths = [root / "images" / f"{name}.png" for name in names]
    found = np.concatenate([segmenter(path, short_side=short_side).labels.ravel() for path in paths])
    found, truth = found[truth != 255], truth[truth != 255]
    iou = [np.sum((truth == k) & (found == k)) / np.sum((truth == k) | (found == k)) for k in range(len(PALETTE))]
    accuracy = [np.mean(found[truth == k] == k) for k in range(len(PALETTE))]
    return float(np.mean(iou)), float(np.mean(truth == found)), float(np.mean(accuracy))


@pytest.mark.parametrize("short_side", [None, 27, 50])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_the_labels_that_users_get(root: Path, batch_size: int, short_side: int | None) -> None:
    # The short side of the model's own card adds nothing to what the protocol says.
    engine = FakeEngine(replace(make_card(), short_side=100))
    found = evaluate(engine, opened(root), options(batch_size, Protocol(short_side=short_side)))
    expected = expected_scores(root, [f"p{index}" for index in range(5)], short_side=short_side)
    scores = found.scores
    assert (scores.mean_iou, scores.pixel_accuracy, scores.mean_accuracy) == pytest.approx(expected, abs=1e-12)
    assert found.pictures == 5
    assert found.failures == ()
    assert 0 < found.tokens_kept < 1
    assert found.windows == found.tokens[0] // 17
    assert found.seconds >= found.model_seconds > 0
    assert 0 < found.boundary.mean_f_score <= 1


def test_time_of_lanes_side_by_side_counts_once(root: Path) -> None:
    class TwoLanes(FakeEngine):
        usual_batch = 1

        def window_runner(self, batch_size: int) -> HostWindowRunner:
            return Waiting(self, batch_size)

    class Waiting(HostWindowRunner):
        """Each batch waits for one in the other lane, for it is then that both are at work."""

        lanes = 2
        meeting = threading.Barrier(2)

        def run(self, requests: Any, threshold: float | None) -> Any:
            with contextlib.suppress(threading.BrokenBarrierError):  # the last one may be alone
                self.meeting.wait(1)
            time.sleep(0.02)
            return super().run(requests, threshold)

    found = evaluate(TwoLanes(), opened(root), options())
    assert found.windows > 10
    assert 0.01 * found.windows <= found.model_seconds <= found.seconds


def test_bad_label_files_are_named_and_left_out(root: Path) -> None:
    (root / "labels" / "p0.png").unlink()
    Image.fromarray(np.zeros((31, 32), np.uint8)).save(root / "labels" / "p1.png")
    Image.fromarray(np.full(SIZES[2], 5, np.uint8)).save(root / "labels" / "p2.png")
    (root / "images" / "p3.png").write_bytes(b"broken")
    for protocol in (Protocol(), Protocol(scales=(1.0, 0.5), flip=True)):
        found = evaluate(FakeEngine(), opened(root), options(2, protocol))
        assert found.pictures == 1
        assert [(failure.name, failure.kind) for failure in found.failures] == [
            ("p0", "label"),
            ("p1", "label"),
            ("p2", "label"),
            ("p3", "picture"),
        ]
        assert "no such label file" in found.failures[0].error
        assert "32x31 pixels, but the picture has 32x32" in found.failures[1].error
        assert "value 5 in 3201 pixels" in found.failures[2].error
        assert found.scores.pixels == np.sum(np.asarray(Image.open(root / "labels" / "p4.png")) != 255)
    single = evaluate(FakeEngine(), opened(root), options())
    expected = expected_scores(root, ["p4"])
    assert single.scores.mean_iou == pytest.approx(expected[0], abs=1e-12)


def test_a_sample_with_a_problem_is_left_out(root: Path) -> None:
    Image.fromarray(color_picture(40, 61)).save(root / "images" / "p0.jpg")
    found = evaluate(FakeEngine(), opened(root), options())
    assert found.pictures == 4
    ((name, kind, error),) = [(failure.name, failure.kind, failure.error) for failure in found.failures]
    assert (name, kind) == ("p0", "picture")
    assert error.startswith("two pictures of this name, p0.jpg and p0.png")


def test_boundary_score_over_all_and_mean_of_the_pictures(root: Path) -> None:
    data = opened(root)
    single = []
    for sample in data.samples:
        found = evaluate(FakeEngine(), EvaluationSet(**{**data.__dict__, "samples": (sample,)}), options())
        assert found.boundary_of_pictures == found.boundary.mean_f_score
        single.append(found.boundary.mean_f_score)
    whole = evaluate(FakeEngine(), data, options())
    assert whole.boundary_of_pictures == pytest.approx(np.mean(single), abs=1e-12)
    assert whole.boundary_of_pictures != pytest.approx(whole.boundary.mean_f_score, abs=1e-6)
    entry = whole.to_dict(data.class_names)
    assert entry["boundary_f_score"] == whole.boundary.mean_f_score
    assert entry["boundary_f_score_mean_of_pictures"] == whole.boundary_of_pictures
    assert entry["classes_in_mean"] == 5


def test_what_is_kept_of_every_picture_adds_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "labels" / "p1.png").unlink()
    data = opened(root)
    found = evaluate(FakeEngine(), data, options(4))
    assert [picture.index for picture in found.scored] == [0, 2, 3, 4]
    assert sum(picture.pixels for picture in found.scored) == found.scores.pixels
    assert sum(picture.windows for picture in found.scored) == found.windows
    assert np.sum([picture.tokens for picture in found.scored], axis=0).tolist() == list(found.tokens)
    areas = np.stack([picture.areas for picture in found.scored if picture.areas is not None])
    assert areas.shape == (4, 5, 3)
    assert np.array_equal(areas.sum(axis=0), areas_of(found.scores.counts))
    alone = evaluate(FakeEngine(), EvaluationSet(**{**data.__dict__, "samples": data.samples[2:3]}), options())
    assert found.scored[1].mean_iou == pytest.approx(alone.scores.mean_iou, abs=1e-15)

    monkeypatch.setattr(evaluation, "MOST_AREAS", 5 * 5 - 1)
    assert all(picture.areas is None for picture in evaluate(FakeEngine(), data, options()).scored)


def test_not_one_picture_is_an_error(root: Path) -> None:
    for path in (root / "labels").iterdir():
        path.unlink()
    with pytest.raises(AlgmError, match=r"none of 5 pictures could be scored; the first: .*no such label file"):
        evaluate(FakeEngine(), opened(root), options())


def test_model_that_does_not_work_or_fit(root: Path) -> None:
    data = opened(root)
    with pytest.raises(UsageError, match="the model has 7 classes, but folder has 5"):
        evaluate(FakeEngine(make_card(classes=7)), data, options())

    class Broken(FakeEngine):
        def run(self, images, threshold=None):  # type: ignore[no-untyped-def]
            raise RuntimeError("no")

    with pytest.raises(EngineFailedError):
        evaluate(Broken(), data, options())


def test_whole_mode_takes_no_scales() -> None:
    with pytest.raises(UsageError, match="whole"):
        EvaluationOptions(Protocol(scales=(0.5,)), PipelineOptions(mode="whole"))
    with pytest.raises(UsageError, match="whole"):
        EvaluationOptions(Protocol(short_side=5), PipelineOptions(mode="whole"))
    EvaluationOptions(Protocol(flip=True), PipelineOptions(mode="whole"))


def test_flip_of_a_mirrored_picture_gives_mirrored_scores(root: Path, tmp_path: Path) -> None:
    mirrored = tmp_path / "mirrored"
    for folder in ("images", "labels"):
        (mirrored / folder).mkdir(parents=True)
        for path in (root / folder).iterdir():
            Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored / folder / path.name)
    found = [evaluate(FakeEngine(), opened(at), options(protocol=Protocol(flip=True))) for at in (root, mirrored)]
    # the sums of two views are the same in either order, up to the last bit of a tie
    difference = np.abs(found[0].scores.counts - found[1].scores.counts).sum()
    assert difference <= 10
    assert found[0].windows == found[1].windows


def test_coupled_batches_never_cross_pictures_or_views(root: Path) -> None:
    engine = FakeEngine()
    plain = evaluate(FakeEngine(), opened(root), options(4))
    coupled = evaluate(engine, opened(root), options(4, coupled=True))
    assert np.array_equal(plain.scores.counts, coupled.scores.counts)
    windows = [len(Segmenter(FakeEngine())(root / "images" / f"p{index}.png").token_counts) for index in range(5)]
    wanted = [size for count in windows for size in [4] * (count // 4) + [count % 4] * (count % 4 > 0)]
    assert engine.batches == wanted


def test_every_picture_hands_out_its_labels(root: Path) -> None:
    seen: dict[int, tuple[int, ...]] = {}
    evaluate(FakeEngine(), opened(root), options(), lambda index, labels: seen.update({index: labels.shape}))
    assert seen == dict(enumerate(SIZES))


def test_json_has_no_nan(root: Path) -> None:
    card = make_card(classes=6)
    for path in (root / "labels").iterdir():
        Image.fromarray(np.zeros(np.asarray(Image.open(path)).shape, np.uint8)).save(path)
    found = evaluate(FakeEngine(card), open_set("folder", root, card), options()).to_dict(card.classes)
    assert found["per_class"]["red"]["accuracy"] is not None
    assert found["per_class"]["green"]["accuracy"] is None
    assert found["classes_in_mean"] == sum(scores["iou"] is not None for scores in found["per_class"].values()) < 6
    assert list(found["per_class"]) == list(card.classes)


def test_classes_of_equal_names_are_told_apart_in_json(root: Path) -> None:
    card = make_card(classes=6)
    found = evaluate(FakeEngine(card), open_set("folder", root, card), options())
    per_class = found.to_dict(("sky", "road", "sky", "tree", "car", "wall"))["per_class"]
    assert list(per_class) == ["sky (class 0)", "road", "sky (class 2)", "tree", "car", "wall"]


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    picture = color_picture(96, 96)
    Image.fromarray(picture).save(tmp_path / "images" / "0.png")
    Image.fromarray(truth_of(picture)).save(tmp_path / "labels" / "0.png")
    data = opened(tmp_path)

    def peak(count: int) -> int:
        many = EvaluationSet(**{**data.__dict__, "samples": data.samples * count})
        tracemalloc.start()
        evaluate(FakeEngine(), many, options(2))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(5)
    assert peak(120) < 1.2 * peak(30) + 200_000


# CamVid.


def independent_scores(engine: Engine, data: EvaluationSet) -> tuple[float, float]:
    """Mean IoU and pixel accuracy computed with nothing of ours but the engine: upstream's steps, sets of pixels."""
    window, stride, patch = engine.card.size[0], engine.card.stride, engine.card.patch_size
    hits, unions, right, total = np.zeros(11), np.zeros(11), 0, 0
    for sample in data.samples:
        picture = np.asarray(Image.open(sample.image).convert("RGB"))
        truth = np.asarray(Image.open(sample.label))
        height, width = truth.shape
        logits, count = torch.zeros(11, height, width), torch.zeros(1, height, width)
        for top in [*range(0, height - window, stride), height - window]:
            for left in [*range(0, width - window, stride), width - window]:
                output = engine.run(picture[None, top : top + window, left : left + window])
                full = F.interpolate(torch.from_numpy(output.logits), scale_factor=patch, mode="bilinear")[0]
                logits[:, top : top + window, left : left + window] += full
                count[:, top : top + window, left : left + window] += 1
        found = (logits / count).softmax(0).argmax(0).numpy()
        known = truth != 11
        for number in range(11):
            hits[number] += np.sum(known & (truth == number) & (found == number))
            unions[number] += np.sum(known & ((truth == number) | (found == number)))
        right, total = right + np.sum(known & (truth == found)), total + np.sum(known)
    occurs = unions > 0
    return float(np.mean(hits[occurs] / unions[occurs])), float(right / total)


@pytest.mark.heavy
@pytest.mark.shared
def test_camvid_equals_an_independent_computation(shared: Path, tmp_path: Path) -> None:
    from algm_trt.exporter import ExportOptions, export_onnx
    from algm_trt.runtime.engine import open_engine

    path = export_onnx(shared / "checkpoints" / "camvid", tmp_path / "model.onnx", ExportOptions(verify=False)).path
    engine = open_engine(path, EngineOptions(device="cpu"))
    data = open_set("camvid", shared / "data" / "camvid", engine.card)
    assert len(data.samples) == 203
    found = evaluate(engine, data, options(2))
    miou, accuracy = independent_scores(engine, data)
    assert found.pictures == 203
    assert found.scores.mean_iou == pytest.approx(miou, abs=1e-6)
    assert found.scores.pixel_accuracy == pytest.approx(accuracy, abs=1e-6)
