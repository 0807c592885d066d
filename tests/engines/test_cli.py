"""algm-build-engine as a command: what works by default, and one clear line for each thing that is wrong."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from helpers.engines import COMMAND, Command, model_that_float16_ruins, tiny_model
from PIL import Image

from algm_trt.engines.source import without_functions

WORKS_NOW = r"algm-infer --engine model\.onnx works now.*--target rtx"
RTX = ("--target", "rtx", "--sm", "89", "--no-verify")


def refused(done: subprocess.CompletedProcess[str], code: int, pattern: str) -> None:
    """The command ended with a code and one line, and said nothing else."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(rf"algm-build-engine: [^\n]*(?:{pattern})[^\n]*\n", done.stderr), done.stderr


@pytest.mark.rtx
def test_defaults_are_model_onnx_and_model_plan(model: Path, command: Command, plugin_library: Path) -> None:
    done = command("--fp16", "--target", "rtx", "--sm", "89", folder=model.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "model.plan", "model.plan.json"]
    parts = (
        "labels equal: 99.",
        "7 plugin layers, batch 1, 2 to 8",
        "written: model.plan (",
    )
    assert [part for part in parts if part not in done.stdout] == []
    again = command("--fp16", "--target", "rtx", "--sm", "89", folder=model.parent)
    assert again.returncode == 0
    assert "up to date: model.plan" in again.stdout


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("arguments", "profiles"),
    [(["--batch", "2", "3", "4"], [[2, 3, 4]]), (["--profiles", "1,3"], [[1, 1, 1], [2, 3, 3]])],
)
def test_batch_options_become_profiles(
    arguments: list[str], profiles: list[list[int]], model: Path, command: Command, plugin_library: Path
) -> None:
    done = command(model, *RTX, *arguments, "--workspace", "512", "--optimization-level", "1")
    assert done.returncode == 0, done.stderr
    record = json.loads(model.with_name("model.plan.json").read_text())
    assert record["profiles"] == profiles
    assert record["options"]["workspace_mib"] == 512


def test_help_and_version_need_no_package() -> None:
    code = (
        "import sys\nclass Blocker:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'onnx', 'onnx_graphsurgeon', 'tensorrt', 'numpy'}:\n"
        "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
        "sys.meta_path.insert(0, Blocker())\nfrom algm_trt.engines.cli import main\nsys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    assert "usage: algm-build-engine" in run("--help").stdout
    assert run("--version").stdout.startswith("algm-build-engine ")
    missing = "(onnx|numpy) is not installed: pip install 'algm-trt"
    refused(run("model.onnx"), 4, rf"{missing}\[engine,tensorrt\]', on the machine with the GPU.*{WORKS_NOW}")
    refused(run("model.onnx", "--target", "rtx"), 4, rf"{missing}\[engine,rtx\]'")


@pytest.mark.parametrize(
    ("content", "code", "pattern"),
    [
        (None, 2, "there is no model .*: make one with algm-export CHECKPOINT"),
        (b"not a model", 1, "is not an ONNX file, or a damaged one"),
        (b"", 1, r"not a model of algm-export \(it carries no model card\)"),
        ("truncated", 1, "is not an ONNX file, or a damaged one|is not complete|carries no model card"),
        ("stripped", 1, "is not complete, it lacks AlgmAppendTokens"),
        ("int8", 2, "is an int8 export, which is for CPUs: build from one with --precision fp32"),
    ],
)
def test_a_bad_model_is_refused_with_its_reason(
    content: bytes | str | None, code: int, pattern: str, model: Path, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "other.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "truncated":
        path.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    elif content == "stripped":
        path.write_bytes(without_functions(tiny_model()).SerializeToString())
    elif content == "int8":
        path.write_bytes(tiny_model(precision="int8").SerializeToString())
    refused(command(path, *RTX), code, pattern)


@pytest.mark.rtx
def test_float16_that_changes_the_labels_is_exit_code_3(command: Command, tmp_path: Path, plugin_library: Path) -> None:
    (tmp_path / "work").mkdir()
    onnx.save(model_that_float16_ruins(), tmp_path / "work" / "model.onnx")
    arguments = ("--fp16", "--target", "rtx", "--sm", "89")
    refused(command(*arguments, folder=tmp_path / "work"), 3, r"labels equal \(at least 99\.5%\).*build with --fp32")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (80, 60), "red").save(tmp_path / "pictures" / "red.png")
    result = command(*arguments, "--verify-images", str(tmp_path / "pictures"), folder=tmp_path / "work")
    refused(result, 3, r"on 1 picture; build with --fp32, or put more pictures into the folder of --verify-images")
    for number in range(8):
        Image.new("RGB", (80, 60), "red").save(tmp_path / "pictures" / f"{number}.png")
    result = command(*arguments, "--verify-images", str(tmp_path / "pictures"), folder=tmp_path / "work")
    refused(result, 3, r"on 8 pictures; build with --fp32$")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--batch", "4", "2", "1"], "batch 4 2 1 is not a range"),
        (["--batch", "0", "1", "1"], "batch 0 1 1 is not a range"),
        (["--profiles", "8,1"], "ascending batch sizes such as 1,8,32"),
        (["--sm", "90"], "compute capabilities 80, 86, 89, 120, 121, not for 90"),
        (["--optimization-level", "7"], "it must be 0 to 5"),
        (["--version-compatible"], "goes with --target tensorrt"),
    ],
)
def test_bad_arguments_are_refused_with_their_reason(
    arguments: list[str], pattern: str, model: Path, command: Command
) -> None:
    refused(command(model, *RTX, *arguments), 2, pattern)


def test_missing_plugin_library_has_a_cure(model: Path, command: Command, environment: dict[str, str]) -> None:
    if importlib.util.find_spec("tensorrt_rtx_libs") is None:
        pytest.skip("TensorRT-RTX is not installed: its absence is told first")
    environment["ALGM_PLUGINS_LIB"] = "/nowhere/lib.so"
    refused(command(model, *RTX), 4, "there is no plugin library at /nowhere/lib.so")


def test_without_tensorrt_one_line_says_what_to_do(model: Path, command: Command) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    cure = r"pip install 'algm-trt\[tensorrt\]', on a machine with an NVIDIA GPU"
    refused(command(model, "--fp16"), 4, f"TensorRT is not installed here .*{cure}.*{WORKS_NOW}")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write into")
def test_folder_that_cannot_be_written(model: Path, command: Command) -> None:
    refused(command(model, *RTX, "-o", "/proc/model.plan"), 1, "cannot write into /proc")


def test_output_below_a_file(model: Path, command: Command) -> None:
    refused(command(model, *RTX, "-o", model / "model.plan"), 1, "cannot write into .*model.onnx: Not a directory")


@pytest.mark.rtx
def test_a_full_disk_leaves_nothing_behind(model: Path, environment: dict[str, str], plugin_library: Path) -> None:
    # A limit on the size of files fails in the middle of writing, as a full disk does.
    script = 'ulimit -f 64; exec "$@"'
    command = ["bash", "-c", script, "bash", *COMMAND, str(model), *RTX]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    refused(done, 1, "cannot write .*model.plan: File too large; nothing of it was kept")
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]
