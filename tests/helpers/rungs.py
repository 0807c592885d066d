"""The ladder by which a machine checks as much as it can, as pytest reports it: what ran, and why the rest did not.

Tests of a rung carry its marker: `pytest -m L2` runs that rung alone. A file that is skipped as a whole, or cannot be
imported, is known by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

Matches = Callable[[str, Container[object]], bool]
"""Whether a test or a file belongs to a rung, by its name and the markers that it carries."""


def on(*files: str, marker: str | None = None) -> Matches:
    """Tests in these files, and tests with a marker anywhere."""
    return lambda nodeid, markers: marker in markers or any(f"/{name}.py" in nodeid for name in files)


RUNGS: dict[str, tuple[str, Matches]] = {
    "L0": (
        "NumPy = PyTorch operators",
        on("exporter/test_ops", "exporter/test_selfcheck", "plugins/test_reference"),
    ),
    "L1": (
        "ONNX Runtime = PyTorch = official code",
        on("test_functions", "test_graph", "test_golden", "test_sample"),
    ),
    "L2": (
        "kernels compile, and run on a CPU, their PTX too",
        on(
            *("test_cpu_twin", "test_cpu_twin_races", "test_slide_kernels", "test_ptx_on_cpu", "test_ptx_instructions"),
            *("test_library", "plugins/test_build", "test_plugin_enqueue"),
        ),
    ),
    "L3": ("TensorRT-RTX builds with the plugins", on("test_rtx_builder", "test_rtx_models", marker="rtx")),
    "L4": (
        "kernels on a GPU",
        on("test_kernels_gpu", "test_slide_kernels_gpu", "test_plugins_gpu", "test_tensorrt_gpu", marker="gpu"),
    ),
    "L5": ("TensorRT's own plugin registry", on("test_plugin_registry", "test_plugins_gpu")),
    "extra": ("data beside the checkout", on(marker="shared")),
}
"""By marker: what the rung shows, and which tests are on it. A test may be on several."""


def rungs_of(nodeid: str, markers: Container[object]) -> list[str]:
    """Markers of the rungs that a test is on; of a file, without markers."""
    return [rung for rung, (_, matches) in RUNGS.items() if matches(nodeid, markers)]


def ladder(stats: dict[str, list[Any]]) -> list[str]:
    """One line per rung: tests (or whole files) passed, failed, not run, and the first reason for not running."""
    lines = []
    for rung, (shows, _) in RUNGS.items():
        name = f"{rung} {shows}"
        passed, failed, skipped = (
            [report for key in keys for report in stats.get(key, []) if rung in _rungs(report)]
            for keys in (("passed",), ("failed", "error"), ("skipped",))
        )
        if not (passed or failed or skipped):
            lines.append(f"{name}: not selected")
            continue
        reason = f" ({_reason(skipped[0])})" if skipped else ""
        counts = ((passed, "passed"), (failed, "failed"), (skipped, "not run"))
        lines.append(f"{name}: {', '.join(f'{len(reports)} {word}' for reports, word in counts if reports)}{reason}")
    return lines


def _rungs(report: Any) -> list[str]:
    return rungs_of(report.nodeid, getattr(report, "keywords", ()))  # the report of a file has no keywords


def _reason(report: Any) -> str:
    """Why a test was skipped, in one line."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ").splitlines()[0][:160]
