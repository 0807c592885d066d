"""Pictures that algm-bench measures on: unlike ones, windows as the pipeline cuts them, and one repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.fake_engine import color_picture, make_card
from PIL import Image

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench import windows as windows_module
from algm_trt.runtime.bench.pictures import drawn_files, drawn_pictures, folder_pictures, listed_pictures
from algm_trt.runtime.bench.windows import MOST_WINDOWS, cut_windows
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.windows import canvas_image, crop

CARD = make_card(size=(32, 32))
SLIDE = PipelineOptions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, the second of them broken."""
    for index in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        path = tmp_path / "in" / f"p{index}.png"
        Image.fromarray(color_picture(40, 61 + index, seed=index)).save(path)
    (tmp_path / "in" / "p1.png").write_bytes(b"no picture")
    return tmp_path / "in"


def detail(picture: np.ndarray) -> float:
    return float(np.abs(np.diff(picture.astype(int), axis=1)).mean())


@pytest.mark.parametrize("size", [(1, 1), (17, 40), (96, 64)])
def test_drawn_scenes_have_the_size_of_the_model_and_differ(size: tuple[int, int], tmp_path: Path) -> None:
    paths = drawn_files(size, 6, tmp_path)
    scenes = [decode_image(path) for path in paths]
    assert {scene.shape for scene in scenes} == {(*size, 3)}
    if min(size) > 1:
        assert len({scene.tobytes() for scene in scenes}) == 6
    before = [path.stat().st_mtime_ns for path in paths]
    assert drawn_files(size, 6, tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_drawn_scenes_are_busy_and_calm(tmp_path: Path) -> None:
    scenes = [decode_image(path) for path in drawn_files((128, 128), 9, tmp_path)]
    busy, calm = (np.mean([detail(scene) for scene in scenes[start::3]]) for start in (0, 2))
    assert busy > 1.5 * calm


def test_windows_are_those_of_the_pipeline(folder: Path) -> None:
    pictures = folder_pictures(folder, 5, repeated=False)
    assert pictures.described == "pictures of in: 2"
    assert (pictures.count, pictures.kind) == (2, "unlike pictures")
    assert len(pictures.unreadable) == 1
    assert "p1.png" in pictures.unreadable[0]
    sources = pictures.sources(CARD, folder)
    expected = []
    for source in sources:
        image = decode_image(source.path)
        plan = SLIDE.plan((image.shape[0], image.shape[1]), CARD)
        canvas = canvas_image(image, plan)
        expected += [crop(canvas, plan, index) for index in range(len(plan))]
    windows = cut_windows(pictures, sources, CARD, SLIDE, largest_batch=1)
    np.testing.assert_array_equal(windows.pixels, np.stack(expected))
    assert (windows.origin.windows, windows.origin.available, windows.origin.pictures) == (len(expected),) * 2 + (2,)


def test_windows_are_bounded(tmp_path: Path) -> None:
    Image.fromarray(color_picture(32, 4000)).save(tmp_path / "long.png")
    pictures = folder_pictures(tmp_path, 1, repeated=False)
    sources = pictures.sources(CARD, tmp_path)
    assert len(cut_windows(pictures, sources, CARD, SLIDE, largest_batch=8).pixels) == MOST_WINDOWS
    assert len(cut_windows(pictures, sources, CARD, SLIDE, largest_batch=100).pixels) == 100


def test_windows_come_from_all_over_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):  # 100 windows each
        Image.fromarray(np.full((32, 32 + 24 * 99, 3), index, np.uint8)).save(tmp_path / f"{index}.png")
    pictures = folder_pictures(tmp_path, 3, repeated=False)
    decoded: list[str] = []

    def noted(path: Path, *, max_pixels: int) -> np.ndarray:
        decoded.append(path.name)
        return decode_image(path, max_pixels=max_pixels)

    monkeypatch.setattr(windows_module, "decode_image", noted)
    windows = cut_windows(pictures, pictures.sources(CARD, tmp_path), CARD, SLIDE, largest_batch=1)
    assert windows.origin.described == "64 of 300 windows, from 3 pictures"
    assert np.unique(windows.pixels, return_counts=True)[1].min() >= 21 * 32 * 32 * 3
    assert sorted(decoded) == ["0.png", "1.png", "2.png"]


def test_windows_are_cut_at_the_short_side_that_is_shown(folder: Path) -> None:
    pictures = folder_pictures(folder, 5, repeated=False)
    sources = pictures.sources(CARD, folder)
    shown = PipelineOptions(short_side=64)
    windows = cut_windows(pictures, sources, CARD, shown, largest_batch=1)
    assert windows.origin.available == sum(len(shown.plan(size, CARD)) for size in pictures.sizes)
    assert windows.origin.available > cut_windows(pictures, sources, CARD, SLIDE, largest_batch=1).origin.available


def test_pictures_come_from_all_over_a_list(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index:02d}.png" for index in range(13)]
    for index, path in enumerate(paths):
        Image.fromarray(color_picture(8, 8 + index)).save(path)
    pictures = listed_pictures(paths, 4, "here", repeated=False)
    assert [path.name for path in pictures.paths] == ["00.png", "04.png", "08.png", "12.png"]
    assert pictures.sizes == ((8, 8), (8, 12), (8, 16), (8, 20))
    assert pictures.described == "pictures of here: 4 at equal distances over 13"
    paths[4].write_bytes(b"no picture")  # another one stands in
    pictures = listed_pictures(paths, 4, "here", repeated=False)
    assert [path.name for path in pictures.paths] == ["00.png", "01.png", "08.png", "12.png"]
    assert len(pictures.unreadable) == 1


def test_one_picture_repeated(folder: Path, tmp_path: Path) -> None:
    pictures = folder_pictures(folder, 5, repeated=True)
    assert pictures.described == "one picture of in, repeated: 5"
    assert pictures.kind == "one picture repeated"
    sources = pictures.sources(CARD, folder)
    assert [source.path.name for source in sources] == ["p0.png"] * 5
    assert len({source.name for source in sources}) == 5
    windows = cut_windows(pictures, sources, CARD, SLIDE, largest_batch=2)
    assert windows.pixels.shape == (5, 32, 32, 3)
    assert (windows.pixels == windows.pixels[0]).all()
    assert windows.origin.described == "5 windows, from 1 picture"
    drawn = drawn_pictures(7, repeated=True)
    assert len({source.path for source in drawn.sources(CARD, tmp_path)}) == 1
    assert len(cut_windows(drawn, drawn.sources(CARD, tmp_path), CARD, SLIDE, 1).pixels) == 7


def test_no_picture_that_can_be_read(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no picture of here can be read: .*p1\.png"):
        listed_pictures([folder / "p1.png"], 3, "here", repeated=False)
    with pytest.raises(UsageError, match="no picture of in can be read"):
        folder_pictures(folder, 3, repeated=False, max_pixels=10)
