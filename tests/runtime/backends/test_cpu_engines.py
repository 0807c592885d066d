"""What both CPU backends promise: many threads may call them, and once closed they say so."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from helpers.pictures import drawn_scene

from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.runtime.engine import Engine, EngineError, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.window_runner import EngineWithLanes

THREADS = 4
FORKED_SECONDS = 60
FORK = """
import os, signal, sys
import numpy as np
from algm_trt.runtime import load
from algm_trt.runtime.engine import EngineError

segmenter = load(sys.argv[1], backend=sys.argv[2], threads=2, streams=int(sys.argv[5]))
picture = np.random.default_rng(0).integers(0, 256, (2, *segmenter.card.size, 3), np.uint8)
expected = segmenter.engine.run(picture)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(int(sys.argv[4]))
try:
    assert np.array_equal(segmenter.engine.run(picture).logits, expected.logits)
except EngineError as error:
    print(error)
if sys.argv[3] == "closed":
    segmenter.close()
"""


FIRST_RUNS = """
import sys, threading, time
import numpy as np
from algm_trt.runtime import load

segmenter = load(sys.argv[1], backend=sys.argv[2], threads=2, streams=2)
picture = np.zeros((1, *segmenter.card.size, 3), np.uint8)
begin = threading.Barrier(2)

def run(delay):
    begin.wait()
    time.sleep(delay)
    segmenter.engine.run(picture)

threads = [threading.Thread(target=run, args=(delay,), daemon=True) for delay in (0, float(sys.argv[3]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
assert not any(thread.is_alive() for thread in threads)
"""


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name)
    return name


@pytest.fixture(params=[1, 2], ids=["1 stream", "2 streams"])
def engine(request: pytest.FixtureRequest, backend: str, sample_model: Path) -> Iterator[Engine]:
    opened = opened_by(backend, sample_model, threads=1, streams=request.param)
    yield opened
    opened.close()


def opened_by(backend: str, model: Path, **options: int | None) -> Engine:
    return open_engine(model, EngineOptions(backend=backend, device="cpu", **options))  # type: ignore[arg-type]


def test_many_threads_get_what_one_gets(engine: Engine) -> None:
    pictures = [drawn_scene(*engine.card.size, seed)[None] for seed in range(3)]
    expected = [engine.run(picture) for picture in pictures]
    turns = [index % len(pictures) for index in range(6 * THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        outputs = list(pool.map(lambda index: engine.run(pictures[index]), turns))
    for index, output in zip(turns, outputs, strict=True):
        assert np.array_equal(output.logits, expected[index].logits)
        assert np.array_equal(output.token_map, expected[index].token_map)


@pytest.mark.parametrize("streams", [1, 2, 3, None])
def test_streams_change_no_bit(backend: str, sample_model: Path, streams: int | None) -> None:
    """A picture has one thread throughout: with two OpenVINO rounds in another way."""
    count = streams or 2
    single = opened_by(backend, sample_model, threads=1)
    several = opened_by(backend, sample_model, threads=count, streams=streams)
    assert isinstance(several, EngineWithLanes)
    assert several.lanes == count
    pictures = np.stack([drawn_scene(*single.card.size, seed) for seed in range(5)])
    expected, found = single.run(pictures), several.run(pictures)
    for name in ("logits", "labels", "token_counts", "token_map"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_onnxruntime_gives_the_same_bits_with_any_number_of_threads(sample_model: Path) -> None:
    engines = [opened_by("onnxruntime", sample_model, threads=threads) for threads in (1, 2, 4)]
    picture = drawn_scene(*engines[0].card.size, 1)[None]
    first, *others = [engine.run(picture).logits for engine in engines]
    assert all(np.array_equal(other, first) for other in others)


@pytest.mark.parametrize(("streams", "threads", "beside"), [(1, 2, 1), (2, 2, 0), (2, 6, 4), (3, 3, 0)])
def test_streams_of_onnxruntime_share_the_threads_that_were_asked_for(
    sample_model: Path, streams: int, threads: int, beside: int
) -> None:
    """Those that call are threads, too."""
    gc.collect()  # engines of other tests, and their threads
    before = psutil.Process().num_threads()
    engine = opened_by("onnxruntime", sample_model, threads=threads, streams=streams)
    assert psutil.Process().num_threads() - before == beside
    engine.close()


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 23), reason="ONNX Runtime 1.22 announces a second try"
)
def test_a_spoilt_name_in_the_file_is_one_error_and_no_more(
    sample_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = tmp_path / "spoilt.onnx"
    spoilt.write_bytes(sample_model.read_bytes().replace(b"blocks.0.attn", b"blocks.0.\xc1ttn", 1))
    with pytest.raises(EngineError, match=r"spoilt\.onnx: not a model that ONNX Runtime can open"):
        open_engine(spoilt, EngineOptions(backend="onnxruntime", device="cpu"))
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="no Linux: no file that not even root can read")
def test_a_file_that_cannot_be_read_is_named_with_its_cause(backend: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to("/proc/self/mem")
    with pytest.raises(EngineError, match=r"^/.*model\.onnx: cannot be read \(Input/output error\)$"):
        opened_by(backend, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^onnxruntime is not installed \(No module named 'onnxruntime'\): pip install onnxruntime$"),
        (
            "import onnxruntime.capi",
            r"is installed and cannot be loaded \(No module named 'onnxruntime.capi",
        ),
        (
            "raise ImportError('libc.so.7: no such\\nfile')",
            r"loaded \(libc\.so\.7: no such\): pip install --fo",
        ),
    ],
)
def test_an_onnxruntime_that_is_broken_is_not_said_to_be_missing(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    if content is None:
        kept = [path for path in sys.path if not (Path(path) / "onnxruntime").exists()]
        monkeypatch.setattr(sys, "path", kept)
    else:
        (tmp_path / "onnxruntime").mkdir()
        (tmp_path / "onnxruntime" / "__init__.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=message):
        opened_by("onnxruntime", sample_model)


def test_a_closed_engine_says_so(engine: Engine) -> None:
    picture = np.zeros((1, *engine.card.size, 3), np.uint8)
    engine.run(picture)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"^the engine is closed$"):
        engine.run(picture)


@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.005])
def test_first_runs_at_the_same_time_come_to_an_end(sample_model: Path, backend: str, delay: float) -> None:
    arguments = (str(sample_model), backend, str(delay))
    done = subprocess.run([sys.executable, "-c", FIRST_RUNS, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("ending", ["open", "closed"])
@pytest.mark.parametrize("streams", [1, 2])
def test_a_forked_process_runs_the_engine_and_comes_to_an_end(
    sample_model: Path, backend: str, ending: str, streams: int
) -> None:
    arguments = (str(sample_model), backend, ending, str(FORKED_SECONDS), str(streams))
    # Since 3.12 Python warns of what is tried here.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    refused = "do not go on in a forked process" in done.stdout
    assert refused == (backend == "openvino" and streams > 1)
