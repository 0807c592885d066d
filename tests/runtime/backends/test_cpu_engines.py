"""What both CPU backends promise: many threads may call them, and once closed they say so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import drawn_scene

from algm_trt.runtime.engine import Engine, EngineError, open_engine
from algm_trt.runtime.engine_options import EngineOptions

THREADS = 4


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest, sample_model: Path) -> Iterator[Engine]:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    opened = open_engine(sample_model, EngineOptions(backend=request.param, device="cpu", threads=1))
    yield opened
    opened.close()


def test_many_threads_get_what_one_gets(engine: Engine) -> None:
    pictures = [drawn_scene(*engine.card.size, seed)[None] for seed in range(3)]
    expected = [engine.run(picture) for picture in pictures]
    turns = [index % len(pictures) for index in range(6 * THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        outputs = list(pool.map(lambda index: engine.run(pictures[index]), turns))
    for index, output in zip(turns, outputs, strict=True):
        assert np.array_equal(output.logits, expected[index].logits)
        assert np.array_equal(output.token_map, expected[index].token_map)


def test_a_closed_engine_says_so(engine: Engine) -> None:
    picture = np.zeros((1, *engine.card.size, 3), np.uint8)
    engine.run(picture)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"^the engine is closed$"):
        engine.run(picture)
