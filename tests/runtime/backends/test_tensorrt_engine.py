"""The TensorRT backend on stand-ins of CUDA and TensorRT: batches, lanes, device arrays, slide mode, failures.

The stand-ins do nothing earlier than they must and poison what is not there yet, so that every result here also says
that nothing was read, changed or freed too early. The kernels are the real ones, compiled for the CPU.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card
from helpers.host_device import HostCuda, host_device, other_device
from helpers.host_tensorrt import World, open_world
from helpers.plans import make_record, write_plan
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins import interface
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.backends.tensorrt import engine as tensorrt_engine
from algm_trt.runtime.backends.tensorrt import lanes
from algm_trt.runtime.backends.tensorrt.engine import TensorRTEngine
from algm_trt.runtime.backends.tensorrt.lane import Lane
from algm_trt.runtime.bench.models import EngineWithDeviceClock
from algm_trt.runtime.cli import main
from algm_trt.runtime.cuda import CudaError, DeviceLostError, OutOfDeviceMemoryError
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.engine import EngineError, EngineOutput
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.pipeline import EngineFailedError, Inferred, Item, Outcome, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.window_runner import EngineWithRunner, NotFiniteError, WindowRequest, runner_for
from algm_trt.runtime.windows import canvas_image, plan_slide

CARD = make_card()
OUTPUTS = ("logits", "labels", "token_counts", "token_map")
Make = Callable[..., World]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, twin_library: Path) -> Iterator[Make]:
    """Opens an engine whose plan computes what a model computes; afterwards nothing may be left on the device."""
    worlds: list[World] = []

    def opened(model: Any = None, kernels: bool = True, **options: Any) -> World:
        folder = tmp_path / str(len(worlds))
        folder.mkdir()
        worlds.append(
            open_world(monkeypatch, folder, model or FakeEngine(CARD), twin_library if kernels else None, **options)
        )
        return worlds[-1]

    yield opened
    for world in worlds:
        if world.cuda.lost is None:
            world.engine.close()
            gc.collect()
            assert (world.cuda.live, world.cuda.open_streams) == (0, 0), "memory or streams are left"


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([color_picture(*CARD.size, seed + index) for index in range(count)])


def assert_equal(found: EngineOutput, expected: EngineOutput) -> None:
    for name in OUTPUTS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


# Batches.


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 11])
def test_a_batch_of_any_size_gives_what_the_model_gives(make: Make, count: int) -> None:
    world = make()
    assert_equal(world.engine.run(images(count)), FakeEngine(CARD).run(images(count)))
    assert sum(batch for _, batch in world.trt.batches) == count


def test_a_batch_below_the_smallest_is_padded(make: Make) -> None:
    world = make(profiles=((3, 3, 3), (5, 6, 8)))
    assert_equal(world.engine.run(images(1)), FakeEngine(CARD).run(images(1)))
    assert_equal(world.engine.run(images(4)), FakeEngine(CARD).run(images(4)))
    assert world.trt.batches == [(0, 3), (1, 5)]


def test_the_engine_tells_its_time_on_the_device(make: Make) -> None:
    world = make()
    assert isinstance(world.engine, EngineWithDeviceClock)
    assert world.engine.device_seconds == 0
    world.engine.run(images(3))
    assert 0 < world.engine.device_seconds < 60


def test_padding_is_black_whatever_was_there_before(make: Make) -> None:
    world = make(profiles=((3, 3, 3),), lanes=1)
    world.engine.run(images(3))
    seen = []
    model: Any = world.model
    run = model.run
    model.run = lambda batch, threshold=None: seen.append(batch) or run(batch, threshold)
    world.engine.run(images(1, seed=7))
    assert not seen[0][1:].any()


def test_the_threshold_reaches_the_engine(make: Make) -> None:
    world = make()
    world.engine.run(images(1), threshold=0.25)
    world.engine.run(images(1))
    assert world.model.thresholds == pytest.approx([0.25, 0.88])  # type: ignore[attr-defined]


def test_dense_models_have_no_threshold(make: Make) -> None:
    card = make_card(merge=False)
    world = make(FakeEngine(card))
    world.engine.run(images(2))
    assert world.model.thresholds == [None]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no threshold"):
        world.engine.run(images(1), threshold=0.5)


def test_more_than_256_classes(make: Make) -> None:
    card = make_card(classes=300)
    world = make(FakeEngine(card), profiles=((1, 2, 2),))
    output = world.engine.run(images(2))
    assert output.labels.dtype == np.int32
    assert_equal(output, FakeEngine(card).run(images(2)))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 31, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        "picture.png",
    ],
)
def test_what_is_no_batch_is_refused(make: Make, wrong: Any) -> None:
    world = make()
    with pytest.raises(UsageError):
        world.engine.run(wrong)
    assert_equal(world.engine.run(images(1)), FakeEngine(CARD).run(images(1)))


def test_images_with_gaps_are_taken(make: Make) -> None:
    flipped = images(3)[:, :, ::-1]
    assert_equal(make().engine.run(flipped), FakeEngine(CARD).run(flipped))


def test_nothing_is_made_anew_for_a_batch(make: Make) -> None:
    world = make(lanes=1)
    for _ in range(2):
        world.engine.run(images(5))
    before = list(world.cuda.calls)
    world.engine.run(images(5))
    new = world.cuda.calls[len(before) :]
    assert not [name for name in new if name in ("cudaHostAlloc", "cudaMalloc", "cudaStreamCreateWithFlags")]
    # TensorRT's own temporaries come from the pool
    assert new.count("cudaMallocFromPoolAsync") == len(world.trt.batches) // 3
    assert len(world.trt.contexts) == 2  # one of each profile


def test_lanes_have_contexts_of_their_own_only_when_needed(make: Make) -> None:
    world = make()
    for _ in range(3):
        world.engine.run(images(4))
    assert len(world.trt.contexts) == 1


def test_two_lanes_run_at_the_same_time(make: Make) -> None:
    world = make()
    world.trt.meet = threading.Barrier(2, timeout=20).wait
    found: dict[int, EngineOutput] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: world.engine.run(images(4, seed))}))
        for seed in (0, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, output in found.items():
        assert_equal(output, FakeEngine(CARD).run(images(4, seed)))
    assert sorted(found) == [0, 100]


def test_many_threads_share_the_lanes(make: Make) -> None:
    world = make()
    found: dict[int, EngineOutput] = {}

    def work(seed: int) -> None:
        for count in (1, 5, 3):
            found[seed] = world.engine.run(images(count, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(0, 60, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, output in found.items():
        assert_equal(output, FakeEngine(CARD).run(images(3, seed)))
    assert len(found) == 6
    assert len(world.trt.contexts) <= 4


def test_a_thread_with_another_device_keeps_it(make: Make) -> None:
    world = make()
    with other_device(world.cuda, 1):
        assert_equal(world.engine.run(images(2)), FakeEngine(CARD).run(images(2)))
        assert world.cuda.device == 1


def test_a_closed_engine_says_so(make: Make) -> None:
    world = make()
    world.engine.close()
    world.engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        world.engine.run(images(1))


def test_an_engine_that_cannot_be_opened_leaves_nothing_on_the_device(make: Make, tmp_path: Path) -> None:
    world = make()
    world.engine.close()
    gc.collect()
    (tmp_path / "other").mkdir()
    other = write_plan(tmp_path / "other", make_record(CARD, compute_capabilities=("7.5",)))
    with pytest.raises(EngineError, match=r"7\.5"):
        TensorRTEngine(other, device=host_device(world.cuda))
    assert (world.cuda.live, world.cuda.open_streams) == (0, 0)


@pytest.mark.parametrize("contexts", [0, 1])
def test_a_lane_that_cannot_be_made_leaves_nothing_on_the_device(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contexts: int
) -> None:
    world = make()
    world.engine.close()
    gc.collect()
    made = []

    def lane(plan: Any, device: Any) -> Lane:
        if len(made) == contexts:
            raise EngineError("no memory for a lane")
        made.append(Lane(plan, device))
        return made[-1]

    monkeypatch.setattr(lanes, "Lane", lane)
    with pytest.raises(EngineError, match="no memory for a lane"):
        TensorRTEngine(tmp_path / "0" / "model.plan", device=host_device(world.cuda))
    made.clear()
    gc.collect()
    assert (world.cuda.live, world.cuda.open_streams) == (0, 0)


def test_many_may_close_it(make: Make) -> None:
    world = make()
    with ThreadPoolExecutor(8) as pool:
        for closing in [pool.submit(world.engine.close) for _ in range(8)]:
            closing.result(timeout=60)
    with pytest.raises(EngineError, match="the engine is closed"):
        world.engine.run(images(1))


# Arrays on the device.


class OnDevice:
    """Images in the memory of the stand-in, as cupy or PyCUDA show theirs."""

    def __init__(self, cuda: HostCuda, array: NDArray[Any], offset: int = 0, **facts: Any) -> None:
        padded = np.concatenate([np.zeros(offset, np.uint8), array.reshape(-1).view(np.uint8)])
        self.address = cuda.foreign(padded) + offset
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": None,
            **facts,
        }


@pytest.mark.parametrize("count", [1, 4, 7])
def test_device_arrays_are_not_copied(make: Make, count: int) -> None:
    world = make()
    array = OnDevice(world.cuda, images(count))
    world.engine.run(images(count))  # makes the buffers
    before = world.cuda.calls.count("cudaMemcpyAsync")
    assert_equal(world.engine.run(array), FakeEngine(CARD).run(images(count)))
    per_piece = 1 + len(OUTPUTS)  # the threshold goes up, the outputs come down
    pieces = len(world.trt.batches) // 2
    assert world.cuda.calls.count("cudaMemcpyAsync") - before == per_piece * pieces
    world.cuda.cudaFree(array.address)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_logits_come_back_only_when_asked_for(make: Make, count: int) -> None:
    world = make()
    world.engine.run(images(count))  # makes the buffers
    before = world.cuda.calls.count("cudaMemcpyAsync")
    found = world.engine.run(images(count), logits=False)
    pieces = len(world.trt.batches) // 2
    # pictures and threshold go up; labels, token counts and token map come down
    assert world.cuda.calls.count("cudaMemcpyAsync") - before == 5 * pieces
    wanted = FakeEngine(CARD).run(images(count))
    for name in ("labels", "token_counts", "token_map"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    with pytest.raises(UsageError, match="logits=True"):
        _ = found.logits


@pytest.mark.parametrize("offset", [1, 16, 255])
def test_device_arrays_at_odd_addresses_are_moved(make: Make, offset: int) -> None:
    world = make()
    array = OnDevice(world.cuda, images(3), offset)
    assert_equal(world.engine.run(array), FakeEngine(CARD).run(images(3)))
    world.cuda.cudaFree(array.address - offset)


def test_device_arrays_are_padded(make: Make) -> None:
    world = make(profiles=((4, 4, 4),))
    array = OnDevice(world.cuda, images(3))
    assert_equal(world.engine.run(array), FakeEngine(CARD).run(images(3)))
    world.cuda.cudaFree(array.address)


def test_host_images_after_device_images(make: Make) -> None:
    world = make(lanes=1)
    array = OnDevice(world.cuda, images(2))
    world.engine.run(array)
    world.cuda.cudaFree(array.address)
    assert_equal(world.engine.run(images(2, seed=5)), FakeEngine(CARD).run(images(2, seed=5)))


def test_the_stream_that_makes_the_images_is_waited_for(make: Make) -> None:
    world = make()
    array = OnDevice(world.cuda, np.zeros_like(images(2)))
    _, stream = world.cuda.cudaStreamCreateWithFlags(1)
    late = images(2, seed=9)

    def draw() -> None:
        world.cuda.view(array.address, late.size)[:] = late.reshape(-1)

    world.cuda.queue(stream, draw)
    assert_equal(world.engine.run(array, stream=stream), FakeEngine(CARD).run(late))
    world.cuda.cudaStreamDestroy(stream)
    world.cuda.cudaFree(array.address)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (images(1).astype(np.float32), r"got float32 \(1, 32, 32, 3\)"),
        (images(1)[0], r"got uint8 \(32, 32, 3\)"),
        (images(1)[:, :16], r"got uint8 \(1, 16, 32, 3\)"),
        (images(1)[:0], "the batch is empty"),
    ],
)
def test_device_arrays_of_another_kind_are_refused(make: Make, array: NDArray[Any], said: str) -> None:
    world = make()
    there = OnDevice(world.cuda, np.ascontiguousarray(array))
    with pytest.raises(UsageError, match=said):
        world.engine.run(there)
    world.cuda.cudaFree(there.address)


# Slide mode.


def items(pictures: list[NDArray[np.uint8]]) -> list[Item[int]]:
    return [
        Item(key, load=lambda picture=picture: picture, size=lambda picture=picture: picture.shape[:2])
        for key, picture in enumerate(pictures)
    ]


def finished(key: int, inferred: Inferred) -> dict[str, NDArray[Any]]:
    return {
        "labels": inferred.scores.labels(),
        "logits": inferred.scores.logits(),
        "counts": inferred.token_counts,
        "maps": inferred.token_maps,
    }


def run_all(engine: Any, pictures: list[NDArray[np.uint8]], **options: Any) -> list[Outcome[int, Any]]:
    settings = PipelineOptions(**{"batch_size": 4, "workers": 2, **options})
    with closing(run_pipeline(engine, settings, items(pictures), finished)) as outcomes:
        return list(outcomes)


PICTURES = [
    color_picture(*size, seed)
    for seed, size in enumerate([(33, 47), (20, 90), (32, 32), (71, 64), (16, 16), (130, 35), (97, 101), (40, 40)])
]


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 9}, {"mode": "whole"}, {"stride": 7}])
def test_pictures_come_out_as_through_any_engine(make: Make, kernels: bool, options: dict[str, Any]) -> None:
    world = make(kernels=kernels)
    expected = run_all(FakeEngine(CARD), PICTURES, **options)
    for found, wanted in zip(run_all(world.engine, PICTURES, **options), expected, strict=True):
        assert found.error is None
        for name in ("logits", "counts", "maps"):
            np.testing.assert_array_equal(found.value[name], wanted.value[name], name)
        assert (found.value["labels"] == wanted.value["labels"]).mean() > 0.999
        assert found.value["labels"].dtype == wanted.value["labels"].dtype


def test_the_engine_brings_its_runner(make: Make) -> None:
    world = make()
    assert isinstance(world.engine, EngineWithRunner)
    assert runner_for(world.engine, 4).lanes == 2


def test_pictures_go_up_once_and_logits_stay(make: Make) -> None:
    world = make(lanes=1)
    runner = world.engine.window_runner(4)
    picture = color_picture(70, 70)
    plan = plan_slide((70, 70), CARD.size, 24)
    canvas, scores = runner.place(canvas_image(picture, plan)), runner.room(plan)
    before = len(world.cuda.calls)
    requests = [WindowRequest(canvas, plan, index, scores) for index in range(4)]
    counts, maps = runner.run(requests, None)
    assert (counts.shape, maps.shape) == ((4, 3), (4, *CARD.grid))
    # up: corners and threshold; within the device: the logits of four neighbours at once; down: counts and map
    assert world.cuda.calls[before:].count("cudaMemcpyAsync") == 5
    scores.release()


def test_kernels_that_refuse_leave_the_labels_to_the_cpu(make: Make) -> None:
    world = make()
    assert world.library is not None
    world.library.refuse["algm_slide_labels"] = interface.STATUS_UNSUPPORTED
    expected = run_all(FakeEngine(CARD), PICTURES)
    for found, wanted in zip(run_all(world.engine, PICTURES), expected, strict=True):
        np.testing.assert_array_equal(found.value["labels"], wanted.value["labels"])


@pytest.mark.parametrize("name", ["algm_slide_labels", "algm_cut_windows"])
def test_kernels_that_fail_say_why(make: Make, name: str) -> None:
    world = make()
    assert world.library is not None
    world.library.refuse[name] = 4
    (outcome,) = run_all(world.engine, [color_picture(40, 40)])
    assert isinstance(outcome.error, Exception)
    assert "failed on the GPU: " in str(outcome.error)


def test_the_field_is_kept_after_release(make: Make) -> None:
    world = make()

    def keep(key: int, inferred: Inferred) -> tuple[Any, LogitField]:
        return inferred.scores, inferred.scores.field()

    with closing(run_pipeline(world.engine, PipelineOptions(), items([PICTURES[0]]), keep)) as outcomes:
        (outcome,) = list(outcomes)
    assert outcome.value is not None
    scores, field = outcome.value
    assert scores.field() is field
    expected = run_all(FakeEngine(CARD), [PICTURES[0]])[0].value["labels"]
    np.testing.assert_array_equal(field.labels(), expected)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_fail_their_picture(make: Make, kernels: bool, value: float) -> None:
    class Spoiled(FakeEngine):
        def run(self, batch: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            output = super().run(batch, threshold)
            output.logits[batch[:, 0, 0, 0] == 66, 2, 1, 1] = value
            return output

    bad = color_picture(40, 40)
    bad[0, 0] = 66
    world = make(Spoiled(CARD), kernels=kernels)
    first, second = run_all(world.engine, [PICTURES[2], bad], batch_size=1)
    assert first.error is None
    assert isinstance(second.error, NotFiniteError) or "not finite" in str(second.error)


def test_the_sample_as_through_onnx_runtime(
    make: Make, sample_model: Path, sample_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's own model through the whole pipeline: the stand-in of TensorRT runs the same ONNX file."""
    reference = OnnxRuntimeEngine(sample_model, device="cpu")
    world = make(reference)
    pictures = [decode_image(path) for path in sorted(sample_pictures.glob("*.jpg"))]
    assert len(pictures) >= 4
    expected = run_all(reference, pictures)
    for found, wanted in zip(run_all(world.engine, pictures), expected, strict=True):
        for name in ("logits", "counts", "maps"):
            np.testing.assert_array_equal(found.value[name], wanted.value[name], name)
        assert (found.value["labels"] == wanted.value["labels"]).mean() >= 0.9995


