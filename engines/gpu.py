"""The GPU that TensorRT would build for, asked from the driver itself: no CUDA package is needed to build."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

from algm_trt.engines.bindings import MEANWHILE
from algm_trt.plugins.errors import MissingDependencyError

_MAJOR, _MINOR = 75, 76
"""Device attributes of the compute capability, by the driver's numbers."""

_NAME_LENGTH: Final = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: as the driver reports it.
        compute_capability: such as "8.9".
    """

    name: str
    compute_capability: str


def current_gpu() -> Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible, which is the one that TensorRT takes.

    Not run by us on a machine with full TensorRT.

    Raises:
        MissingDependencyError: there is no driver or no device.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MissingDependencyError(_missing("no NVIDIA driver is on this machine")) from error
    device = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    if status:
        raise MissingDependencyError(_missing(f"the NVIDIA driver finds no GPU (error {status}): check nvidia-smi"))
    name = ctypes.create_string_buffer(_NAME_LENGTH)
    driver.cuDeviceGetName(name, _NAME_LENGTH, device)
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    return Gpu(name.value.decode(), ".".join(numbers))


def _missing(what: str) -> str:
    return f"{what}; TensorRT builds on the GPU that runs the plan: build there; {MEANWHILE}"
