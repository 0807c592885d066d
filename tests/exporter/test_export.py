"""The exporter's choices and places: wrong options are usage errors, and nothing that is read is written over."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.checkpoints import write_checkpoint
from helpers.models import random_segmenter

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.cli import main
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import MergeSettings

SMALL = SegmenterConfig(image_size=(32, 32), patch_size=8, d_model=64, n_layers=2, n_heads=1, d_ff=256, n_cls=5)
SMALL_MERGE = MergeSettings((1, 2), (2, 2), 0.6)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "run", random_segmenter(SMALL), SMALL_MERGE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge_layers": (2, 1)}, "ascending"),
        ({"merge_layers": (1, 1)}, "ascending"),
        ({"merge_layers": (0, 1)}, "at least 1"),
        ({"merge_layers": (1, 3)}, "beyond the encoder's 2 layers"),
        ({"merge_window": (1, 1)}, "at least 2 tokens"),
        ({"merge_window": (3, 3)}, "nearest sizes"),
        ({"threshold": math.nan}, "finite"),
        ({"threshold": math.inf}, "finite"),
        ({"merge": False, "threshold": 0.5}, "--no-merge"),
        ({"precision": "FP16"}, "expected fp32, fp16, int8"),
        ({"size": (0, 32)}, "at least one pixel"),
        ({"size": (1024, 1024), "merge_window": (128, 128)}, "window is 128x128, its sides must be 1 to 64"),
        ({"size": (1024, 1024), "merge_window": (2, 128)}, "window is 2x128, its sides must be 1 to 64"),
        ({"size": (32776, 16)}, "grid of a 32776x16 input is 4097x2, its sides must be 1 to 4096"),
        ({"size": (65537, 16), "merge": False}, "a 65537x16 input is 65544x16, its sides must be 1 to 65536"),
        ({"size": (100_000, 100_000)}, "has 156250000 patches, the operators take at most 1048571"),
        ({"size": (100_000, 100_000), "merge": False}, "has 156250000 patches, the operators take at most 1048571"),
    ],
)
def test_options_that_make_no_model(options: dict[str, Any], message: str, checkpoint: Path) -> None:
    before = sorted(checkpoint.iterdir())
    with pytest.raises(UsageError, match=message):
        export_onnx(checkpoint, options=ExportOptions(**options, verify=False))
    assert sorted(checkpoint.iterdir()) == before


def test_the_largest_window_is_exported(checkpoint: Path) -> None:
    options = ExportOptions(size=(512, 1024), merge_window=(64, 64), verify=False)
    assert export_onnx(checkpoint, options=options).card.merge == MergeSettings((1, 2), (64, 64), 0.6)


def test_pictures_for_a_comparison_that_is_skipped(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(checkpoint.iterdir())
    assert main([str(checkpoint), "--no-verify", "--verify-images", str(tmp_path)]) == 2
    assert "leave out --verify-images, or --no-verify" in capsys.readouterr().err
    assert sorted(checkpoint.iterdir()) == before


@pytest.mark.parametrize("name", ["checkpoint.pth", "variant.yml", "names.txt", "run"])
def test_what_is_read_is_not_written_over(name: str, checkpoint: Path, tmp_path: Path) -> None:
    names = checkpoint / "names.txt"
    names.write_text("".join(f"class {index}\n" for index in range(5)))
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    target = tmp_path / name if name == "run" else checkpoint / ".." / "run" / name
    with pytest.raises(UsageError, match="folder" if name == "run" else "written over"):
        export_onnx(checkpoint, target, ExportOptions(classes=names, verify=False))
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_report_does_not_take_the_place_of_the_class_list(checkpoint: Path) -> None:
    names = checkpoint / "model.onnx.json"
    names.write_text('["a", "b", "c", "d", "e"]')
    with pytest.raises(UsageError, match="written over"):
        export_onnx(checkpoint, options=ExportOptions(classes=names, verify=False))


def test_class_list_given_as_a_string(checkpoint: Path) -> None:
    names = checkpoint / "names.txt"
    names.write_text("red\ngreen\nblue\ngrey\nwhite\n")
    report = export_onnx(str(checkpoint), options=ExportOptions(classes=str(names), verify=False))
    assert report.card.classes == ("red", "green", "blue", "grey", "white")


def test_place_is_tried_before_the_work(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algm_trt.exporter.export.build_graph", lambda *_: pytest.fail("the graph was built"))
    target = checkpoint / "variant.yml" / "model.onnx"
    with pytest.raises(AlgmError, match=r"cannot write into .*: Not a directory; name another place with -o"):
        export_onnx(checkpoint, target)


def test_a_full_disk_is_one_clear_error(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "out" / "model.onnx"
    monkeypatch.setattr("onnx.save", full)
    with pytest.raises(AlgmError, match=rf"^cannot write {target}: No space left on device$"):
        export_onnx(checkpoint, target)
    assert list(target.parent.iterdir()) == []


def test_another_file_is_not_written_over(checkpoint: Path) -> None:
    target = checkpoint / "model.onnx"
    target.write_text("my own thing")
    with pytest.raises(UsageError, match=r"model\.onnx is there already .*: --force overwrites it"):
        export_onnx(checkpoint, options=ExportOptions(verify=False))
    assert target.read_text() == "my own thing"
    export_onnx(checkpoint, options=ExportOptions(verify=False, force=True))
    assert target.read_bytes() != b"my own thing"
    export_onnx(checkpoint, options=ExportOptions(verify=False))  # an export may take the place of another


@pytest.mark.parametrize(("precision", "name"), [("fp32", "model"), ("fp16", "model.fp16"), ("int8", "model.int8")])
def test_names_of_precisions(precision: str, name: str, checkpoint: Path) -> None:
    report = export_onnx(checkpoint, options=ExportOptions(precision=precision, verify=False))
    assert (report.path, report.report_path) == (checkpoint / f"{name}.onnx", checkpoint / f"{name}.onnx.json")


def test_windows_are_those_of_the_official_evaluation(checkpoint: Path) -> None:
    file = checkpoint / "variant.yml"
    variant = yaml.safe_load(file.read_text())
    variant["dataset_kwargs"]["image_size"] = 40
    variant["inference_kwargs"] = {"window_stride": 24}
    file.write_text(yaml.safe_dump(variant))
    report = export_onnx(checkpoint, options=ExportOptions(verify=False))
    assert (report.card.short_side, report.card.stride) == (40, 32)
    assert "windows start every 32 pixels, as in the official evaluation; variant.yml says 24: --stride" in " ".join(
        report.notes
    )
    wider = export_onnx(checkpoint, options=ExportOptions(size=(64, 64), verify=False))
    assert not any("windows start" in note for note in wider.notes)


@pytest.mark.parametrize("name", ["model", "model.pb", "model.json", "model.onnx.bak"])
def test_name_by_which_no_backend_knows_the_model(name: str, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        export_onnx(checkpoint, checkpoint / name, ExportOptions(verify=False))


@pytest.mark.parametrize("layers", ["1", "1,2"])
def test_layers_are_a_list_with_commas(layers: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-verify", "--merge-layers", layers, str(checkpoint)]) == 0
    assert f"merges at layers {layers.replace(',', ', ')} in windows" in capsys.readouterr().out


def test_layers_that_are_no_such_list(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--merge-layers", "1;2", str(checkpoint)])
    assert caught.value.code == 2
    assert "expected layers such as 1,5, got '1;2'" in capsys.readouterr().err


def test_a_name_that_no_terminal_prints(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = checkpoint / "caf\udce9" / "model.onnx"  # Latin-1 where UTF-8 is expected
    assert main([str(checkpoint), "-o", str(target), "--no-verify"]) == 0
    assert target.is_file()
    assert "caf\\udce9/model.onnx" in capsys.readouterr().out


def test_what_is_not_known_of_the_merging_is_not_claimed(checkpoint: Path) -> None:
    """Weights do not tell whether a network merged while it was trained; variant.yml does."""
    trained = SMALL_MERGE.layers

    def notes(**options: Any) -> str:
        return " ".join(export_onnx(checkpoint, options=ExportOptions(verify=False, **options)).notes)

    assert "merg" not in notes()
    (checkpoint / "variant.yml").rename(checkpoint / "lost.yml")
    unknown = notes()
    assert "nothing says whether the checkpoint merged" in unknown
    assert "variant.yml" in unknown
    assert "trained without merging" not in unknown
    given = notes(merge_layers=trained, threshold=0.6)
    assert "nothing says how the checkpoint merged" in given
    assert "trained without merging" not in given
    assert "merg" not in notes(merge=False)
    write_checkpoint(checkpoint, random_segmenter(SMALL), None)
    assert "trained without merging, the model is dense" in notes()
    assert "check the accuracy of the merged model" in notes(merge_layers=trained)


def test_a_threshold_that_no_window_reaches_is_noted(checkpoint: Path) -> None:
    report = export_onnx(checkpoint, options=ExportOptions(verify=False, threshold=90.0))
    assert any("no window reaches a similarity of 90" in note for note in report.notes)