def test_the_command_takes_a_plan(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = make()
    monkeypatch.setattr(tensorrt_engine, "Device", lambda: host_device(world.cuda))
    names = [f"{number}.png" for number in range(len(PICTURES))]
    for name, picture in zip(names, PICTURES, strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    command = [*(str(tmp_path / name) for name in names), "--engine", str(tmp_path / "0" / "model.plan")]
    assert main([*command, "-o", str(tmp_path / "masks"), "--save", "labels", "--batch-size", "4", "-q"]) == 0
    for name, wanted in zip(names, run_all(FakeEngine(CARD), PICTURES), strict=True):
        (file,) = (tmp_path / "masks").rglob(name)
        assert (np.asarray(Image.open(file)) == wanted.value["labels"]).mean() > 0.999


# Failures.


def test_memory_that_ends_fails_one_batch_and_leaves_the_engine(make: Make) -> None:
    world = make()
    world.engine.run(images(1))
    world.cuda.limit = world.cuda.live + 500  # TensorRT asks for 1000
    with pytest.raises(OutOfDeviceMemoryError, match="no memory left for a batch of 1: take a smaller --batch-size"):
        world.engine.run(images(1))
    world.cuda.limit = 2**40
    assert_equal(world.engine.run(images(1)), FakeEngine(CARD).run(images(1)))


def test_tensorrts_words_for_no_memory(make: Make) -> None:
    world = make()
    world.trt.fail_at, world.trt.say = {1}, "[a.cpp::b::3] Error Code 2: OutOfMemory (Requested size was 7 bytes.)"
    with pytest.raises(OutOfDeviceMemoryError):
        world.engine.run(images(1))


def test_an_execution_that_fails_says_what_tensorrt_said(make: Make) -> None:
    world = make()
    world.trt.fail_at = {1}
    with pytest.raises(EngineError, match=r"^TensorRT 10\S+ failed on a batch of 2: Cuda Runtime \(no reason\)$"):
        world.engine.run(images(2))
    assert_equal(world.engine.run(images(2)), FakeEngine(CARD).run(images(2)))


def test_a_context_that_cannot_be_made(make: Make) -> None:
    world = make()
    world.trt.changes["no_context"] = True
    with pytest.raises(EngineError, match="failed on an execution context"):
        world.engine.run(images(1))


def test_activations_that_are_refused_without_an_answer(make: Make) -> None:
    """Memory begins at odd multiples of 256 here; TensorRT wants 512, and another version may want more."""
    world = make()
    world.trt.changes["activation_alignment"] = 2**20
    with pytest.raises(EngineError, match=r"failed on its activations: setDeviceMemory: memory must be aligned"):
        world.engine.run(images(1))
    del world.trt.changes["activation_alignment"]
    assert_equal(world.engine.run(images(1)), FakeEngine(CARD).run(images(1)))


def test_a_profile_that_cannot_be_set(make: Make) -> None:
    world = make()
    world.trt.changes["no_profile"] = True
    with pytest.raises(EngineError, match=r"failed on profile 0: Cuda Runtime \(no reason\)$"):
        world.engine.run(images(1))
    world.trt.say = "[e.cpp::set::1] Error Code 2: OutOfMemory (Requested size was 4096 bytes)"
    with pytest.raises(OutOfDeviceMemoryError):
        world.engine.run(images(1))
    del world.trt.changes["no_profile"]
    assert_equal(world.engine.run(images(1)), FakeEngine(CARD).run(images(1)))


@pytest.mark.parametrize("at", range(1, 30))
def test_memory_that_ends_anywhere_fails_pictures_with_words_and_frees_everything(make: Make, at: int) -> None:
    """Each request for memory in turn is refused, and once more when it is repeated."""
    world = make()
    for number in (at, at + 1):
        world.cuda.fail("cudaMallocFromPoolAsync", at=number)
    outcomes = run_all(world.engine, PICTURES[:4], batch_size=2)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert all("no memory left" in str(error) for error in failed)
    for outcome, wanted in zip(outcomes, run_all(FakeEngine(CARD), PICTURES[:4]), strict=True):
        if outcome.error is None:
            np.testing.assert_array_equal(outcome.value["logits"], wanted.value["logits"])


def test_a_batch_that_fails_leaves_the_other_pictures(make: Make) -> None:
    world = make(lanes=1)
    world.trt.fail_at = {3}
    pictures = [color_picture(32, 32, seed) for seed in range(10)]  # one window each
    outcomes = run_all(world.engine, pictures, batch_size=2)
    failed = [outcome.key for outcome in outcomes if outcome.error is not None]
    assert failed == [4, 5]
    for outcome, wanted in zip(outcomes, run_all(FakeEngine(CARD), pictures), strict=True):
        if outcome.error is None:
            np.testing.assert_array_equal(outcome.value["labels"], wanted.value["labels"])


def test_an_engine_that_never_works_is_given_up(make: Make) -> None:
    world = make()
    world.trt.fail_at = set(range(1, 100))
    with pytest.raises(EngineFailedError, match="the model fails on every batch: TensorRT"):
        run_all(world.engine, [color_picture(32, 32, seed) for seed in range(20)], batch_size=1)


def test_a_device_that_is_lost_keeps_what_was_done(make: Make) -> None:
    world = make(lanes=1)
    first_done = threading.Event()

    def lose() -> None:
        if len(world.trt.batches) == 4:
            assert first_done.wait(20)
            world.cuda.lost = world.cuda.cudaError_t.cudaErrorIllegalAddress

    def finish(key: int, inferred: Inferred) -> NDArray[Any]:
        labels = inferred.scores.labels()
        first_done.set()
        return labels

    world.trt.meet = lose
    pictures = [color_picture(32, 32, seed) for seed in range(12)]
    with closing(run_pipeline(world.engine, PipelineOptions(workers=1), items(pictures), finish)) as outcomes:
        done = list(outcomes)
    lost = [outcome.key for outcome in done if outcome.error is not None]
    assert done[0].error is None
    assert set(range(3, 12)) <= set(lost)
    assert all("the GPU stopped working" in str(done[key].error) for key in lost)
    with pytest.raises(DeviceLostError):
        world.engine.run(images(1))


def test_copies_that_fail_leave_the_lane_usable(make: Make) -> None:
    world = make(lanes=1)
    for at in range(1, 7):  # images, threshold, four outputs
        world.cuda.fail("cudaMemcpyAsync", "cudaErrorInvalidValue", at=at)
        with pytest.raises(CudaError, match="a copy failed on the GPU"):
            world.engine.run(images(4, seed=at))
        assert_equal(world.engine.run(images(4)), FakeEngine(CARD).run(images(4)))


def test_memory_of_a_failed_picture_goes_when_the_device_is_done_with_it(make: Make) -> None:
    world = make(lanes=1)
    world.engine.run(images(2))
    runner, plan = world.engine.window_runner(2), plan_slide((32, 56), CARD.size, 24)
    canvas, scores = runner.place(color_picture(32, 56)), runner.room(plan)
    world.cuda.fail("cudaStreamSynchronize", "cudaErrorInvalidValue")
    with pytest.raises(CudaError, match="work failed"):
        runner.run([WindowRequest(canvas, plan, index, scores) for index in range(2)], None)
    scores.release()
    del canvas
    runner.room(plan).release()  # the pool hands out what was freed
    assert_equal(world.engine.run(images(3)), FakeEngine(CARD).run(images(3)))


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaEventRecord"])
@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 13, 21, 34])
def test_a_call_that_fails_anywhere_harms_one_batch(make: Make, name: str, at: int) -> None:
    world = make()
    world.cuda.fail(name, "cudaErrorInvalidValue", at=at)
    outcomes = run_all(world.engine, PICTURES, batch_size=2)
    for outcome, wanted in zip(outcomes, run_all(FakeEngine(CARD), PICTURES), strict=True):
        if outcome.error is None:
            np.testing.assert_array_equal(outcome.value["logits"], wanted.value["logits"])
        else:
            assert "failed on the GPU: cudaErrorInvalidValue" in str(outcome.error)
    assert_equal(world.engine.run(images(3)), FakeEngine(CARD).run(images(3)))
