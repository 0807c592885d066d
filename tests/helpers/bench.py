"""Stand-ins for the models of algm-bench, and files that they are opened from."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_engine import FakeEngine, make_card

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime import model_argument
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import EngineOutput
from algm_trt.runtime.engine_options import EngineOptions

CARDS: dict[str, ModelCard] = {
    "merged.onnx": make_card(),
    "dense.onnx": make_card(merge=False),
    "wide.onnx": make_card(size=(24, 40)),
    "cpu.onnx": make_card(),
    "small.plan": make_card(),
    "gpu.plan": make_card(),
}


class SmallPlan(FakeEngine):
    """Takes four pictures at a time."""

    def run(self, images, threshold=None, **options) -> EngineOutput:  # type: ignore[no-untyped-def]
        if len(images) > 4:
            raise UsageError("the plan takes batches of 1 to 4 pictures: build one for more")
        return super().run(images, threshold, **options)


class GpuPlan(FakeEngine):
    """Has a clock of its own, on which every picture takes a hundredth of a second."""

    device_seconds = 0.0

    def run(self, images, threshold=None, **options) -> EngineOutput:  # type: ignore[no-untyped-def]
        self.device_seconds = len(images) / 100
        return super().run(images, threshold, **options)


class CpuModel(FakeEngine):
    """Computes windows side by side; on a machine of two cores."""

    lanes = 0  # set when it is opened


KINDS = {"cpu.onnx": CpuModel, "small.plan": SmallPlan, "gpu.plan": GpuPlan}


class Opened:
    """What was opened.

    Attributes:
        engines: in order.
        options: of each.
    """

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.options: list[EngineOptions] = []


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Opened:
    """Make `folder` the working directory, with a file for each of CARDS that opens as a stand-in."""
    opened = Opened()
    for name in CARDS:
        (folder / name).write_bytes(name.encode())
    monkeypatch.chdir(folder)

    def open_fake(path: str, options: EngineOptions) -> FakeEngine:
        name = Path(path).name
        engine = KINDS.get(name, FakeEngine)(CARDS[name])
        if isinstance(engine, CpuModel):
            engine.lanes = options.streams or 2
        opened.engines.append(engine)
        opened.options.append(options)
        return opened.engines[-1]

    monkeypatch.setattr(model_argument, "open_engine", open_fake)
    return opened
