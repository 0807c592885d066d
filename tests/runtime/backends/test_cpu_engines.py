"""What both CPU backends promise: many threads may call them, and once closed they say so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import drawn_scene

from algm_trt.runtime.engine import Engine, EngineError, open_engine
from algm_trt.runtime.engine_options import EngineOptions

THREADS = 4
FORKED_SECONDS = 60
FORK = """
import os, signal, sys
import numpy as np
from algm_trt.runtime import load

segmenter = load(sys.argv[1], backend=sys.argv[2], threads=2)
picture = np.random.default_rng(0).integers(0, 256, (1, *segmenter.card.size, 3), np.uint8)
expected = segmenter.engine.run(picture)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(int(sys.argv[4]))
assert np.array_equal(segmenter.engine.run(picture).logits, expected.logits)
if sys.argv[3] == "closed":
    segmenter.close()
"""


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


def test_a_spoilt_name_in_the_file_is_one_error_and_no_more(
    sample_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = tmp_path / "spoilt.onnx"
    spoilt.write_bytes(sample_model.read_bytes().replace(b"blocks.0.attn", b"blocks.0.\xc1ttn", 1))
    with pytest.raises(EngineError, match=r"spoilt\.onnx: not a model that ONNX Runtime can open"):
        open_engine(spoilt, EngineOptions(backend="onnxruntime", device="cpu"))
    assert capsys.readouterr().out == ""


def test_a_closed_engine_says_so(engine: Engine) -> None:
    picture = np.zeros((1, *engine.card.size, 3), np.uint8)
    engine.run(picture)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"^the engine is closed$"):
        engine.run(picture)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("ending", ["open", "closed"])
def test_a_forked_process_runs_the_engine_and_comes_to_an_end(sample_model: Path, backend: str, ending: str) -> None:
    pytest.importorskip(backend)
    arguments = (str(sample_model), backend, ending, str(FORKED_SECONDS))
    done = subprocess.run([sys.executable, "-c", FORK, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
