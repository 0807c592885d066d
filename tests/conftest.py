"""Fixtures shared by all tests: they supply what a test needs or say why the machine cannot."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from helpers.rtx import missing_reason
from helpers.rungs import RUNGS, ladder, rungs_of
from helpers.twin import compile_twin

from algm_trt.plugins.library import PluginLibraryError, find_library

ROOT = Path(__file__).parents[1]

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that; some tests are about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared_folder() -> Path | None:
    """Extra data: $ALGM_SHARED, or `shared` beside the checkout."""
    candidate = Path(os.environ.get("ALGM_SHARED", Path(__file__).parents[2] / "shared"))
    return candidate if (candidate / "golden" / "index.json").is_file() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the golden cases, photographs and data set samples."""
    folder = _shared_folder()
    if folder is None:
        pytest.skip("the extra data is not beside this checkout (set ALGM_SHARED)")
    return folder


@pytest.fixture(scope="session")
def twin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole plugin library compiled for the CPU, kernels included."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler: the CPU twin of the kernels cannot be compiled")
    return compile_twin(tmp_path_factory.mktemp("twin"))


@pytest.fixture(scope="session")
def sample_checkpoint() -> Path:
    """Folder of the small trained checkpoint that the project ships."""
    return ROOT / "examples" / "sample"


@pytest.fixture(scope="session")
def sample_pictures() -> Path:
    """Folder of the drawn pictures that the project ships; their labels lie in `examples/labels`."""
    return ROOT / "examples" / "pictures"


@pytest.fixture(scope="session")
def sample_model(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample checkpoint as an ONNX file, merging."""
    return _exported(sample_checkpoint, tmp_path_factory, merge=True)


@pytest.fixture(scope="session")
def dense_sample_model(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample checkpoint as an ONNX file, dense."""
    return _exported(sample_checkpoint, tmp_path_factory, merge=False)


@pytest.fixture(scope="session")
def plugin_library() -> Path:
    """The plugin library as a user would find it."""
    try:
        return find_library()
    except PluginLibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _needs_rtx(request: pytest.FixtureRequest) -> None:
    """Tests marked `rtx` run where the TensorRT-RTX wheels are."""
    if request.node.get_closest_marker("rtx") and (reason := missing_reason()) is not None:
        pytest.skip(reason)


def _exported(checkpoint: Path, factory: pytest.TempPathFactory, *, merge: bool) -> Path:
    from algm_trt.exporter import ExportOptions, export_onnx

    options = ExportOptions(classes=checkpoint / "classes.txt", merge=merge, verify=False)
    return export_onnx(checkpoint, factory.mktemp("model") / "model.onnx", options).path


def pytest_configure(config: pytest.Config) -> None:
    """A marker per rung of the ladder."""
    for rung, (shows, _) in RUNGS.items():
        config.addinivalue_line("markers", f"{rung}: {shows}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Every test carries the markers of its rungs."""
    for rung in rungs_of(item.nodeid, {marker.name for marker in item.iter_markers()}):
        item.add_marker(rung)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which rungs of the ladder ran, so that nothing is left out in silence."""
    terminalreporter.section("what this machine checked")
    for line in ladder(terminalreporter.stats):
        terminalreporter.line(line)
