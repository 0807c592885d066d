"""A stand-in of TensorRT's run time that runs another engine of ours on the buffers it is given, and checks its caller.

It has the names of `helpers.tensorrt_api` and no others; a plan is the name of a model and some bytes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.host_device import DeferredLibrary, HostCuda, host_device
from helpers.plans import PROFILES, VERSION, make_record, write_plan

from algm_trt.plugins.spec import OPS, PLUGIN_NAMESPACE, PLUGIN_VERSION
from algm_trt.runtime.backends.tensorrt import engine as tensorrt_engine
from algm_trt.runtime.backends.tensorrt import plan as tensorrt_plan
from algm_trt.runtime.backends.tensorrt.bindings import TensorRT
from algm_trt.runtime.backends.tensorrt.engine import TensorRTEngine
from algm_trt.runtime.backends.tensorrt.kernels import SlideKernels
from algm_trt.runtime.engine import Engine

ACTIVATION_BYTES = 4096
TEMPORARY_BYTES = 1000


class _Severity:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class _Logger:
    Severity = _Severity

    def log(self, severity: int, text: str) -> None:
        raise NotImplementedError


class HostTensorRT:
    """The module.

    Attributes:
        contexts: all that were made.
        batches: (profile, batch) of each execution.
        meet: called by each execution before it queues; for tests of what runs at the same time.
        fail_at: numbers of the executions, from 1, that fail.
        say: what a failing execution tells the logger.
        changes: what the engine differs in from the one that its record describes.
        runtimes: all that were made.
        initialised: whether TensorRT's own plugins were asked for.
    """

    ILogger = _Logger
    TensorLocation = SimpleNamespace(DEVICE="device", HOST="host")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    def __init__(self, cuda: HostCuda, model: Engine) -> None:
        self.__version__ = VERSION
        self.cuda, self.model = cuda, model
        self.contexts: list[_Context] = []
        self.batches: list[tuple[int, int]] = []
        self.meet: Callable[[], Any] = lambda: None
        self.fail_at: set[int] = set()
        self.say = "[x.cpp::run::1] Error Code 1: Cuda Runtime (no reason)"
        self.changes: dict[str, Any] = {}
        self.runtimes: list[_Runtime] = []
        self.initialised = False
        outer = self

        class Runtime(_Runtime):
            def __init__(self, logger: _Logger) -> None:
                super().__init__(outer, logger)

        class IGpuAsyncAllocator:
            pass

        self.Runtime, self.IGpuAsyncAllocator = Runtime, IGpuAsyncAllocator

    def init_libnvinfer_plugins(self, logger: _Logger, namespace: str) -> bool:
        self.initialised = True
        return True


class _Registry:
    def __init__(self) -> None:
        self.all_creators: list[Any] = []

    def load_library(self, path: str) -> object:
        self.all_creators = [
            SimpleNamespace(name=name, plugin_version=PLUGIN_VERSION, plugin_namespace=PLUGIN_NAMESPACE) for name in OPS
        ]
        return object()


class _Runtime:
    def __init__(self, trt: HostTensorRT, logger: _Logger) -> None:
        self._trt, self._logger, self._registry = trt, logger, _Registry()
        self.engine_host_code_allowed = False
        trt.runtimes.append(self)
        if trt.changes.get("no_driver"):  # TensorRT 10.16 and 11.4 give a runtime all the same
            logger.log(_Severity.ERROR, "createInferRuntime: Error Code 6: API Usage Error (error: 35)")

    def get_plugin_registry(self) -> _Registry:
        return self._registry

    def deserialize_cuda_engine(self, content: bytes) -> _Engine | None:
        assert self._trt.cuda.device == 0
        assert not self._trt.changes.get("no_driver"), "TensorRT ends the process here"
        if not content.startswith(b"plan"):
            self._logger.log(_Severity.ERROR, "[r.cpp::de::9] Error Code 4: magic tag does not match")
            return None
        if self._trt.changes.get("carries_nothing") and not self._registry.all_creators:
            self._logger.log(_Severity.ERROR, "[r.cpp::cr::9] Error Code 4: could not find plugin AlgmLocalMerge")
            return None
        return _Engine(self._trt, self._logger)


class _Engine:
    device_memory_size_v2 = ACTIVATION_BYTES

    def __init__(self, trt: HostTensorRT, logger: _Logger) -> None:
        self.trt, self.logger, card = trt, logger, trt.model.card
        threshold = {} if card.merge is None else {"threshold": ((1,), "FLOAT")}
        self.tensors: dict[str, tuple[tuple[int, ...], str]] = {
            "images": ((-1, *card.size, 3), "UINT8"),
            **threshold,
            "logits": ((-1, len(card.classes), *card.grid), "FLOAT"),
            "labels": ((-1, *card.size), "UINT8" if len(card.classes) <= 256 else "INT32"),
            "token_counts": ((-1, 3), "INT32"),
            "token_map": ((-1, *card.grid), "INT32"),
            **trt.changes.get("tensors", {}),
        }
        self.num_io_tensors = len(self.tensors)
        self.profiles = trt.changes.get("profiles", PROFILES)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name][1])

    def get_tensor_location(self, name: str) -> str:
        return str(self.trt.changes.get("location", {}).get(name, "device"))

    def create_execution_context(self, strategy: str) -> _Context | None:
        assert strategy == "user managed"
        if self.trt.changes.get("no_context"):
            return None
        context = _Context(self)
        self.trt.contexts.append(context)
        return context


class _Context:
    """An execution context: one thread at a time, everything set before it runs."""

    def __init__(self, engine: _Engine) -> None:
        self._engine, self._trt = engine, engine.trt
        self.temporary_allocator: Any = None
        self.profile: int | None = None
        self._memory: int | None = None
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._busy = threading.Lock()

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream > 2, "the default stream"
        if self._trt.changes.get("no_profile"):
            self._engine.logger.log(_Severity.ERROR, self._trt.say)
            raise RuntimeError("Error in set optimization profile async.")  # as TensorRT's bindings do
        self.profile = profile
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.profile is not None, "the profile comes first"
        assert size >= ACTIVATION_BYTES
        self._trt.cuda.view(address, size)
        if address % self._trt.changes.get("activation_alignment", 512):
            self._engine.logger.log(_Severity.ERROR, "setDeviceMemory: memory must be aligned on 512 byte boundary")
            return
        self._memory = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        least, _, most = self._engine.profiles[self.profile]
        assert name == "images"
        assert least <= shape[0] <= most, "outside the profile"
        assert shape[1:] == self._engine.tensors["images"][0][1:]
        self._shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self._engine.tensors
        assert address % 256 == 0, "TensorRT wants addresses at multiples of 256"
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt, cuda = self._trt, self._trt.cuda
        assert self._busy.acquire(blocking=False), "a context in two threads at a time"
        try:
            assert self._shape is not None
            assert self._memory is not None
            assert set(self._addresses) == set(self._engine.tensors)
            assert cuda.device == 0, "another device is current"
            with cuda.lock:
                trt.batches.append((self.profile or 0, self._shape[0]))
                number = len(trt.batches)
            trt.meet()
            # As TensorRT's bindings do, and not as its documentation says: the stream comes before the flags.
            temporary = self.temporary_allocator.allocate_async(TEMPORARY_BYTES, 256, stream, 0)
            if not temporary or number in trt.fail_at:
                self._engine.logger.log(_Severity.ERROR, trt.say)
                assert self.temporary_allocator.deallocate_async(temporary, stream)
                return False
            shape, addresses = self._shape, dict(self._addresses)
            cuda.queue(stream, lambda: self._run(shape, addresses))
            assert self.temporary_allocator.deallocate_async(temporary, stream)
            return True
        finally:
            self._busy.release()

    def _run(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        def tensor(name: str) -> Any:
            dims, kind = self._engine.tensors[name]
            dtype = np.dtype({"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}[kind])
            full = tuple(shape[0] if extent == -1 else extent for extent in dims)
            size = int(np.prod(full)) * dtype.itemsize
            return self._trt.cuda.view(addresses[name], size).view(dtype).reshape(full)

        threshold = tensor("threshold").item() if "threshold" in addresses else None
        output = self._trt.model.run(tensor("images").copy(), threshold)
        for name in ("logits", "labels", "token_counts", "token_map"):
            tensor(name)[...] = getattr(output, name)


@dataclass(eq=False)
class World:
    """A machine with a GPU and TensorRT, both of them stand-ins, and an engine on it.

    Attributes:
        cuda: the stand-in of CUDA.
        trt: the stand-in of TensorRT.
        model: what the plan computes.
        library: the kernels, or None where there is no library.
        engine: the engine under test.
    """

    cuda: HostCuda
    trt: HostTensorRT
    model: Engine
    library: DeferredLibrary | None
    engine: TensorRTEngine


def open_world(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    model: Engine,
    twin: Path | None,
    *,
    profiles: tuple[tuple[int, int, int], ...] = PROFILES,
    lanes: int = 2,
) -> World:
    """Open a plan that computes what a model computes; `twin` is the CPU twin of the plugin library."""
    cuda = HostCuda()
    trt = HostTensorRT(cuda, model)
    trt.changes["profiles"] = profiles
    library = None if twin is None else DeferredLibrary(ctypes.CDLL(str(twin)), cuda)
    install(monkeypatch, trt)
    kernels = None if library is None else SlideKernels(library)
    monkeypatch.setattr(tensorrt_engine, "load_kernels", lambda: kernels)
    path = write_plan(folder, make_record(model.card, profiles=profiles))
    engine = TensorRTEngine(path, device=host_device(cuda), lanes=lanes)
    return World(cuda, trt, model, library, engine)


def install(monkeypatch: pytest.MonkeyPatch, trt: HostTensorRT) -> None:
    """Let the runtime find the stand-in where it looks for TensorRT."""
    found = TensorRT(trt, "tensorrt", trt.__version__)
    monkeypatch.setattr(tensorrt_plan, "load_tensorrt", lambda **wishes: found)
