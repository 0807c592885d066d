"""The command algm-bench: tables, files, exit codes; and the sample model from end to end."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.bench import Opened, install
from helpers.fake_engine import color_picture
from PIL import Image

from algm_trt.plugins.stopping import Terminated
from algm_trt.runtime import machine as machine_module
from algm_trt.runtime.bench import cli
from algm_trt.runtime.bench import run as bench
from algm_trt.runtime.bench.cli import main
from algm_trt.runtime.cores import usable_cores
from algm_trt.runtime.machine import busy_warning

FAST = ("--rounds", "1", "--pictures", "2")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opened:
    monkeypatch.setattr(machine_module, "load_average", lambda: 0.0)
    return install(monkeypatch, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and their labels."""
    for kind, depth in (("images", 3), ("labels", 1)):
        (tmp_path / kind).mkdir()
        for index in range(2):
            picture = color_picture(40, 50, seed=index)
            Image.fromarray(picture if depth == 3 else picture[..., 0] // 60).save(tmp_path / kind / f"p{index}.png")
    return tmp_path


def words(text: str, start: str) -> list[str]:
    """Words of the first line that begins so."""
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_tables_have_a_row_per_variant(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merged.onnx", "dense.onnx", "--thresholds", "0.5,0.9", "--batch", "1,2", *FAST]) == 0
    said = capsys.readouterr()
    out = said.out
    assert out.startswith("drawn scenes, busy and calm: 2; rounds in which all variants take turns: 1,")
    assert "merged.onnx: fake backend, 32x32, fp32" in out
    lines = [line for line in out.splitlines() if line.startswith(("merged.onnx @ ", "dense.onnx  "))]
    assert len(lines) == 2 * 6
    assert words(out, "dense.onnx  ")[:3] == ["dense.onnx", "1", "100.0%"]
    assert "model alone" in out
    assert "whole job" in out
    assert "Times as fast: as dense.onnx at the same batch" in out
    assert "this percentage of the calls stay within, of 2 at batch 1, 1 at batch 2." in out
    assert "of the pictures stay within" in out
    assert "Filled: " in out
    assert "host clock" in out
    assert "Note: dense.onnx does not merge: --thresholds do not apply to it" in out
    assert "mIoU" not in out
    assert "repeated" not in out
    assert max(map(len, out.splitlines()[:30])) < 200


def test_figures_are_written_where_nobody_reads_the_table(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(cli, "say", gone)
    target = tmp_path / "figures.json"
    assert main(["dense.onnx", *FAST, "--json", str(target)]) == 141
    assert [result["model"] for result in json.loads(target.read_text())["results"]] == ["dense.onnx"]


def test_no_job_measures_the_model_alone(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu.plan", "--no-job", *FAST]) == 0
    out = capsys.readouterr().out
    assert "whole job" not in out.lower()
    assert "GPU events" in out
    assert "host clock, and events on the GPU" in out


def test_repeat_one_is_said_on_every_line(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merged.onnx", "dense.onnx", "--repeat-one", *FAST]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith(("merged.onnx @ ", "dense.onnx  "))]
    assert len(lines) == 4
    assert all(line.endswith("one picture repeated") for line in lines)
    assert "ONE PICTURE REPEATED (--repeat-one), the official way of measuring" in out


def test_json_and_plot_are_written_and_labels_give_the_miou(
    opened: Opened, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = folder / "out" / "bench.json"
    data = ("--data", str(folder / "images"), "--labels", str(folder / "labels"))
    assert main(["merged.onnx", *data, *FAST, "--json", str(target), "--plot", str(folder / "p.svg"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    content = json.loads(target.read_text())
    assert content["how"]["dataset"] == "folder"
    assert content["how"]["pictures"] == "pictures of images: 2"
    assert 0 < content["results"][0]["mean_iou"] < 1
    assert (folder / "p.svg").stat().st_size > 1000
    assert main(["merged.onnx", "--data", str(folder), "--dataset", "folder", *FAST]) == 0
    assert f"{100 * content['results'][0]['mean_iou']:.2f}" in capsys.readouterr().out


def test_the_tables_say_what_was_scored(
    opened: Opened, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plot = tmp_path / "p.svg"
    models = ("merged.onnx", "wide.onnx", "--thresholds", "0.5,0.9")
    data = ("--data", str(folder), "--dataset", "folder", "--limit", "1", "--short-side", "64")
    assert main([*models, *data, *FAST, "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "\nmean IoU: folder, 1 of 2 pictures\n" in out
    assert "merged.onnx: fake backend, 32x32, fp32, short side 64; alone on 18 windows, from 2 pictures" in out
    lines = out.splitlines()
    base, other = (
        re.split(" {2,}", next(line for line in lines if line.startswith(title)))
        for title in ("merged.onnx @ 0.5 ", "wide.onnx @ 0.5 ")
    )
    assert (base[4], other[4]) == ("1.00", "-")  # the model alone
    assert base[9] == "1.00"
    assert float(other[9]) > 0  # the whole job
    assert base[11] == other[11] == "1"  # pictures that were scored
    assert 0 < float(base[12].removesuffix("%")) < 100
    assert "Note: windows differ in size (merged.onnx 32x32, wide.onnx 24x40)" in out
    assert "mean IoU (%), folder, 1 of 2 pictures" in plot.read_text()
    assert "wide.onnx (24x40)" in plot.read_text()


def test_files_that_are_devices_pipes_and_links(
    opened: Opened, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, target in (("null.svg", "/dev/null"), ("link.json", str(tmp_path / "real.json"))):
        (tmp_path / name).symlink_to(target)
    before = Path("/dev/null").stat()
    alone = ("merged.onnx", "--no-job", *FAST)
    assert main([*alone, "--json", "/dev/null", "--plot", str(tmp_path / "null.svg"), "-q"]) == 0
    after = Path("/dev/null").stat()
    assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert (tmp_path / "null.svg").is_symlink()
    assert main([*alone, "--json", str(tmp_path / "link.json"), "-q"]) == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["results"]
    capfd.readouterr()


def test_left_out_is_exit_code_5(opened: Opened, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["small.plan", "--batch", "1,8", "--rounds", "1", "-q"]) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("algm-bench: not measured: small.plan @ 0.88, batch 8: the plan takes batches of 1 to 4")
    (folder / "images" / "p0.png").write_bytes(b"")
    assert main(["merged.onnx", "--data", str(folder / "images"), *FAST, "-q"]) == 5
    assert "p0.png" in capsys.readouterr().err


def test_every_problem_is_one_line(opened: Opened, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "labels" / "p0.png").rename(folder / "labels" / "no\npicture.png")
    images, labels = str(folder / "images"), str(folder / "labels")
    assert main(["merged.onnx", "--data", images, "--labels", labels, "--no-job", *FAST, "-q"]) == 5
    assert all(line.startswith("algm-bench: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--synthetic", "--data", "."), "leave one of them out"),
        (("--labels", "."), "--labels names the ground truth of --data"),
        (("--dataset", "camvid"), "needs --data"),
        (("--limit", "2"), "for pictures with ground truth"),
        (("--data", "nowhere"), "nowhere"),
        (("--plot", "x.jpg"), "must end in .png, .svg, .pdf"),
        (("--save", "nothing"), "cannot save nothing"),
        (("--batch", "2,2"), "batch size is given twice"),
        (("--short-side", "64", "--mode", "whole"), "leave out --short-side"),
        (("--stride", "99"), "stride must be between 1 and the window's 32 pixels"),
    ],
)
def test_usage_errors(
    opened: Opened, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["merged.onnx", *FAST, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("algm-bench: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_arguments_that_argparse_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    options = (("--batch", "0"), ("--batch", "a"), ("--thresholds", "x"), ("--rounds", "0"), ("--short-side", "0"))
    for wrong in (*(("m", *option) for option in options), ()):
        with pytest.raises(SystemExit) as stopped:
            main(wrong)
        assert stopped.value.code == 2
    capsys.readouterr()


def test_plot_without_matplotlib_fails_before_anything_is_measured(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["merged.onnx", "--plot", "out.png"]) == 4
    assert "pip install 'algm-trt[plot]'" in capsys.readouterr().err
    assert opened.engines == []


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_files_that_cannot_be_written_are_met_before_anything_is_measured(
    opened: Opened, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "file").touch()
    assert main(["merged.onnx", option, str(tmp_path / "file" / "out.svg"), *FAST]) == 1
    assert "cannot write into" in capsys.readouterr().err
    assert not opened.engines


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupted_run_reports_the_turns_before(
    stop: type[KeyboardInterrupt],
    code: int,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    turns = bench.take_turns

    def stopped(*arguments: object) -> object:
        yield next(turns(*arguments))  # type: ignore[arg-type]
        raise stop

    monkeypatch.setattr(bench, "take_turns", stopped)
    assert main(["merged.onnx", *FAST, "--no-job", "--json", "out.json"]) == code
    said = capsys.readouterr()
    assert "INTERRUPTED: the figures come from 1 of 1 rounds" in said.out
    assert "take turns: 1 of 1, for warming up: 1" in said.out
    assert said.err == "algm-bench: interrupted; the figures are of the turns before\n"
    assert json.loads(Path("out.json").read_text())["interrupted"] is True


def test_a_run_that_is_interrupted_before_its_first_turn_reports_its_scores(
    opened: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> object:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(bench, "take_turns", stopped)
    files = ("--json", "out.json", "--plot", "out.svg")
    assert main(["merged.onnx", "--data", str(folder), "--dataset", "folder", *FAST, *files]) == 130
    said = capsys.readouterr()
    assert "INTERRUPTED: these scores were complete, no speed was measured" in said.out
    (score,) = json.loads(Path("out.json").read_text())["scores"]
    row = ["merged.onnx", "@", "0.88", f"{100 * score['mean_iou']:.2f}", "2", f"{score['tokens_kept_scored']:.1%}"]
    assert words(said.out, "merged.onnx @ ") == row
    assert said.err == "algm-bench: interrupted; the scores are of the models before\n"
    assert not Path("out.svg").exists()


def test_a_busy_machine_is_warned_about(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert busy_warning(None) is None
    assert busy_warning(0.2 * usable_cores()) is None
    warning = busy_warning(usable_cores())
    assert warning is not None
    assert "something else is running" in warning
    monkeypatch.setattr(machine_module, "load_average", lambda: 100.0)
    assert main(["merged.onnx", *FAST, "--no-job"]) == 0
    assert "the load is 100 on" in capsys.readouterr().err


def test_the_sample_is_measured_with_labels(
    sample_model: Path,
    dense_sample_model: Path,
    sample_pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target, plot = tmp_path / "out.json", tmp_path / "out.png"
    labels = sample_pictures.parent / "labels"
    models = (str(sample_model), f"onnxruntime:{dense_sample_model}")
    options = ("--thresholds", "0.95", "--batch", "2", "--rounds", "2", "--pictures", "2", "--limit", "2")
    files = ("--json", str(target), "--plot", str(plot))
    assert main([*models, "--data", str(sample_pictures), "--labels", str(labels), *options, *files]) == 0
    merged, dense = json.loads(target.read_text())["results"]
    assert merged["tokens"]["kept"] < 0.7
    assert dense["tokens"]["kept"] == 1.0
    assert dense["threshold"] is None
    assert 0.3 * dense["gflops"]["per_window"] < merged["gflops"]["per_window"] < 0.9 * dense["gflops"]["per_window"]
    assert merged["gflops"]["exact"] is True
    assert merged["mean_iou"] > 0.4
    assert merged["whole_job"]["pictures"] == 2
    assert merged["whole_job"]["share_of_work"]["model"] > 0.1
    out = capsys.readouterr().out
    assert "GPU" not in out
    assert "GFLOPs: products of matrices" in out
    picture = np.asarray(Image.open(plot).convert("RGB"))
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
