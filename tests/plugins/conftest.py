"""Fixtures of the tests that need nvcc or a GPU. Those of the CPU twin have their own `kernels` and `rng`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.kernels import Kernels

from algm_trt.plugins.build import find_nvcc
from algm_trt.plugins.errors import MissingDependencyError

if TYPE_CHECKING:  # needs PyTorch
    from helpers.device import DeviceMemory


@pytest.fixture
def nvcc() -> Path:
    """The compiler that builds the plugin library."""
    try:
        return find_nvcc()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def device_memory() -> DeviceMemory:
    """CUDA memory from PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch holds the device memory of these tests")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that PyTorch can use")
    from helpers.device import DeviceMemory

    return DeviceMemory()


@pytest.fixture(scope="session")
def kernels(plugin_library: Path, device_memory: DeviceMemory) -> Kernels:
    """The library that `algm_trt.plugins.library` finds (ALGM_PLUGINS_LIB, the wheel's, algm-build-plugins')."""
    return Kernels(plugin_library, device_memory)


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh numbers every run; a failure prints the seed."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)
