"""Which models are checkpoints, for the measuring commands and for those that take exported models alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.checkpoint_adapter import CHECKPOINT_ADAPTER, is_checkpoint, open_model
from algm_trt.runtime.engine import CHECKPOINT_SUFFIXES, backend_for
from algm_trt.runtime.engine_options import EngineOptions


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
