"""The ladder by which a machine checks as much as it can, as pytest reports it: what ran, and why the rest did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Matches = Callable[[Any], bool]


def in_files(*names: str) -> Matches:
    """Reports of tests in these files."""
    return lambda report: any(f"/{name}.py" in report.nodeid for name in names)


def marked(name: str) -> Matches:
    """Reports of tests with this marker."""
    return lambda report: name in report.keywords


RUNGS: dict[str, Matches] = {
    "L0 NumPy = PyTorch operators": in_files("exporter/test_ops", "exporter/test_selfcheck", "plugins/test_reference"),
    "L1 ONNX Runtime = PyTorch = official code": in_files("test_functions", "test_graph", "test_golden", "test_sample"),
    "L2 kernels compile, and run on the CPU twin": in_files(
        "test_cpu_twin", "test_cpu_twin_races", "test_slide_kernels", "test_library", "test_plugin_enqueue"
    ),
    "L3 TensorRT-RTX builds with the plugins": marked("rtx"),
    "L4 kernels on a GPU": marked("gpu"),
    "L5 TensorRT's own plugin registry": in_files("test_plugin_registry", "test_plugins_gpu"),
    "extra: data beside the checkout": marked("shared"),
}


def ladder(stats: dict[str, list[Any]]) -> list[str]:
    """One line per rung: tests passed, failed, not run, and the first reason for not running."""
    lines = []
    for name, matches in RUNGS.items():
        passed, failed, skipped = (
            [report for key in keys for report in stats.get(key, []) if matches(report)]
            for keys in (("passed",), ("failed", "error"), ("skipped",))
        )
        if not (passed or failed or skipped):
            lines.append(f"{name}: not selected")
            continue
        reason = f" ({_reason(skipped[0])})" if skipped else ""
        counts = ((passed, "passed"), (failed, "failed"), (skipped, "not run"))
        lines.append(f"{name}: {', '.join(f'{len(reports)} {word}' for reports, word in counts if reports)}{reason}")
    return lines


def _reason(report: Any) -> str:
    """Why a test was skipped, in one line."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ").splitlines()[0][:160]
