"""The CUDA module, device arrays and slide mode on a real GPU, and real plans where TensorRT is installed.

Run alone with `pytest -m gpu tests/runtime/backends/test_tensorrt_gpu.py`; torch, and CuPy where it is installed, hold
the arrays of others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_engine import color_picture, make_card
from numpy.typing import NDArray

from algm_trt.engines.options import RTX_CAPABILITIES
from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.backends.tensorrt.engine import TensorRTEngine
from algm_trt.runtime.backends.tensorrt.kernels import SlideKernels, load_kernels
from algm_trt.runtime.backends.tensorrt.plan import PlanMisfitError
from algm_trt.runtime.backends.tensorrt.transfers import PIECE_BYTES, Transfers
from algm_trt.runtime.backends.tensorrt.windows import DeviceCanvas, DeviceScores, SlideParts
from algm_trt.runtime.cuda import Device, OutOfDeviceMemoryError
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.device_array import DeviceArray, as_array, stream_handle
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.pipeline import Inferred, Item, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.windows import crop, plan_slide

torch = pytest.importorskip("torch", reason="PyTorch holds the arrays of others in these tests")

pytestmark = pytest.mark.gpu

SHARE_EQUAL = 0.9995
FP16_GATE = 0.995
CARD = make_card()


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    try:
        device = Device()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    yield device
    device.close()


@pytest.fixture(scope="module")
def parts(device: Device, plugin_library: Path) -> SlideParts:
    kernels = load_kernels()
    if kernels is None:
        pytest.skip(f"{plugin_library} is older than the kernels of slide mode")
    return SlideParts(CARD, device, Transfers(device), kernels)


def needs_torch_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that PyTorch can use")


def test_the_device_is_torchs(device: Device) -> None:
    needs_torch_cuda()
    assert device.name == torch.cuda.get_device_name(0)
    assert device.compute_capability == "{}.{}".format(*torch.cuda.get_device_capability(0))


@pytest.mark.parametrize("size", [1, 257, PIECE_BYTES + 1, 5 * PIECE_BYTES + 7])
def test_transfers(device: Device, size: int) -> None:
    array = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    buffer, back = device.allocate(size, "a test"), np.empty_like(array)
    with Transfers(device).link() as link:
        link.upload(array, buffer.address)
        link.download(buffer.address, back)
    np.testing.assert_array_equal(back, array)
    assert buffer.address % 256 == 0
    assert device.owner_of(buffer.address) == 0
    buffer.release()


def test_memory_that_is_not_there(device: Device) -> None:
    with pytest.raises(OutOfDeviceMemoryError, match="no memory left for a test"):
        device.allocate(2**46, "a test")
    device.allocate(2**20, "a test").release()


def fetch(device: Device, array: NDArray[Any] | DeviceArray, consumer: Any) -> NDArray[np.uint8]:
    assert isinstance(array, DeviceArray)
    host: NDArray[np.uint8] = device.pinned(array.shape, np.uint8)
    consumer.download(array.address, host)
    consumer.synchronize()
    return host.copy()


class Interface:
    """An array without DLPack."""

    def __init__(self, array: Any) -> None:
        self.__cuda_array_interface__ = array.__cuda_array_interface__


@pytest.mark.parametrize("wrap", [lambda tensor: tensor, Interface], ids=["dlpack", "interface"])
def test_tensors_of_torch(device: Device, wrap: Any) -> None:
    needs_torch_cuda()
    tensor = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8, device="cuda")
    consumer = device.stream()
    array = as_array(wrap(tensor), device, consumer)
    assert isinstance(array, DeviceArray)
    assert array.address == tensor.data_ptr()
    np.testing.assert_array_equal(fetch(device, array, consumer), tensor.cpu().numpy())
    with pytest.raises(UsageError, match="without gaps"):
        as_array(wrap(tensor.transpose(0, 1)), device, consumer)


@pytest.mark.parametrize("wrap", [lambda array: array, Interface], ids=["dlpack", "interface"])
def test_arrays_of_cupy(device: Device, wrap: Any) -> None:
    """Drawn on a stream of CuPy's own, which is waited for."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    consumer = device.stream()
    with cupy.cuda.Stream(non_blocking=True):
        drawn = cupy.random.default_rng(0).integers(0, 256, (3, 5, 7, 3)).astype(cupy.uint8)
        array = as_array(wrap(drawn), device, consumer)
        gaps = wrap(drawn.transpose(1, 0, 2, 3))
    assert isinstance(array, DeviceArray)
    assert array.address == drawn.data.ptr
    np.testing.assert_array_equal(fetch(device, array, consumer), cupy.asnumpy(drawn))
    with pytest.raises(UsageError, match="without gaps"):
        as_array(gaps, device, consumer)


