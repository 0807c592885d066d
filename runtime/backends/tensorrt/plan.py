"""Opens a plan: first its record, which says by name what does not fit this machine, then the plan itself."""

from __future__ import annotations

import hashlib
import math
import platform
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from algm_trt.plugins.library import INTERFACE_VERSION, PluginLibraryError, load_library
from algm_trt.plugins.spec import PLUGIN_VERSION
from algm_trt.runtime.backends.tensorrt.bindings import (
    TensorRT,
    load_tensorrt,
    load_tensorrt_rtx,
    version_numbers,
)
from algm_trt.runtime.backends.tensorrt.log import Messages, logger_for, made
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import EngineError
from algm_trt.runtime.engine_record import EngineRecord, PluginRecord, read_record

MEANWHILE: Final = "the .onnx that the plan was built from runs without it: algm-infer --engine model.onnx"
AMPERE: Final = (8, 0)
_DTYPES: Final = {"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}
"""By TensorRT's names."""


class PlanMisfitError(EngineError):
    """A plan that is whole but not for this machine or this version."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of the engine.

    Attributes:
        shape: without the batch.
        dtype: of its elements.
        batched: whether it has one entry per picture; the whole batch shares the threshold.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    batched: bool = True

    @property
    def item_bytes(self) -> int:
        """Bytes of one picture's entry."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class OpenPlan:
    """A plan in TensorRT's hands, with what must live as long as it does.

    Attributes:
        record: what it is.
        tensorrt: the module that runs it.
        runtime: deserialised it.
        engine: the deserialised plan.
        messages: what TensorRT says.
        logger: fills them.
        tensors: inputs and outputs by name.
        making: held while a context is made: a context belongs to one thread, the engine to all of them.
    """

    record: EngineRecord
    tensorrt: TensorRT
    runtime: Any
    engine: Any
    messages: Messages
    logger: Any
    tensors: dict[str, Tensor]
    making: threading.Lock = field(default_factory=threading.Lock)


def read_plan(path: Path) -> tuple[EngineRecord, bytes]:
    """The record of a plan, and the plan if it is the one that the record describes.

    Raises:
        EngineRecordError: no record, or one of another version.
        EngineError: a plan that was cut short or changed.
    """
    record = read_record(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) != record.plan_bytes:
        raise EngineError(
            f"{path} has {len(content)} bytes but its record says {record.plan_bytes}: copy both files again, "
            "or build the engine again"
        )
    if hashlib.sha256(content).hexdigest() != record.plan_sha256:
        raise EngineError(
            f"{path} is not the plan that its record describes, or is damaged: copy both files again, or build the "
            "engine again"
        )
    return record, content


def tensorrt_for(path: Path, record: EngineRecord) -> TensorRT:
    """The TensorRT that can run a plan.

    Raises:
        MissingDependencyError: it is not installed.
        PlanMisfitError: the installed version is not the plan's.
    """
    options = record.options
    if record.flavour == "rtx":
        tensorrt = load_tensorrt_rtx()
    elif record.flavour == "tensorrt":
        tensorrt = load_tensorrt(
            needs="Runtime", meanwhile=MEANWHILE, lean=bool(options.get("version_compatible", False))
        )
    else:
        raise PlanMisfitError(f"{path} is for '{record.flavour}', which this version does not know: build it again")
    built, here = version_numbers(record.tensorrt_version), version_numbers(tensorrt.version)
    same_major = built[:1] == here[:1] and here >= built
    if built == here or (options.get("version_compatible") and same_major):
        return tensorrt
    raise PlanMisfitError(
        f"{path} was built with {tensorrt.product} {record.tensorrt_version}, here is {tensorrt.version}: install that "
        f"version, or build it again here: {record.build_command()}"
    )


def check_gpu(path: Path, record: EngineRecord, name: str, compute_capability: str) -> None:
    """Refuse a plan that was built for other GPUs.

    Args:
        path: of the plan.
        record: of the plan.
        name: of the GPU that is to run it.
        compute_capability: of that GPU, such as "8.9".

    Raises:
        PlanMisfitError: the message says which GPU it was built for.
    """
    level = record.options.get("hardware_compatibility", "none")
    if record.flavour == "tensorrt" and level == "ampere-plus" and version_numbers(compute_capability) >= AMPERE:
        return
    if compute_capability in record.compute_capabilities:
        return
    built_for = ", ".join(record.compute_capabilities)
    on = f" ({record.gpu})" if record.gpu else ""
    where = "" if record.flavour == "rtx" else " on this machine"
    raise PlanMisfitError(
        f"{path} was built for compute capability {built_for}{on}, and this {name} has {compute_capability}: "
        f"build it again{where}: {record.build_command(compute_capability)}"
    )


def check_processor(path: Path, record: EngineRecord) -> None:
    """Refuse a plan that was built on another kind of processor: TensorRT and the library in it are for that one.

    An H100 and a GH200 have one compute capability, and x86-64 and Arm processors.

    Raises:
        PlanMisfitError: the message says which it was built on.
    """
    here = platform.machine()
    if record.processor not in ("", here):
        raise PlanMisfitError(
            f"{path} was built on {record.processor}, and this machine is {here}: build it again on such a machine: "
            f"{record.build_command()}"
        )


def check_plugins(path: Path, record: EngineRecord) -> None:
    """Refuse a plan whose operators are not those of this version.

    Raises:
        PlanMisfitError: another version of the plugins or, where the plan does not carry the library, of its interface.
    """
    plugins = record.plugins
    if plugins is None:
        return
    if plugins.version != PLUGIN_VERSION:
        raise PlanMisfitError(
            f"{path} has plugins of version {plugins.version}, this version of algm-trt has {PLUGIN_VERSION}: "
            f"build it again: {record.build_command()}"
        )
    if not plugins.embedded and plugins.interface != INTERFACE_VERSION:
        raise PlanMisfitError(
            f"{path} needs a plugin library of interface {plugins.interface}, this version of algm-trt has "
            f"{INTERFACE_VERSION}: build it again: {record.build_command()}"
        )


def check_profiles(path: Path, record: EngineRecord) -> None:
    """Refuse a record without usable batch ranges.

    Raises:
        EngineError: there is none, or one is not a range.
    """
    if not record.profiles or any(not 1 <= low <= usual <= high for low, usual, high in record.profiles):
        raise EngineError(f"the record of {path} has no usable batch range: build the engine again")


def open_plan(path: Path, record: EngineRecord, content: bytes, tensorrt: TensorRT) -> OpenPlan:
    """Deserialise a plan; the device must be current.

    Raises:
        PluginLibraryError: the plan needs the plugin library and it is not here.
        EngineError: TensorRT cannot open it, or it is not an engine of this toolkit.
    """
    trt, messages = tensorrt.module, Messages()
    logger = logger_for(trt, messages)
    try:
        runtime = made(trt.Runtime, logger, messages)
    except RuntimeError as error:
        raise EngineError(
            f"{tensorrt.name} cannot start on this GPU: {error}; the driver must support the CUDA version of this "
            "TensorRT (nvidia-smi shows it)"
        ) from error
    if record.plugins is None and hasattr(trt, "init_libnvinfer_plugins"):
        # ScatterElements, which the function bodies use, is a plugin of TensorRT's own in 10.x.
        trt.init_libnvinfer_plugins(logger, "")
    elif record.plugins is not None and not record.plugins.embedded:
        load_library(runtime.get_plugin_registry())
    # Off, TensorRT refuses plans that carry a library. Whoever opens a plan runs its code.
    runtime.engine_host_code_allowed = bool(
        (record.plugins is not None and record.plugins.embedded) or record.options.get("version_compatible")
    )
    engine = runtime.deserialize_cuda_engine(content) or _opened_with_own_library(runtime, record.plugins, content)
    if engine is None:
        said = messages.summary() or "it does not say why"
        raise EngineError(f"{path} cannot be opened by {tensorrt.name}: {said}; build it again on this machine")
    messages.errors.clear()
    tensors = _tensors(path, record, engine, trt)
    return OpenPlan(record, tensorrt, runtime, engine, messages, logger, tensors)


def _opened_with_own_library(runtime: Any, plugins: PluginRecord | None, content: bytes) -> Any:
    """A plan that was to carry the library, opened with the one of this machine; None if that does not help.

    TensorRT's documentation speaks of libraries in version-compatible plans only, so that others may lack it.
    """
    if plugins is None or not plugins.embedded or plugins.interface != INTERFACE_VERSION:
        return None
    try:
        load_library(runtime.get_plugin_registry())
    except PluginLibraryError:
        return None
    return runtime.deserialize_cuda_engine(content)


def _tensors(path: Path, record: EngineRecord, engine: Any, trt: Any) -> dict[str, Tensor]:
    """Inputs and outputs, if they are what the card promises."""
    expected = _expected(record.card)
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if names != set(expected) or engine.num_optimization_profiles != len(record.profiles):
        raise EngineError(f"{path} does not belong to its record: build the engine again, or copy both files again")
    sizes = {size for profile in record.profiles for size in profile}
    # TensorRT reports an extent of -1 where it is free or unknown; a profile may hold the batch to one value.
    batch = sizes.pop() if len(sizes) == 1 else -1
    tensors = {}
    for name, tensor in expected.items():
        found = tuple(engine.get_tensor_shape(name))
        kind = engine.get_tensor_dtype(name).name
        wanted = (batch, *tensor.shape) if tensor.batched else tensor.shape
        fits = len(found) == len(wanted) and all(a in (b, -1) for a, b in zip(found, wanted, strict=True))
        if not fits or _DTYPES.get(kind) != tensor.dtype:
            raise EngineError(
                f"{path} does not belong to its record: {name} is {kind} {found}, not {tensor.dtype} {wanted}; "
                "build the engine again, or copy both files again"
            )
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(f"{path}: TensorRT wants {name} in the memory of the host: build the engine again")
        tensors[name] = tensor
    return tensors


def _expected(card: ModelCard) -> dict[str, Tensor]:
    """Inputs and outputs of a model with this card."""
    byte, integer, real = (np.dtype(kind) for kind in (np.uint8, np.int32, np.float32))
    threshold = {} if card.merge is None else {"threshold": Tensor((1,), real, batched=False)}
    return {
        "images": Tensor((*card.size, 3), byte),
        **threshold,
        "logits": Tensor((len(card.classes), *card.grid), real),
        "labels": Tensor(card.size, byte if len(card.classes) <= 256 else integer),
        "token_counts": Tensor((3,), integer),
        "token_map": Tensor(card.grid, integer),
    }
