"""Models of a command line: prefixes, what follows a checkpoint, and the order in which things are refused."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.engine import CHECKPOINT_SUFFIXES, backend_for
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.model_argument import CHECKPOINT_ADAPTER, ModelArgument, is_checkpoint, open_model

DEFAULTS = EngineOptions(threads=3, cpu_precision="bf16")


@pytest.mark.parametrize(
    ("text", "model", "options"),
    [
        ("model.onnx", "model.onnx", DEFAULTS),
        ("a/b.plan", "a/b.plan", DEFAULTS),
        ("onnxruntime:a/b.onnx", "a/b.onnx", EngineOptions("onnxruntime", threads=3)),
        ("onnxruntime-cuda:m.onnx", "m.onnx", EngineOptions("onnxruntime", "cuda", threads=3)),
        ("openvino:m.onnx", "m.onnx", EngineOptions("openvino", threads=3)),
        ("openvino-bf16:m.onnx", "m.onnx", EngineOptions("openvino", threads=3, cpu_precision="bf16")),
        ("openvino-cpu-bf16:m.onnx", "m.onnx", EngineOptions("openvino", "cpu", 3, "bf16")),
        ("tensorrt:m.plan", "m.plan", EngineOptions("tensorrt", threads=3)),
        ("./openvino:m.onnx", "./openvino:m.onnx", DEFAULTS),
        ("checkpoint.pth:dense", "checkpoint.pth:dense", DEFAULTS),
        ("checkpoint.pth:coupled", "checkpoint.pth:coupled", DEFAULTS),
        ("openvino:", "openvino:", DEFAULTS),
        ("opencv:m.onnx", "opencv:m.onnx", DEFAULTS),
    ],
)
def test_a_prefix_chooses_backend_device_and_precision(text: str, model: str, options: EngineOptions) -> None:
    assert ModelArgument.parse(text, DEFAULTS) == ModelArgument(text, model, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onnxruntime-bf16:m.onnx", "needs the OpenVINO backend"),
        ("openvino-cuda:m.onnx", "runs on CPUs"),
        ("openvino:checkpoint.pth", "a checkpoint runs in PyTorch"),
        ("auto:checkpoint.pth:dense", "a checkpoint runs in PyTorch"),
        ("openvino:checkpoint.pth:coupled", "a checkpoint runs in PyTorch"),
        ("model.onnx:coupled", ":coupled is for checkpoints: exported models decide per image"),
        ("openvino:model.onnx:coupled", ":coupled is for checkpoints: exported models decide per image"),
    ],
)
def test_prefixes_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelArgument.parse(text, EngineOptions())


def test_file_short_name_and_hash(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    for text in (tmp_path, tmp_path / "checkpoint.pth"):
        for suffix in ("", ":dense", ":coupled"):
            argument = ModelArgument.parse(f"{text}{suffix}", EngineOptions())
            assert argument.file == tmp_path / "checkpoint.pth"
            assert argument.sha256 == expected
            assert argument.short == f"{text.name}{suffix}"
            assert argument.is_coupled == (suffix == ":coupled")
    assert ModelArgument.parse("openvino:a/b.onnx", EngineOptions()).short == "openvino:b.onnx"
    with pytest.raises(FileNotFoundError):
        _ = ModelArgument.parse("none.onnx", EngineOptions()).sha256


def test_a_checkpoint_opens_dense_merged_and_coupled(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, bool, bool]] = []

    def engine(path: str, *, merge: bool, coupled: bool, **_: Any) -> object:
        opened.append((path, merge, coupled))
        return object()

    monkeypatch.setitem(sys.modules, CHECKPOINT_ADAPTER, SimpleNamespace(TorchEngine=engine))  # type: ignore[arg-type]
    for suffix in ("", ":dense", ":coupled"):
        ModelArgument.parse(f"x.pth{suffix}", EngineOptions()).open()
    ModelArgument.parse("x.pth", EngineOptions()).open(window_batch_coupled=True)
    assert opened == [("x.pth", True, False), ("x.pth", False, False), ("x.pth", True, True), ("x.pth", True, True)]
    with pytest.raises(UsageError, match=":coupled is for algm-eval"):
        open_model("x.pth:coupled")


@pytest.mark.parametrize("suffix", [*CHECKPOINT_SUFFIXES, ".PT"])
def test_a_checkpoint_is_one_for_every_command(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, bool]] = []

    def engine(path: str, *, merge: bool, **_: Any) -> object:
        opened.append((path, merge))
        return object()

    monkeypatch.setitem(sys.modules, CHECKPOINT_ADAPTER, SimpleNamespace(TorchEngine=engine))  # type: ignore[arg-type]
    name = f"x{suffix}"
    for model in (name, f"{name}:dense"):
        assert is_checkpoint(model)
        open_model(model)
    assert opened == [(name, True), (name, False)]
    with pytest.raises(UsageError, match="is a checkpoint: algm-export"):
        backend_for(Path(name), EngineOptions())


def test_a_folder_is_one_and_exported_models_are_none(tmp_path: Path) -> None:
    assert is_checkpoint(str(tmp_path))
    assert is_checkpoint(f"{tmp_path}:dense")
    for name in ("model.onnx", "model.plan", "pt", "model"):
        assert not is_checkpoint(name)
        with pytest.raises(UsageError, match=":dense is for checkpoints"):
            open_model(f"{name}:dense")
