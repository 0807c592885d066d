"""Models with linear layers of bytes: what they keep of float32's masks, and the device that is not for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.engine import open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.scenes import draw_scene


@pytest.fixture(scope="module")
def int8_model(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    report = export_onnx(sample_checkpoint, path, ExportOptions(precision="int8"))
    assert report.verification is not None
    assert report.verification.passed
    return path


def test_the_trained_sample_keeps_its_labels(int8_model: Path, sample_model: Path) -> None:
    coarse, exact = open_engine(int8_model), open_engine(sample_model)
    pictures = np.stack([draw_scene(*coarse.card.size, seed).image for seed in range(5)])
    found, expected = coarse.run(pictures), exact.run(pictures)
    np.testing.assert_array_equal(found.token_counts[:, :2], expected.token_counts[:, :2])
    assert np.abs(found.token_counts - expected.token_counts).max() <= 3
    assert 0.99 < (found.labels == expected.labels).mean() < 1
    assert coarse.card.precision == "int8"
    assert int8_model.stat().st_size < 0.5 * sample_model.stat().st_size


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_cuda_has_no_such_kernel(int8_model: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an ONNX Runtime that says that it has CUDA; its session is one of the CPU."""

    class Session(onnxruntime.InferenceSession):
        def __init__(self, source: Any, options: Any, **_: Any) -> None:
            super().__init__(source, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(UsageError, match="an int8 model is for CPUs: take --device cpu"):
        open_engine(int8_model, EngineOptions(device=device))
