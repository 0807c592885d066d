"""Time from patch-resolution logits to labels at the source size: `python benchmarks/label_head.py [--json FILE]`.

150 classes, windows of 512 x 512, patches of 16. Three kinds of logits:

- smooth: coarse noise enlarged with cubic interpolation, few classes favoured, so that a picture has some ten regions;
- peaked: the same regions, each with one class far above the rest and hard borders, as trained models give;
- noise: every patch independent, the worst case, which no model gives.

Each case is timed with one worker and with two threads working on a picture each (milliseconds per picture), and
compared with torch-like full evaluation in OpenCV: enlarge all classes, then argmax.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from parts.record import recording_parser, write_record

from algm_trt.runtime.field import LogitField
from algm_trt.runtime.windows import WindowPlan, plan_slide

CLASSES = 150
WINDOW = 512
PATCH = 16
STRIDE = 480
SOURCES = ((512, 512), (427, 640), (1024, 2048))
CELL = 128  # pixels between the independent values of smooth logits


def smooth_logits(plan: WindowPlan, rng: np.random.Generator) -> NDArray[np.float32]:
    """Windows (n, K, 32, 32) cut from one smooth field over the canvas, with a little noise of their own."""
    height, width = (extent // PATCH for extent in plan.canvas)
    coarse = rng.standard_normal((CLASSES, height * PATCH // CELL + 1, width * PATCH // CELL + 1), dtype=np.float32)
    coarse += 3 * rng.standard_normal((CLASSES, 1, 1), dtype=np.float32)
    canvas = np.stack([cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC) for values in coarse])
    grid = np.arange(WINDOW // PATCH)
    windows = [
        canvas[:, np.minimum(grid + top // PATCH, height - 1)[:, None], np.minimum(grid + left // PATCH, width - 1)]
        for top, left in plan.anchors
    ]
    stacked = np.stack(windows)
    stacked += 0.02 * rng.standard_normal(stacked.shape, dtype=np.float32)
    return stacked


def peaked_logits(plan: WindowPlan, rng: np.random.Generator) -> NDArray[np.float32]:
    """The winners of smooth logits at 8, all other classes at 0, and noise of 0.5."""
    smooth = smooth_logits(plan, rng)
    peaked = 0.5 * rng.standard_normal(smooth.shape, dtype=np.float32)
    np.put_along_axis(peaked, smooth.argmax(axis=1, keepdims=True), 8.0, axis=1)
    return peaked


def noise_logits(plan: WindowPlan, rng: np.random.Generator) -> NDArray[np.float32]:
    """Independent values."""
    return rng.standard_normal((len(plan), CLASSES, WINDOW // PATCH, WINDOW // PATCH), dtype=np.float32)


KINDS = {"smooth": smooth_logits, "peaked": peaked_logits, "noise": noise_logits}


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call in milliseconds, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def full_evaluation(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Enlarge all classes of one window to 512 x 512 and take the argmax."""
    enlarged = np.stack([cv2.resize(plane, (WINDOW, WINDOW), interpolation=cv2.INTER_LINEAR) for plane in logits])
    return np.asarray(enlarged.argmax(axis=0))


def measure(source: tuple[int, int], kind: str, repeats: int) -> dict[str, Any]:
    """Times of one case."""
    plan = plan_slide(source, (WINDOW, WINDOW), STRIDE)
    logits = KINDS[kind](plan, np.random.default_rng(0))

    def head() -> NDArray[Any]:
        return LogitField(plan, logits, PATCH).labels()

    with ThreadPoolExecutor(2) as pool:
        two = median_ms(lambda: [job.result() for job in [pool.submit(head), pool.submit(head)]], repeats) / 2
    row = {
        "source": list(source),
        "windows": len(plan),
        "logits": kind,
        "classes_present": len(np.unique(head())),
        "ms": round(median_ms(head, repeats), 2),
        "ms_two_threads": round(two, 2),
    }
    if len(plan) == 1:
        row["ms_full_evaluation"] = round(median_ms(lambda: full_evaluation(logits[0]), max(3, repeats // 4)), 1)
    return row


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=21, help="calls of which the median is taken")
    arguments = parser.parse_args()
    rows = [measure(source, kind, arguments.repeats) for source in SOURCES for kind in KINDS]
    print(f"{'source':>10} {'windows':>7} {'logits':>7} {'classes':>7} {'ms':>8} {'ms, 2 threads':>14} {'full':>8}")
    for row in rows:
        size = "x".join(map(str, row["source"]))
        print(
            f"{size:>10} {row['windows']:>7} {row['logits']:>7} {row['classes_present']:>7} {row['ms']:>8.2f} "
            f"{row['ms_two_threads']:>14.2f} {row.get('ms_full_evaluation', ''):>8}"
        )
    write_record(arguments.json, {"repeats": arguments.repeats, "classes": CLASSES, "results": rows})


if __name__ == "__main__":
    main()
