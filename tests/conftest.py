"""Fixtures shared by all tests: they supply what a test needs or say why the machine cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _shared_folder() -> Path | None:
    """The team's extra data: $ALGM_SHARED, or `shared` beside the checkout."""
    candidate = Path(os.environ.get("ALGM_SHARED", Path(__file__).parents[2] / "shared"))
    return candidate if (candidate / "golden" / "index.json").is_file() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the golden cases, photographs and data set samples."""
    folder = _shared_folder()
    if folder is None:
        pytest.skip("the team's extra data is not beside this checkout (set ALGM_SHARED)")
    return folder


ROOT = Path(__file__).parents[1]


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


def _exported(checkpoint: Path, factory: pytest.TempPathFactory, *, merge: bool) -> Path:
    from algm_trt.exporter import ExportOptions, export_onnx

    options = ExportOptions(classes=checkpoint / "classes.txt", merge=merge, verify=False)
    return export_onnx(checkpoint, factory.mktemp("model") / "model.onnx", options).path
