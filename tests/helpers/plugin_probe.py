"""Drives the plugin library through `tests/plugins/abi/plugin_probe.cpp`, which calls it as TensorRT does."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algm_trt.plugins.spec import OPS

ABI_SOURCES = Path(__file__).resolve().parents[1] / "plugins" / "abi"

FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)
"""TensorRT's DataType."""
LINEAR = 0
"""TensorRT's TensorFormat of plain row-major tensors."""
BUILD, RUNTIME = 0, 1
"""TensorRT's TensorRTPhase."""

_FIELD_TYPES = {"float32": 1, "float64": 2, "int8": 3, "int16": 4, "int32": 5, "int64": 10}
_CHAR = 6

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OutputShapes:
    """Answer of getOutputShapes.

    Attributes:
        shapes: extents of each output, the upper bound where the data decide.
        size_output: output that carries the data-dependent extent; -1 without one.
        size_hint: extent to tune for.
        sized: outputs that have the data-dependent extent.
    """

    shapes: list[Shape]
    size_output: int
    size_hint: int
    sized: list[int]


def build_abi_checks(folder: Path, tensorrt_root: Path | None = None) -> Path:
    """Compile the probe, and with NVIDIA's headers the comparison with them, into `folder`; returns `folder`."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on PATH: the probe of the plugin interface cannot be compiled")
    configure = ["cmake", "-S", str(ABI_SOURCES), "-B", str(folder)]
    configure.append(f"-DTENSORRT_ROOT={tensorrt_root or ''}")
    for command in (configure, ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
    return folder


class Probe:
    """A compiled probe with a plugin library open in it.

    Args:
        probe: the compiled probe.
        plugin_library: the library under test.
        tensorrt: a TensorRT library (libnvinfer or libnvinfer_lean) through whose registry the plugin library is
            loaded; None opens it directly. Needs a probe compiled against headers of the same major version.
    """

    def __init__(self, probe: Path, plugin_library: Path, tensorrt: Path | None = None) -> None:
        self.c = ctypes.CDLL(str(probe))
        for name in ("open_error", "creator_identity", "creator_fields", "identity", "fields", "timing_id"):
            getattr(self.c, f"probe_{name}").restype = ctypes.c_char_p
        for name in ("open", "create", "recreate", "clone", "attach"):
            getattr(self.c, f"probe_{name}").restype = ctypes.c_void_p
        self.c.probe_workspace.restype = ctypes.c_size_t
        if tensorrt is None:
            self.identities, self.creators = self._direct_creators(plugin_library)
        else:
            self.identities, self.creators = self._registered_creators(plugin_library, tensorrt)

    def _open(self, library: Path) -> ctypes.c_void_p:
        handle = self.c.probe_open(str(library).encode())
        assert handle, self.c.probe_open_error().decode()
        return ctypes.c_void_p(handle)

    def _direct_creators(self, plugin_library: Path) -> tuple[list[str], dict[str, int | None]]:
        room = (ctypes.c_void_p * 16)()
        count = self.c.probe_creators(self._open(plugin_library), room, 16)
        return self._named(room[:count])

    def _registered_creators(self, plugin_library: Path, tensorrt: Path) -> tuple[list[str], dict[str, int | None]]:
        room = (ctypes.c_void_p * len(OPS))()
        names = (ctypes.c_char_p * len(OPS))(*(name.encode() for name in OPS))
        handle = self._open(tensorrt)
        found = self.c.probe_registry(handle, str(plugin_library).encode(), names, room, len(OPS))
        assert found == len(OPS), f"the registry of {tensorrt} gave {found} creators"
        return self._named(room[:])

    def _named(self, creators: Sequence[int | None]) -> tuple[list[str], dict[str, int | None]]:
        identities = [self.text("creator_identity", creator) for creator in creators]
        names = [identity.split("::")[1].split(":")[0] for identity in identities]
        return identities, dict(zip(names, creators, strict=True))

    def text(self, name: str, pointer: int | None) -> str:
        """Call a probe function that answers with text."""
        return str(getattr(self.c, f"probe_{name}")(ctypes.c_void_p(pointer)).decode())

    def create(self, op: str, attributes: Mapping[str, Any], phase: int = BUILD) -> Plugin | None:
        """Create a plugin; None when the creator refuses. int, float and lists become INT32 and FLOAT32 fields."""
        encoded = [_encode(value) for value in attributes.values()]
        count = len(encoded)
        pointer = self.c.probe_create(
            ctypes.c_void_p(self.creators[op]),
            count,
            (ctypes.c_char_p * count)(*(name.encode() for name in attributes)),
            (ctypes.c_int32 * count)(*(kind for kind, _ in encoded)),
            (ctypes.c_int32 * count)(*(data.size for _, data in encoded)),
            (ctypes.c_void_p * count)(*(data.ctypes.data for _, data in encoded)),
            phase,
        )
        return Plugin(self, op, pointer) if pointer else None


class Plugin:
    """A plugin object of the library; deleted with this object."""

    def __init__(self, probe: Probe, op: str, pointer: int) -> None:
        self.probe, self.op, self.pointer = probe, op, ctypes.c_void_p(pointer)

    def __del__(self) -> None:
        self.probe.c.probe_delete(self.pointer)

    @property
    def identity(self) -> str:
        return self.probe.text("identity", self.pointer.value)

    @property
    def fields(self) -> str:
        """Attributes as they would be stored in a plan."""
        return self.probe.text("fields", self.pointer.value)

    @property
    def timing_id(self) -> str:
        return self.probe.text("timing_id", self.pointer.value)

    @property
    def nb_outputs(self) -> int:
        return int(self.probe.c.probe_nb_outputs(self.pointer))

    def recreate(self) -> Plugin:
        """What loading a plan gives: a plugin from the stored attributes."""
        creator = ctypes.c_void_p(self.probe.creators[self.op])
        return self._another(self.probe.c.probe_recreate(creator, self.pointer))

    def clone(self) -> Plugin:
        return self._another(self.probe.c.probe_clone(self.pointer))

    def attach(self) -> Plugin:
        """The plugin of an execution context."""
        return self._another(self.probe.c.probe_attach(self.pointer))

    def output_types(self, inputs: Sequence[int]) -> list[int] | None:
        """Types of the outputs; None when refused."""
        out = (ctypes.c_int32 * self.nb_outputs)()
        status = self.probe.c.probe_types(self.pointer, _ints(inputs), len(inputs), out, self.nb_outputs)
        return None if status else list(out)

    def supports(self, position: int, types: Sequence[int], formats: Sequence[int], inputs: int) -> bool:
        """Whether tensor `position` may have its type and format; the first `inputs` tensors are inputs."""
        outputs = len(types) - inputs
        return bool(self.probe.c.probe_format(self.pointer, position, _ints(types), _ints(formats), inputs, outputs))

    def output_shapes(self, inputs: Sequence[Shape]) -> OutputShapes | None:
        """Shapes of the outputs; a negative input extent -n is one of value n that TensorRT does not know yet."""
        count = self.nb_outputs
        ranks, extents, info = (ctypes.c_int32 * count)(), (ctypes.c_int64 * (8 * count))(), (ctypes.c_int64 * 3)()
        given = _shapes(inputs)
        if self.probe.c.probe_shapes(self.pointer, len(inputs), *given, count, ranks, extents, info):
            return None
        shapes = [tuple(extents[8 * i : 8 * i + ranks[i]]) for i in range(count)]
        return OutputShapes(shapes, info[0], info[1], [i for i in range(count) if info[2] >> i & 1])

    def workspace(self, inputs: Sequence[Shape], types: Sequence[int]) -> int:
        """Bytes of workspace for inputs of at most these shapes."""
        return int(self._call("workspace", inputs, types))

    def configure(self, inputs: Sequence[Shape], types: Sequence[int]) -> bool:
        """Whether configurePlugin takes inputs of at most these shapes."""
        return self._call("configure", inputs, types) == 0

    def shape_change(self, inputs: Sequence[Shape], types: Sequence[int]) -> bool:
        """Whether onShapeChange takes these shapes."""
        return self._call("shape_change", inputs, types) == 0

    def enqueue(
        self,
        inputs: Sequence[Shape],
        types: Sequence[int],
        addresses: Sequence[int | None],
        outputs: Sequence[int | None],
        workspace: int | None,
        stream: int = 0,
    ) -> int:
        """Status of enqueue on memory at these addresses."""
        rest = [
            (ctypes.c_void_p * len(addresses))(*addresses),
            (ctypes.c_void_p * len(outputs))(*outputs),
            ctypes.c_void_p(workspace),
            ctypes.c_void_p(stream),
        ]
        return int(self._call("enqueue", inputs, types, *rest))

    def _call(self, name: str, inputs: Sequence[Shape], types: Sequence[int], *rest: Any) -> Any:
        function = getattr(self.probe.c, f"probe_{name}")
        return function(self.pointer, len(inputs), *_shapes(inputs), _ints(types), self.nb_outputs, *rest)

    def _another(self, pointer: int | None) -> Plugin:
        assert pointer, "the library gave no object"
        return Plugin(self.probe, self.op, pointer)


def _encode(value: Any) -> tuple[int, np.ndarray[Any, Any]]:
    if isinstance(value, str):
        return _CHAR, np.frombuffer(value.encode() + b"\0", np.int8)
    array = np.atleast_1d(value)
    if not isinstance(value, np.ndarray):
        array = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
    return _FIELD_TYPES[array.dtype.name], np.ascontiguousarray(array)


def _ints(values: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * len(values))(*values)


def _shapes(shapes: Sequence[Shape]) -> tuple[ctypes.Array[ctypes.c_int32], ctypes.Array[ctypes.c_int64]]:
    flat = [extent for shape in shapes for extent in shape]
    return _ints([len(shape) for shape in shapes]), (ctypes.c_int64 * len(flat))(*flat)
