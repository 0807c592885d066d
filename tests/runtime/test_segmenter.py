"""The Python interface: what can be given, what comes back, how it ends."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card
from PIL import Image

import algm_trt.runtime
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime import Segmenter, load
from algm_trt.runtime.decode import DecodeError


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(FakeEngine())


def test_path_array_and_pillow_picture_give_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    picture = color_picture(50, 40)
    path = tmp_path / "street.png"
    Image.fromarray(picture).save(path)
    results = [segmenter(given) for given in (path, str(path), picture, Image.fromarray(picture))]
    assert all(np.array_equal(result.labels, results[0].labels) for result in results)
    assert [result.name for result in results] == ["street", "street", "image", "image"]
    assert [result.file for result in results] == ["street.png", "street.png", "", ""]
    assert np.array_equal(results[0].image, picture)
    assert results[0].classes == segmenter.card.classes


def test_pictures_in_memory_are_numbered_where_there_are_several(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(color_picture(50, 40)).save(tmp_path / "street.png")
    pictures = [color_picture(50, 40), tmp_path / "street.png", color_picture(40, 50)]
    assert [result.name for result in segmenter(pictures)] == ["image_000000", "street", "image_000002"]
    for result in segmenter.stream(pictures):
        result.save(tmp_path / "out")
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 3


def test_larger_pictures_are_refused_unless_asked_for(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(color_picture(50, 40)).save(tmp_path / "street.png")
    with pytest.raises(DecodeError, match="the limit is 1,999"):
        segmenter(tmp_path / "street.png", max_pixels=1999)
    assert segmenter(tmp_path / "street.png", max_pixels=2000).labels.shape == (50, 40)
    with pytest.raises(DecodeError, match="max_pixels in Python"):
        list(segmenter.stream([tmp_path / "street.png"], max_pixels=1999))


def test_the_short_side_changes_the_windows_and_not_the_size_of_the_labels(segmenter: Segmenter) -> None:
    picture = color_picture(101, 152)
    plain, small, large = (segmenter(picture, short_side=side) for side in (None, 40, 150))
    assert len(small.plan) < len(plain.plan) < len(large.plan)
    assert small.plan.shown == (40, 60)
    assert {result.labels.shape for result in (plain, small, large)} == {(101, 152)}
    with pytest.raises(UsageError, match="mode slide only"):
        segmenter(picture, mode="whole", short_side=40)
    for wrong in ({"max_ratio": 2}, *({"short_side": 40, "max_ratio": ratio} for ratio in (0.5, float("nan"), "4"))):
        with pytest.raises(UsageError, match="a largest ratio goes with a short side"):
            segmenter(picture, **wrong)
    with pytest.raises(UsageError, match="must not be negative"):
        segmenter(picture, short_side=-1)


def test_the_short_side_is_that_of_the_model_unless_another_is_asked_for(segmenter: Segmenter) -> None:
    picture = color_picture(101, 152)
    evaluated_at_40 = Segmenter(FakeEngine(replace(make_card(), short_side=40)))
    assert evaluated_at_40(picture).plan == segmenter(picture, short_side=40).plan
    assert evaluated_at_40(picture, short_side=64).plan == segmenter(picture, short_side=64).plan
    assert evaluated_at_40(picture, short_side=0).plan == segmenter(picture).plan
    for side in (None, 0):
        assert evaluated_at_40(picture, mode="whole", short_side=side).plan == segmenter(picture, mode="whole").plan


def test_a_list_gives_a_list_and_one_picture_gives_one_result(segmenter: Segmenter) -> None:
    pictures = [color_picture(40 + index, 50, index) for index in range(5)]
    results = segmenter(pictures, batch_size=4)
    assert isinstance(results, list)
    assert [result.labels.shape for result in results] == [(40 + index, 50) for index in range(5)]
    for picture, result in zip(pictures, results, strict=True):
        assert np.array_equal(segmenter(picture).labels, result.labels)
    assert segmenter([]) == []
    assert isinstance(segmenter([pictures[0]]), list)


def test_a_stream_takes_pictures_as_it_needs_them(segmenter: Segmenter) -> None:
    taken = []

    def pictures() -> object:
        for index in range(1000):
            taken.append(index)
            yield color_picture(32, 32, index)

    stream = segmenter.stream(pictures(), workers=1)  # type: ignore[arg-type]
    assert next(stream).labels.shape == (32, 32)
    stream.close()
    assert len(taken) < 20


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_results_stay_when_one_array_holds_all_pictures(segmenter: Segmenter, channels: int) -> None:
    pictures = [np.dstack([color_picture(37, 41, seed)] * 2)[..., :channels] for seed in range(8)]
    expected = segmenter(pictures)
    frame = np.empty_like(pictures[0])

    def read_into_one_array() -> Iterator[np.ndarray]:
        for picture in pictures:
            frame[:] = picture
            yield frame

    results = list(segmenter.stream(read_into_one_array()))
    frame[:] = pictures[0]
    results.append(segmenter(frame))
    frame[:] = 0
    for result, same in zip(results, [*expected, expected[0]], strict=True):
        assert not np.may_share_memory(result.image, frame)
        assert np.array_equal(result.image, same.image)
        assert np.array_equal(result.labels, same.labels)
        assert np.array_equal(result.overlay(), same.overlay())


@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50)])
def test_one_picture_is_no_stream(segmenter: Segmenter, shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    for given in ("street.png", Path("street.png"), picture, Image.fromarray(picture)):
        with pytest.raises(UsageError, match="stream takes several pictures: call the segmenter for one"):
            segmenter.stream(given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one after another, got int"):
        segmenter.stream(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch size"):
        segmenter.stream([picture], batch_size=0)


def test_a_stream_takes_a_batch_and_an_array_of_paths(segmenter: Segmenter, tmp_path: Path) -> None:
    batch = np.stack([color_picture(40, 50, seed) for seed in range(3)])
    assert [np.array_equal(r.image, p) for r, p in zip(segmenter.stream(batch), batch, strict=True)] == [True] * 3
    Image.fromarray(batch[0]).save(tmp_path / "street.png")
    assert [result.name for result in segmenter.stream(np.array([str(tmp_path / "street.png")]))] == ["street"]


class Upload:
    """Bytes that can be read once, as a web server hands them over."""

    def __init__(self, data: bytes):
        self.data = data

    def read(self) -> bytes:
        data, self.data = self.data, b""
        return data


def encoded(picture: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_bytes_and_open_files_are_pictures(segmenter: Segmenter, tmp_path: Path) -> None:
    picture = color_picture(50, 40)
    data = encoded(picture)
    (tmp_path / "street.png").write_bytes(b"head" + data)
    with (tmp_path / "street.png").open("rb") as file:
        file.seek(4)
        given = [data, bytearray(data), memoryview(data), io.BytesIO(data), Upload(data), file]
        results = segmenter(given)
        assert not file.closed
    assert [result.name for result in results] == [f"image_{place:06}" for place in range(6)]
    for result in (*results, segmenter(data), segmenter(io.BytesIO(data))):
        assert np.array_equal(result.image, picture)


def test_files_may_be_closed_as_soon_as_they_are_taken(segmenter: Segmenter, tmp_path: Path) -> None:
    pictures = [color_picture(33 + seed, 40, seed) for seed in range(9)]

    def opened() -> Iterator[BinaryIO]:
        for place, picture in enumerate(pictures):
            path = tmp_path / f"{place}.png"
            path.write_bytes(encoded(picture))
            with path.open("rb") as file:
                yield file

    for result, picture in zip(segmenter.stream(opened()), pictures, strict=True):
        assert np.array_equal(result.image, picture)


def test_an_upload_is_turned_and_checked_as_a_file(segmenter: Segmenter) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(color_picture(50, 40), exif=exif)
    assert segmenter(data).labels.shape == (40, 50)
    for given in (data, Upload(data), Image.open(io.BytesIO(data))):
        with pytest.raises(DecodeError, match="too large: 40 x 50 = 2,000 pixels, the limit is 1,999"):
            segmenter(given, max_pixels=1999)
    assert segmenter(Image.open(io.BytesIO(data)), max_pixels=2000).labels.shape == (40, 50)


def test_a_pillow_picture_that_is_too_large_is_not_decoded(segmenter: Segmenter) -> None:
    picture = Image.open(io.BytesIO(encoded(color_picture(50, 40))))
    with pytest.raises(DecodeError, match="too large"):
        segmenter(picture, max_pixels=1999)
    assert picture.fp is not None  # Pillow drops the file once the pixels are there


def test_uploads_that_cannot_be_read_fail_in_their_turn(segmenter: Segmenter, tmp_path: Path) -> None:
    data = encoded(color_picture(50, 40))
    (tmp_path / "a.png").write_bytes(data)
    closed = (tmp_path / "a.png").open("rb")
    closed.close()
    at_the_end = io.BytesIO(data)
    at_the_end.read()
    with (tmp_path / "a.png").open(encoding="latin-1") as text:
        for given, words in (
            (b"", "the picture is empty: no bytes"),
            (b"plain words", "not a picture"),
            (data[:-900], "^the picture is truncated"),
            (at_the_end, r"seek\(0\)"),
            (closed, "the file cannot be read .*closed"),
            (text, "open it in binary mode"),
            (io.StringIO("a"), "open it in binary mode"),
        ):
            results = segmenter.stream([data, given])  # type: ignore[list-item]
            assert next(results).labels.shape == (50, 40)
            with pytest.raises(DecodeError, match=words):
                next(results)
            with pytest.raises(UsageError, match="call the segmenter for one"):
                segmenter.stream(given)  # type: ignore[arg-type]


def test_grey_and_transparent_arrays_are_taken(segmenter: Segmenter) -> None:
    grey = color_picture(33, 44)[..., 0]
    assert np.array_equal(segmenter(grey).labels, segmenter(np.repeat(grey[..., None], 3, axis=2)).labels)
    assert segmenter(np.zeros((20, 20, 4), np.uint8)).labels.shape == (20, 20)


@pytest.mark.parametrize("wrong", [None, 3, np.zeros((4, 4, 3)), np.zeros(7, np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(segmenter: Segmenter, wrong: object) -> None:
    with pytest.raises(DecodeError):
        segmenter(wrong)  # type: ignore[call-overload]


def test_a_missing_file_is_an_error_that_names_it(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"nowhere\.jpg: no such file"):
        segmenter(tmp_path / "nowhere.jpg")
    with pytest.raises(DecodeError, match=r"nowhere\.jpg"):
        segmenter([color_picture(32, 32), tmp_path / "nowhere.jpg"])


def test_an_error_leaves_memory_without_the_garbage_collector(segmenter: Segmenter, tmp_path: Path) -> None:
    gc.disable()
    try:
        with pytest.raises(DecodeError) as caught:
            segmenter(tmp_path / "nowhere.png")
        error = weakref.ref(caught.value)
        del caught
        assert error() is None
    finally:
        gc.enable()


def test_options_are_passed_on_and_checked(segmenter: Segmenter) -> None:
    picture = color_picture(70, 70)
    assert len(segmenter(picture, mode="whole").token_counts) == 1
    assert len(segmenter(picture, stride=32).token_counts) == 9
    with pytest.raises(UsageError, match="mode"):
        segmenter(picture, mode="tiles")
    with pytest.raises(TypeError):
        segmenter(picture, strides=3)


def test_the_engine_is_at_hand_and_closed_at_the_end() -> None:
    engine = FakeEngine()
    with Segmenter(engine) as segmenter:
        output = segmenter.engine.run(np.zeros((2, 32, 32, 3), np.uint8))
        assert output.logits.shape == (2, 5, 4, 4)
        assert "fake backend" in repr(segmenter)
    assert engine.closed


def test_load_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model file; algm-export"):
        load(tmp_path / "model.onnx")
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(UsageError, match=r"is a checkpoint: algm-export .*checkpoint\.pth makes a model\.onnx of it"):
        load(tmp_path / "checkpoint.pth")
    with pytest.raises(UsageError, match=r"is a folder: name the model file in it, such as .*model\.onnx"):
        load(tmp_path)
    with pytest.raises(UsageError, match="no such model file; algm-build-engine"):
        load(tmp_path / "model.plan")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(AlgmError, match=r"junk\.onnx"):
        load(tmp_path / "junk.onnx", device="cpu")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_model_whose_path_is_not_utf8(tmp_path: Path, backend: str) -> None:
    model = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    model.write_bytes(b"junk")
    with pytest.raises(AlgmError, match="paths in UTF-8 only; rename"):
        load(model, device="cpu", backend=backend)
    with pytest.raises(AlgmError, match=r"caf\\xe9\.onnx: "):
        load(model, device="cpu", backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_good_model_may_have_any_path(sample_model: Path, tmp_path: Path, backend: str) -> None:
    model = tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"ex\xe9.onnx")
    model.parent.mkdir()
    model.write_bytes(sample_model.read_bytes())
    with load(model, device="cpu", backend=backend) as segmenter:
        assert segmenter(np.zeros((64, 64, 3), np.uint8)).labels.shape == (64, 64)


def test_the_package_imports_its_names_when_they_are_used() -> None:
    code = (
        "import sys, algm_trt.runtime; heavy = {'numpy', 'cv2', 'onnxruntime', 'torch', 'PIL'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "from algm_trt.runtime import load;"
        "assert not {'onnxruntime', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert algm_trt.runtime.Segmenter is Segmenter
    with pytest.raises(AttributeError):
        algm_trt.runtime.nothing  # noqa: B018
