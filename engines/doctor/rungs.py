"""What each rung of the self-test does, in a process of its own; returns a line, or raises.

A rung that fails raises: `VerificationError` where two results differ, otherwise what the code that it runs raises.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.engines.sample import OPERATORS_MODEL, SAMPLE_MODEL, recorded
from algm_trt.plugins import interface
from algm_trt.plugins.cases import make_cases
from algm_trt.plugins.errors import VerificationError

LOGITS_GATE: Final = 1e-3
LABELS_GATE: Final = 0.9995
"""Float32 against float32, on another processor than the recording's."""

_SCENES: Final = ((192, 192, 1), (256, 384, 2), (200, 160, 3), (300, 450, 4), (192, 500, 5))
"""Height, width and seed of the pictures that an engine runs."""

_BATCH: Final = 4


def operators_on_onnxruntime() -> str:
    """L1: the function bodies against the reference, and the sample model against what it gave when it was recorded."""
    from algm_trt.runtime.backends.onnxruntime_engine import cpu_session

    session = cpu_session(str(OPERATORS_MODEL))
    cases = make_cases()
    feed = {
        f"{case.name}/{tensor.name}": value
        for case in cases
        for tensor, value in zip(case.op.inputs, case.inputs, strict=True)
    }
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feed), strict=True))
    raise_complaints(
        case.complaint([outputs[f"{case.name}/{tensor.name}_out"] for tensor in case.op.outputs[: case.outputs]])
        for case in cases
    )
    return f"{len(cases)} operator cases equal the NumPy reference; {_sample_against_recording()}"


def _sample_against_recording() -> str:
    from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine

    expected = recorded()
    found = OnnxRuntimeEngine(SAMPLE_MODEL, device="cpu", own_labels=True).run(expected.images)
    difference = float(np.abs(found.logits - expected.logits).max())
    labels = float(np.mean(found.labels == expected.labels))
    counts = np.array_equal(found.token_counts, expected.token_counts)
    text = f"sample model: class scores within {difference:.1e} of the recording, labels {labels:.2%} equal"
    if difference > LOGITS_GATE or labels < LABELS_GATE or not counts:
        raise VerificationError(f"{text}, token counts {'equal' if counts else 'differ'}")
    return text


def raise_complaints(complaints: Any) -> None:
    """Raise if there are complaints, with the first two of them.

    Raises:
        VerificationError: there are some.
    """
    texts = [text for text in complaints if text is not None]
    if texts:
        more = f" and {len(texts) - 2} more" if len(texts) > 2 else ""
        raise VerificationError("; ".join(texts[:2]) + more)


def compile_library(output: str, architecture: int, jobs: int) -> str:
    """L2: the kernels compile for one compute capability, and the library loads.

    Raises:
        VerificationError: the library has no code for it.
    """
    from algm_trt.engines.doctor.fatbin import architectures
    from algm_trt.plugins.build import BuildOptions, build_library

    path = build_library(BuildOptions(Path(output), (architecture,), jobs))
    built_for = architectures(path)
    if not built_for.serves(architecture):
        raise VerificationError(f"the library has code for {built_for}, not for sm_{architecture}")
    return f"compiled for {built_for}, {path.stat().st_size / 2**20:.1f} MiB"


def build_with_rtx(capability: int) -> str:
    """L3: TensorRT-RTX parses and builds the sample in FP16 with the plugins, without a GPU.

    Raises:
        VerificationError: the engine has no plugins, or float16 was not compared.
    """
    from algm_trt.engines import BatchRange, BuildOptions, build_engine

    options = BuildOptions(
        precision="fp16", batches=(BatchRange(1, 2, _BATCH),), target="rtx", compute_capabilities=(capability,)
    )
    with tempfile.TemporaryDirectory(prefix="algm-selftest-") as folder:
        report = build_engine(SAMPLE_MODEL, Path(folder) / "model.plan", options)
    record, agreement = report.record, report.agreement
    if record.plugins is None or agreement is None:
        raise VerificationError("the engine has no plugins, or its float16 graph was not compared")
    return (
        f"TensorRT-RTX {record.tensorrt_version}: {record.plugins.layers} plugin layers, {record.plan_bytes / 1e6:.1f} "
        f"MB for SM{capability}; float16 graph on ONNX Runtime: labels {agreement.labels_equal:.2%} equal"
    )


def kernels_on_gpu(library: str) -> str:
    """L4: the kernels on the first GPU against the reference, in both precisions."""
    from algm_trt.engines.doctor.kernels import DeviceMemory, run_case
    from algm_trt.plugins.library import load_ctypes
    from algm_trt.runtime.cuda import Device

    kernels = interface.declare(load_ctypes(Path(library)))
    device = Device()
    memory = DeviceMemory(device)
    cases = make_cases()
    raise_complaints(
        case.complaint(run_case(kernels, memory, case, dtype), dtype)
        for dtype in ("float32", "float16")
        for case in cases
    )
    return f"{len(cases)} operator cases in float32 and float16 equal the NumPy reference on {device.name}"


