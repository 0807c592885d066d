"""The GPU that TensorRT would build for, or the one message that says what is missing."""

from __future__ import annotations

import ctypes

import pytest

from algm_trt.engines import gpu
from algm_trt.engines.gpu import Gpu, current_gpu
from algm_trt.plugins.errors import MissingDependencyError

try:
    ctypes.CDLL("libcuda.so.1")
    HAS_DRIVER = True
except OSError:
    HAS_DRIVER = False


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has an NVIDIA driver")
def test_no_driver_says_what_works_without() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        current_gpu()
    parts = ("no NVIDIA driver", "algm-infer --engine model.onnx", "--target rtx")
    assert [part for part in parts if part not in str(caught.value)] == []


class Driver:
    """Answers as the driver does, through pointers."""

    def __init__(self, status: int) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = 1  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, size: object, device: object) -> int:  # noqa: N802
        size._obj.value = 23034 * 2**20  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, device: object, ordinal: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetName(self, name: ctypes.Array[ctypes.c_char], length: int, device: object) -> int:  # noqa: N802
        name.value = b"NVIDIA L4"
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: object) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[attribute]  # type: ignore[attr-defined]
        return 0


def test_name_and_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver(0))
    assert current_gpu() == Gpu("NVIDIA L4", 89, 23034)
    assert current_gpu().compute_capability == "8.9"
    assert Gpu("NVIDIA GeForce RTX 5090", 120, 32607).compute_capability == "12.0"


def test_driver_whose_devices_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver(0))
    monkeypatch.setattr(Driver, "cuDeviceGetCount", lambda *_: 0)
    with pytest.raises(MissingDependencyError, match="finds no GPU: check nvidia-smi"):
        current_gpu()


def test_driver_without_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver(100))
    with pytest.raises(MissingDependencyError, match=r"finds no GPU \(error 100\): check nvidia-smi"):
        current_gpu()
