"""Time on the device per operator of the model, by the names of its kernels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from parts.device_clock import seconds, synchronise

# Kernel names by operator; the first match counts.
OPERATORS: Final = {
    "AlgmPackedAttention": r"attention(Half|Float)Kernel",
    "AlgmLocalMerge": r"(windowSimilarity|quadSimilarity|order|scatter)Kernel",
    "AlgmGlobalMerge": r"(similarity(Half|Float)|decide|mergeRows)Kernel",
    "AlgmAppendTokens": r"\bappendKernel",
    "AlgmUnmerge": r"unmergeKernel",
    "AlgmLabels": r"labelsKernel",
    "attention of PyTorch": r"flash|fmha|sdpa|attention|softmax",
    "matrix products": r"gemm|cutlass|nvjet|xmma|cublas|splitK|\bsm\d+_",
    "patch embedding": r"conv|winograd|implicit|im2col|nchw|nhwc",
    "layer norm": r"layer_?norm",
    "GELU": r"gelu",
    "copies": r"memcpy|memset|copy|CatArray",
    "other elementwise": r"elementwise|reduce|index|gather|scatter|scan",
}


def operator_of(kernel: str) -> str:
    """The operator that a kernel belongs to, by its name."""
    found = (name for name, pattern in OPERATORS.items() if re.search(pattern, kernel, re.IGNORECASE))
    return next(found, "other")


def operator_times(run: Callable[[], object], device: str, calls: int) -> dict[str, Any]:
    """Milliseconds of a call per operator, the largest kernels of "other", and the time without a kernel."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    wanted = "CUDA" if on_gpu else "CPU"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    run()
    synchronise(device)
    with profile(activities=activities) as recorded:
        for _ in range(calls):
            run()
        synchronise(device)
    totals: dict[str, float] = {}
    unknown: dict[str, float] = {}
    for event in recorded.events():
        if event.device_type.name != wanted or event.name.startswith("ProfilerStep"):
            continue
        spent = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        name, milliseconds = operator_of(event.name), spent / 1e3 / calls
        totals[name] = totals.get(name, 0.0) + milliseconds
        if name == "other":
            unknown[event.name[:80]] = unknown.get(event.name[:80], 0.0) + milliseconds
    busy, wall = sum(totals.values()), 1e3 * seconds(run, device, calls)
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return {
        "ms": {name: round(value, 4) for name, value in ordered},
        "share": {name: round(value / busy, 4) for name, value in ordered} if busy else {},
        "busy_ms": round(busy, 3),
        "wall_ms": round(wall, 3),
        "largest_other": dict(sorted(unknown.items(), key=lambda item: -item[1])[:6]),
    }
