"""Importing TensorRT-RTX and TensorRT, or the one message that says what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.plugin_graphs import labels

from algm_trt.engines.bindings import load_builder
from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.runtime.backends.tensorrt import bindings as tensorrt_bindings


def import_gives(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    def give(name: str) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(tensorrt_bindings.importlib, "import_module", give)


@pytest.mark.rtx
def test_rtx_is_found() -> None:
    found = load_builder("rtx")
    assert found.target == "rtx"
    assert found.version[0].isdigit()
    assert hasattr(found.module, "OnnxParser")


def test_missing_tensorrt_says_what_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    import_gives(monkeypatch, ModuleNotFoundError("No module named 'tensorrt'"))
    with pytest.raises(MissingDependencyError) as caught:
        load_builder("tensorrt")
    message = str(caught.value)
    parts = ("pip install 'algm-trt[tensorrt]'", "algm-infer --engine model.onnx", "--target rtx", "NVIDIA GPU")
    assert [part for part in parts if part not in message] == []
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("version", ["8.6.1", "10.8.0.43", "10.9"])
def test_old_or_builderless_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    import_gives(monkeypatch, SimpleNamespace(__version__=version))
    with pytest.raises(MissingDependencyError, match=rf"TensorRT {version} .* 10\.9 or later"):
        load_builder("tensorrt")


@pytest.mark.parametrize("version", ["10.9.0.34", "10.16.1.11", "11.0.0.114", "11.4.0.106"])
def test_supported_versions_are_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    import_gives(monkeypatch, SimpleNamespace(__version__=version, Builder=object))
    assert load_builder("tensorrt").version == version


def test_missing_rtx_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_bindings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'algm-trt\[rtx\]', on Linux \(x86-64, 64-bit Arm\)"):
        load_builder("rtx")


PARSE = """
import sys
from pathlib import Path
from algm_trt.engines.bindings import load_builder
trt = load_builder("rtx").module
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
builder.get_plugin_registry().load_library(sys.argv[1])
network = builder.create_network(0)
print(trt.OnnxParser(network, logger).parse(Path(sys.argv[2]).read_bytes()))
"""


@pytest.mark.rtx
@pytest.mark.parametrize("cache", ["cache", "file/below"], ids=["cache", "no-cache"])
def test_parser_finds_its_library(
    cache: str, plugin_library: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "labels.onnx").write_bytes(labels("float16").serialized)
    command = [sys.executable, "-c", PARSE, str(plugin_library), str(tmp_path / "labels.onnx")]
    environment |= {"XDG_CACHE_HOME": str(tmp_path / cache), "LD_LIBRARY_PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
    assert list(Path(environment["TMPDIR"]).iterdir()) == []


@pytest.mark.rtx
def test_rtx_imported_before_us_has_a_cure(environment: dict[str, str]) -> None:
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    assert found is not None
    assert found.origin is not None
    if (Path(found.origin).parent / "libtensorrt_rtx.so").exists():
        pytest.skip("this TensorRT-RTX has the library without version")
    code = "import tensorrt_rtx_bindings\nfrom algm_trt.engines.bindings import load_builder\nload_builder('rtx')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "imported before algm_trt" in done.stderr
    assert "ln -s libtensorrt_rtx.so.1" in done.stderr