def accepted_by_registry(module: str, library: str) -> str:
    """L5: TensorRT's own registry takes the library and makes a plugin object of every operator.

    Raises:
        VerificationError: it does not make one.
    """
    import importlib

    from algm_trt.plugins.library import load_library
    from algm_trt.plugins.spec import OPS, PLUGIN_NAMESPACE, PLUGIN_VERSION

    trt = importlib.import_module(module)
    registry = trt.get_plugin_registry()
    load_library(registry, Path(library))
    for case in make_cases():
        creator = registry.get_creator(case.op.name, PLUGIN_VERSION, PLUGIN_NAMESPACE)
        fields = trt.PluginFieldCollection(
            [_field(trt, name, value) for name, value in _plugin_attributes(case.op, case.attributes).items()]
        )
        if creator is None or creator.create_plugin(case.name, fields, trt.TensorRTPhase.BUILD) is None:
            raise VerificationError(f"{module} {trt.__version__} makes no plugin {case.op.name}: {case.name}")
    return f"{module} {trt.__version__} took the library and made plugin objects of all {len(OPS)} operators"


def _plugin_attributes(op: Any, attributes: Any) -> dict[str, Any]:
    """The attributes of a node, hints included."""
    hints = {attribute.name: attribute.maximum for attribute in op.attributes if attribute.hint}
    return {**hints, **attributes}


def _field(trt: Any, name: str, value: Any) -> Any:
    values = np.atleast_1d(np.asarray(value, np.float32 if isinstance(value, float) else np.int32))
    kind = trt.PluginFieldType.FLOAT32 if values.dtype == np.float32 else trt.PluginFieldType.INT32
    return trt.PluginField(name, values, kind)


def build_and_run(target: str, precision: str, capability: int) -> str:
    """L6: build the sample for this GPU by the command's own code, run pictures, compare with ONNX Runtime.

    Raises:
        VerificationError: labels or token counts differ too much.
    """
    from algm_trt.engines import BatchRange, BuildOptions, build_engine

    options = BuildOptions(
        precision=precision,
        batches=(BatchRange(1, 2, _BATCH),),
        target="rtx" if target == "rtx" else "tensorrt",
        compute_capabilities=(capability,) if target == "rtx" else (),
    )
    with tempfile.TemporaryDirectory(prefix="algm-selftest-") as folder:
        report = build_engine(SAMPLE_MODEL, Path(folder) / "model.plan", options)
        comparison = compare_engines(report.path, SAMPLE_MODEL)
    layers = report.record.plugins.layers if report.record.plugins else 0
    text = f"{report.record.tensorrt_version}, {layers} plugin layers, built in {report.seconds:.0f} s; {comparison}"
    if not comparison.passed:
        raise VerificationError(text)
    return text


@dataclass(frozen=True)
class Comparison:
    """One engine against another on the same pictures.

    Attributes:
        pictures: number of them.
        labels_equal: share of pixels with equal labels.
        tokens: sums over all windows [before, after local, after global merging].
        tokens_expected: the other engine's.
        seconds: for all pictures, files aside; the first run is not counted.
        seconds_expected: the other engine's.
    """

    pictures: int
    labels_equal: float
    tokens: tuple[int, ...]
    tokens_expected: tuple[int, ...]
    seconds: float
    seconds_expected: float

    @property
    def tokens_difference(self) -> float:
        """Largest relative difference of a sum of tokens."""
        return max(abs(a - b) / b for a, b in zip(self.tokens, self.tokens_expected, strict=True))

    @property
    def passed(self) -> bool:
        """Whether the gates of the engine builder hold."""
        from algm_trt.engines import agreement

        return self.labels_equal >= agreement.LABELS_GATE and self.tokens_difference <= agreement.TOKENS_GATE

    def __str__(self) -> str:
        mine, theirs = (">".join(map(str, tokens)) for tokens in (self.tokens, self.tokens_expected))
        return (
            f"labels {self.labels_equal:.3%} equal to ONNX Runtime's, tokens {mine} against {theirs}; "
            f"{self.pictures / self.seconds:.1f} pictures/s against {self.pictures / self.seconds_expected:.1f}"
        )


def compare_engines(model: Path, reference: Path) -> Comparison:
    """Run two model files on drawn pictures in sliding windows; the reference on ONNX Runtime on the CPU."""
    from algm_trt.runtime.scenes import draw_scene

    pictures = [draw_scene(height, width, seed).image for height, width, seed in _SCENES]
    labels, tokens, seconds = _segmented(model, "auto", pictures)
    labels_expected, tokens_expected, seconds_expected = _segmented(reference, "cpu", pictures)
    equal = np.concatenate([(a == b).ravel() for a, b in zip(labels, labels_expected, strict=True)])
    return Comparison(len(pictures), float(equal.mean()), tokens, tokens_expected, seconds, seconds_expected)


def _segmented(
    model: Path, device: str, pictures: Sequence[NDArray[np.uint8]]
) -> tuple[list[NDArray[Any]], tuple[int, ...], float]:
    """Labels of every picture, sums of token counts, and seconds of a second run."""
    from algm_trt.runtime import load

    with contextlib.closing(load(model, device=device)) as segmenter:
        list(segmenter.stream(pictures, batch_size=_BATCH))
        begin = time.monotonic()
        results = list(segmenter.stream(pictures, batch_size=_BATCH))
        seconds = time.monotonic() - begin
    counts = np.concatenate([result.token_counts for result in results]).sum(axis=0)
    return [result.labels for result in results], tuple(int(count) for count in counts), seconds
