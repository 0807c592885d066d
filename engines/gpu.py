"""GPUs as the NVIDIA driver itself tells them, through ctypes: no CUDA package is needed to build or to look around."""

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
        capability: compute capability as a number, such as 89 for 8.9.
        memory_mib: its memory.
    """

    name: str
    capability: int
    memory_mib: int

    @property
    def compute_capability(self) -> str:
        """Such as "8.9" or "12.0"."""
        return f"{self.capability // 10}.{self.capability % 10}"


def load_driver() -> ctypes.CDLL:
    """The driver's library; nothing has been called yet.

    Raises:
        MissingDependencyError: there is none.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MissingDependencyError("no NVIDIA driver is on this machine (libcuda.so.1 is not there)") from error


def gpu_of(driver: ctypes.CDLL, ordinal: int) -> Gpu:
    """A GPU by its number among those that CUDA_VISIBLE_DEVICES leaves visible; the driver is initialised."""
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(_NAME_LENGTH), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetName(name, _NAME_LENGTH, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value, memory.value // 2**20)


def current_gpu() -> Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible, which is the one that TensorRT takes.

    Not run by us on a machine with full TensorRT.

    Raises:
        MissingDependencyError: there is no driver or no device.
    """
    try:
        driver = load_driver()
    except MissingDependencyError as error:
        raise MissingDependencyError(_missing(str(error))) from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        reason = f" (error {status})" if status else ""
        raise MissingDependencyError(_missing(f"the NVIDIA driver finds no GPU{reason}: check nvidia-smi"))
    return gpu_of(driver, 0)


def _missing(what: str) -> str:
    return f"{what}; TensorRT builds on the GPU that runs the plan: build there; {MEANWHILE}"
