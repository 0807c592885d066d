"""Parse and build an ONNX model with plugins in TensorRT-RTX, which does both without a GPU.

The two wheels `tensorrt_rtx_cu13_libs` and `tensorrt_rtx_cu13_bindings` are enough. Building happens in a child
process, which is this file run as a script: the parser ends the process when it cannot find `libtensorrt_rtx.so`
without a version, which the wheel does not carry, and the search path must be set before Python starts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]

TARGETS = ("SM80", "SM89", "SM120")
TIMEOUT = 300
"""Seconds of a build."""


@dataclass(frozen=True)
class RtxReport:
    """What one build gave.

    Attributes:
        plugin_layers: layers of type PLUGIN_V3 after parsing.
        errors: messages of the parser and of the builder, and what the plugins wrote on stderr, in order.
        warnings: warnings of the parser and of the builder.
        plan_bytes: size of the plan; 0 when nothing was built.
        activation_bytes: activation memory that the builder reports for the largest shapes; None when it says nothing.
        outputs: name -> (type, dimensions) of the network's outputs, -1 for an extent that is not known.
    """

    plugin_layers: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    plan_bytes: int = 0
    activation_bytes: int | None = None
    outputs: dict[str, tuple[str, list[int]]] = field(default_factory=dict)

    @property
    def unused_inputs(self) -> list[str]:
        """Warnings that the parser ignored an input: the graph then computes something else than it says."""
        return [warning for warning in self.warnings if "unused input" in warning.lower()]


def missing_reason() -> str | None:
    """Why TensorRT-RTX cannot run here, or None when it can."""
    missing = [
        name for name in ("tensorrt_rtx_libs", "tensorrt_rtx_bindings") if importlib.util.find_spec(name) is None
    ]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings"
    return None


def build_with_rtx(onnx_bytes: bytes, plugin_library: Path | None, sm: str, profile: Profile) -> RtxReport:
    """Build a serialised ONNX model for one compute capability in a child process.

    Args:
        onnx_bytes: the model, with functions stripped and weights inside.
        plugin_library: library to load into the builder's registry; None builds without it.
        sm: compute capability by TensorRT-RTX's name: "SM80", "SM89" or "SM120".
        profile: per input the smallest, the usual and the largest shape.

    Returns:
        The report; a failed parse or build is in its `errors`.
    """
    with tempfile.TemporaryDirectory(prefix="algm-rtx-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(onnx_bytes)
        libraries = _library_folder()
        (folder / "libtensorrt_rtx.so").symlink_to(libraries / "libtensorrt_rtx.so.1")
        request = {
            "library": None if plugin_library is None else str(plugin_library.resolve()),
            "sm": sm,
            "profile": {key: [list(shape) for shape in shapes] for key, shapes in profile.items()},
        }
        (folder / "request.json").write_text(json.dumps(request))
        path = os.pathsep.join([str(folder), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
        child = subprocess.run(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, "LD_LIBRARY_PATH": path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return _report(folder / "report.json", child)


def _library_folder() -> Path:
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or found.origin is None:
        raise RuntimeError(missing_reason())
    return Path(found.origin).parent


def _report(path: Path, child: subprocess.CompletedProcess[str]) -> RtxReport:
    said = [line for line in child.stderr.splitlines() if line.startswith("algm: ")]
    if not path.is_file():
        tail = child.stderr.strip().splitlines()[-3:]
        return RtxReport(errors=[*said, f"the child ended with status {child.returncode}: {' | '.join(tail)}"])
    found = json.loads(path.read_text())
    found["outputs"] = {name: (kind, list(dims)) for name, (kind, dims) in found["outputs"].items()}
    found["errors"] = [*said, *found["errors"]]
    return RtxReport(**found)


def _child(folder: Path) -> None:
    """Parse and build what `request.json` in `folder` asks for; leave `report.json` there."""
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity, message))

    request = json.loads((folder / "request.json").read_text())
    log = Log()
    builder = trt.Builder(log)
    if request["library"] is not None:
        builder.get_plugin_registry().load_library(request["library"])
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse((folder / "model.onnx").read_bytes())
    errors = [
        f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in map(parser.get_error, range(parser.num_errors))
    ]
    plan = _build(trt, builder, network, request) if parsed else None
    levels = trt.ILogger
    report = {
        "plugin_layers": sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in network),
        "errors": errors + [m for s, m in log.lines if s in (levels.ERROR, levels.INTERNAL_ERROR)],
        "warnings": [m for s, m in log.lines if s == levels.WARNING],
        "plan_bytes": 0 if plan is None else plan.nbytes,
        "activation_bytes": _activation_bytes([m for _, m in log.lines]),
        "outputs": {t.name: (t.dtype.name, list(t.shape)) for t in map(network.get_output, range(network.num_outputs))},
    }
    (folder / "report.json").write_text(json.dumps(report))


def _build(trt: Any, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request["sm"]), 0)
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in request["profile"].items():
        profile.set_shape(name, smallest, usual, largest)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def _activation_bytes(messages: Sequence[str]) -> int | None:
    found = [m for m in messages if "Total Activation Memory" in m]
    return int(found[-1].split(":")[-1].split()[0]) if found else None


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