@pytest.mark.parametrize("explicit", [False, True])
def test_work_of_torch_is_waited_for(device: Device, explicit: bool) -> None:
    """The images are drawn behind some tens of milliseconds of matrix products."""
    needs_torch_cuda()
    side, consumer = torch.cuda.Stream(), device.stream()
    big, tensor = torch.rand(4096, 4096, device="cuda"), torch.zeros(2**20, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for _ in range(40):
            big = big @ big
            big /= big.abs().max()
        tensor.fill_(7)
        array = as_array(Interface(tensor) if explicit else tensor, device, consumer)
        if explicit:
            consumer.wait_for(stream_handle(side))
    assert (fetch(device, array, consumer) == 7).all()


@pytest.mark.parametrize("source", [(1, 1), (33, 47), (71, 200), (640, 480), (1500, 1111)])
def test_slide_mode_equals_the_cpu(parts: SlideParts, source: tuple[int, int]) -> None:
    plan = plan_slide(source, CARD.size, 24)
    scores = DeviceScores(parts, plan)
    logits = np.random.default_rng(0).normal(size=(len(plan), 5, *CARD.grid)).astype(np.float32)
    with parts.transfers.link() as link:
        link.upload(logits, scores.address(0))
    np.testing.assert_array_equal(scores.logits(), logits)
    expected = LogitField(plan, logits, CARD.patch_size).labels()
    assert (scores.labels() == expected).mean() >= SHARE_EQUAL
    scores.release()


def test_windows_equal_the_cpus(parts: SlideParts) -> None:
    plan = plan_slide((131, 97), CARD.size, 24)
    canvas = color_picture(*plan.canvas)
    there = DeviceCanvas(parts, canvas)
    anchors = np.asarray(plan.anchors, np.int32)
    windows = np.empty((len(plan), *plan.window, 3), np.uint8)
    corners, result = (parts.device.allocate(array.nbytes, "a test") for array in (anchors, windows))
    kernels: SlideKernels = parts.kernels
    with parts.transfers.link() as link:
        link.upload(anchors, corners.address)
        kernels.cut(
            *(there.address, there.size, corners.address, result.address, plan.window),
            count=len(plan),
            stream=link.stream.handle,
        )
        link.download(result.address, windows)
    np.testing.assert_array_equal(windows, [crop(canvas, plan, index) for index in range(len(plan))])


def labels_of(engine: Any, pictures: list[NDArray[np.uint8]], batch_size: int) -> list[tuple[Any, Any]]:
    def finish(key: int, inferred: Inferred) -> tuple[Any, Any]:
        return inferred.scores.labels(), inferred.token_counts

    items = [
        Item(key, load=lambda picture=picture: picture, size=lambda picture=picture: picture.shape[:2])
        for key, picture in enumerate(pictures)
    ]
    with closing(run_pipeline(engine, PipelineOptions(batch_size=batch_size), items, finish)) as outcomes:
        found = [(outcome.value, outcome.error) for outcome in outcomes]
    assert [error for _, error in found if error is not None] == []
    return [value for value, _ in found if value is not None]


def compare_with_onnx_runtime(plan: Path, model: Path, folder: Path) -> None:
    pictures = [decode_image(path) for path in sorted(folder.glob("*.jpg"))]
    expected = labels_of(OnnxRuntimeEngine(model, device="cpu"), pictures, 1)
    engine = TensorRTEngine(plan)
    with closing(engine):
        for batch_size in (1, 3, 8):
            for (labels, counts), (wanted, wanted_counts) in zip(
                labels_of(engine, pictures, batch_size), expected, strict=True
            ):
                assert (labels == wanted).mean() >= FP16_GATE
                assert abs(counts.sum() / wanted_counts.sum() - 1) <= 0.01
        needs_torch_cuda()
        images = np.random.default_rng(0).integers(0, 256, (5, *engine.card.size, 3), np.uint8)
        there = torch.from_numpy(images).cuda()
        np.testing.assert_array_equal(engine.run(there).labels, engine.run(images).labels)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_plan_of_full_tensorrt(
    device: Device, sample_model: Path, sample_pictures: Path, plugin_library: Path, tmp_path: Path, precision: str
) -> None:
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    from algm_trt.engines import BuildOptions, build_engine

    report = build_engine(sample_model, tmp_path / "model.plan", BuildOptions(precision=precision))
    compare_with_onnx_runtime(report.path, sample_model, sample_pictures)


@pytest.mark.rtx
@pytest.mark.parametrize("plugins", [True, False])
def test_a_plan_of_tensorrt_rtx(
    device: Device, sample_model: Path, sample_pictures: Path, plugin_library: Path, tmp_path: Path, plugins: bool
) -> None:
    """Runs where the GPU is on TensorRT-RTX's list; elsewhere the record must refuse it."""
    from algm_trt.engines import BuildOptions, build_engine

    options = BuildOptions(precision="fp16", target="rtx", plugins=plugins)
    report = build_engine(sample_model, tmp_path / "model.plan", options)
    if int(device.compute_capability.replace(".", "")) not in RTX_CAPABILITIES:
        with pytest.raises(PlanMisfitError, match="was built for compute capability"):
            TensorRTEngine(report.path)
        return
    compare_with_onnx_runtime(report.path, sample_model, sample_pictures)
