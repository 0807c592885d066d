"""The one module that calls CUDA: memory, streams and errors on a stand-in, and its names in the real cuda-python."""

from __future__ import annotations

import ast
import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.host_device import FRESH, UNREAD, HostCuda, host_device, other_device

from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.runtime import cuda as cuda_module
from algm_trt.runtime.backends.tensorrt.transfers import PIECE_BYTES, Transfers
from algm_trt.runtime.cuda import Bindings, CudaError, Device, DeviceLostError, OutOfDeviceMemoryError, load_bindings

SOURCE = Path(cuda_module.__file__)


def names_used() -> set[str]:
    """Every name of CUDA that the module writes, as attribute or as text."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for name in found if name.startswith(("cuda", "cuuint")) and name.isidentifier() and name != "cuda"}


def test_every_name_exists_in_cuda_python() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    driver = pytest.importorskip("cuda.bindings.driver")
    holders = [runtime, driver, *(getattr(runtime, name) for name in names_used() if hasattr(runtime, name))]
    names = names_used()
    assert len(names) > 60
    assert sorted(name for name in names if not any(hasattr(holder, name) for holder in holders)) == []


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_nothing_else_imports_cuda() -> None:
    assert [file.name for file in SOURCE.parent.rglob("*.py") if "cuda" in imported(file)] == [SOURCE.name]


def test_a_machine_without_driver_says_so() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if load_bindings().runtime.cudaDriverGetVersion()[1]:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(MissingDependencyError, match=r"no NVIDIA driver is on this machine: .* take the \.onnx"):
        Device()


def test_without_cuda_python_the_cure_is_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match=r"cuda-python is not installed .*: pip install cuda-python"):
        load_bindings()


@pytest.mark.parametrize(
    ("driver", "error", "said"),
    [
        (0, "cudaErrorInsufficientDriver", "no NVIDIA driver"),
        (12020, "cudaErrorInsufficientDriver", r"knows CUDA 12\.2 and cuda-python needs 13\.0: .*'cuda-python<13'"),
        (13000, "cudaErrorNoDevice", "no GPU that it can use .* check nvidia-smi"),
    ],
)
def test_why_there_is_no_device(driver: int, error: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = HostCuda()
    monkeypatch.setattr(HostCuda, "cudaDriverGetVersion", lambda self: driver)
    host.fail("cudaGetDeviceCount", error)
    with pytest.raises(MissingDependencyError, match=said):
        host_device(host)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(MissingDependencyError, match="there is no GPU 2"):
        host_device(HostCuda(devices=2), ordinal=2)


def test_device_tells_what_it_is() -> None:
    device = host_device(HostCuda(capability=(12, 0)))
    assert (device.name, device.compute_capability, device.ordinal) == ("Host device", "12.0", 0)


def test_copies_come_back_in_order() -> None:
    device = host_device()
    stream = device.stream()
    there, back = device.pinned((7, 3), np.float32), device.pinned((7, 3), np.float32)
    there[:] = np.arange(21).reshape(7, 3)
    first, second = device.allocate(there.nbytes, "a test"), device.allocate(there.nbytes, "a test")
    stream.upload(there, first.address)
    stream.copy(first.address, second.address, there.nbytes)
    stream.zero(second.address, 4)
    stream.download(second.address, back)
    assert (back.view(np.uint8) == UNREAD).all(), "the stand-in does nothing before it is waited for"
    stream.synchronize()
    np.testing.assert_array_equal(back.ravel(), [0, *range(1, 21)])


def test_a_stream_waits_for_another() -> None:
    host = HostCuda()
    device = host_device(host)
    producer, consumer = device.stream(), device.stream()
    buffer, source, result = device.allocate(4, "a test"), device.pinned((4,), np.uint8), device.pinned((4,), np.uint8)
    source[:] = 9
    producer.upload(source, buffer.address)
    consumer.wait_for(producer.handle)
    consumer.download(buffer.address, result)
    consumer.synchronize()
    assert result.tolist() == [9, 9, 9, 9]


def test_without_waiting_the_stand_in_shows_what_was_there() -> None:
    device = host_device()
    producer, consumer = device.stream(), device.stream()
    buffer, source, result = device.allocate(4, "a test"), device.pinned((4,), np.uint8), device.pinned((4,), np.uint8)
    producer.upload(source, buffer.address)
    consumer.download(buffer.address, result)
    consumer.synchronize()
    assert result.tolist() == [FRESH] * 4
    producer.synchronize()


def test_memory_is_freed_once_and_with_its_last_holder() -> None:
    host = HostCuda()
    device = host_device(host)
    kept, dropped = device.allocate(100, "a test"), device.allocate(50, "a test")
    assert host.live == 150
    kept.release()
    kept.release()
    del dropped
    gc.collect()
    device.allocate(1, "waits for the stream of frees").release()
    assert host.calls.count("cudaFreeAsync") == 3


def test_pinned_memory_lives_as_long_as_a_view_of_it() -> None:
    host = HostCuda()
    array = host_device(host).pinned((5, 2), np.int32)
    view = array[2:, :1]
    array[:] = 4
    del array
    gc.collect()
    assert "cudaFreeHost" not in host.calls
    assert view.tolist() == [[4], [4], [4]]
    del view
    gc.collect()
    assert host.calls.count("cudaFreeHost") == 1


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_pinned_arrays_of_awkward_shapes(shape: tuple[int, ...]) -> None:
    array = host_device().pinned(shape, np.float32)
    assert array.shape == shape
    array[...] = 1.5


def test_out_of_memory_trims_and_tries_again() -> None:
    host = HostCuda()
    device = host_device(host)
    host.fail("cudaMallocFromPoolAsync")
    assert device.allocate(10, "a test").size == 10
    assert host.calls.count("cudaMemPoolTrimTo") == 1


def test_out_of_memory_for_good_says_what_to_do() -> None:
    host = HostCuda()
    device = host_device(host)
    host.limit = 1000
    kept = device.allocate(900, "a test")
    with pytest.raises(OutOfDeviceMemoryError, match=r"no memory left for a picture: .*--batch-size .*nvidia-smi"):
        device.allocate(200, "a picture")
    kept.release()
    assert device.allocate(999, "a test").size == 999


@pytest.mark.parametrize("error", ["cudaErrorIllegalAddress", "cudaErrorLaunchFailure"])
def test_a_lost_device_says_so(error: str) -> None:
    host = HostCuda()
    device = host_device(host)
    stream, buffer = device.stream(), device.allocate(10, "a test")
    host.lost = host.cudaError_t[error]
    with pytest.raises(DeviceLostError, match=r"the GPU stopped working for this process .*: start the program again"):
        stream.synchronize()
    buffer.release()  # must not raise: there is nothing left to free


def test_other_failures_have_words_and_no_numbers() -> None:
    host = HostCuda()
    stream = host_device(host).stream()
    host.fail("cudaStreamSynchronize", "cudaErrorInvalidValue")
    with pytest.raises(CudaError, match=r"^work failed on the GPU: cudaErrorInvalidValue$"):
        stream.synchronize()


def test_the_threads_own_device_comes_back() -> None:
    host = HostCuda(devices=2)
    device = host_device(host)
    with other_device(host, 1):
        with device.current():
            assert host.device == 0
        device.stream().synchronize()
        device.pinned((3,), np.uint8)
        assert host.device == 1


def test_devices_without_pools_still_have_memory() -> None:
    host = HostCuda(pools=False)
    device = host_device(host)
    buffer = device.allocate(10, "a test")
    assert host.live == 10
    buffer.release()
    assert host.live == 0
    device.close()
    assert not any("Pool" in name for name in host.calls)


def test_timed_events_tell_the_seconds_between_them() -> None:
    host = HostCuda()
    device = host_device(host)
    buffer = device.allocate(2**20, "a test")
    stream = device.stream()
    begin = stream.event(timed=True)
    stream.zero(buffer.address, buffer.size)
    end = stream.event(timed=True)
    with pytest.raises(CudaError):
        end.seconds_since(begin)
    end.synchronize()
    assert 0 < end.seconds_since(begin) < 1


def test_closing_leaves_no_stream() -> None:
    host = HostCuda()
    device = host_device(host)
    buffer = device.allocate(10, "a test")
    device.close()
    buffer.release()
    assert (host.open_streams, host.live) == (0, 0)


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 1, 5 * PIECE_BYTES + 7])
def test_transfers_of_any_size(size: int) -> None:
    device = host_device()
    transfers = Transfers(device)
    array = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    buffer, back = device.allocate(size, "a test"), np.empty(size, np.uint8)
    with transfers.link() as link:
        link.upload(array, buffer.address)
    with transfers.link() as link:
        link.download(buffer.address, back)
    np.testing.assert_array_equal(back, array)


def test_transfers_take_arrays_with_gaps() -> None:
    device = host_device()
    array = np.arange(60, dtype=np.int32).reshape(6, 10)[::-1, ::3]
    buffer, back = device.allocate(array.nbytes, "a test"), np.empty(array.shape, np.int32)
    with Transfers(device).link() as link:
        link.upload(array, buffer.address)
        link.download(buffer.address, back)
    np.testing.assert_array_equal(back, array)


def test_threads_have_links_of_their_own() -> None:
    host = HostCuda()
    device = host_device(host)
    transfers = Transfers(device)
    wrong = []

    def work(seed: int) -> None:
        array = np.random.default_rng(seed).integers(0, 256, 3 * PIECE_BYTES // 2, np.uint8)
        buffer, back = device.allocate(array.size, "a test"), np.empty_like(array)
        with transfers.link() as link:
            link.upload(array, buffer.address)
            link.download(buffer.address, back)
        if not (back == array).all():
            wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    transfers.close()
    assert host.open_streams == 1  # the device's own


def test_a_link_that_failed_is_used_again() -> None:
    host = HostCuda()
    device = host_device(host)
    transfers = Transfers(device)
    array, buffer = np.ones(10, np.uint8), device.allocate(10, "a test")
    host.fail("cudaMemcpyAsync", "cudaErrorInvalidValue")
    with pytest.raises(CudaError), transfers.link() as link:
        link.upload(array, buffer.address)
    back = np.zeros_like(array)
    with transfers.link() as link:
        link.upload(array, buffer.address)
        link.download(buffer.address, back)
    assert back.all()


def test_bindings_are_what_a_device_calls() -> None:
    assert isinstance(host_device().bindings, Bindings)
