"""The trade-off on the CamVid test frames: images/s against mIoU over thresholds, with the dense model as a point.

    python benchmarks/camvid_tradeoff.py CHECKPOINT DATA [--json FILE] [--plot FILE.svg]

CHECKPOINT and DATA as for `camvid_cpu.py`, whose recorded results have the accuracy: this script measures the speed of
the same models at the same thresholds. Dense and merged take turns in one process on the same frames, spread over the
test set; a call is one frame, all its windows in one batch. About five minutes on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from parts.backends import exported
from parts.camvid_pictures import frames
from parts.record import recording_parser, write_record
from parts.windows import Windows
from tables import camvid_tradeoff

from algm_trt.exporter.checkpoint import Checkpoint, load_checkpoint
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.timing import Samples, alternate

ACCURACY = Path(__file__).parent / "results" / "camvid_cpu.json"


def curve_of(accuracy: Path, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Recorded accuracy of the dense model (first, threshold None) and of the merged one over thresholds."""
    record = json.loads(accuracy.read_text(encoding="utf-8"))
    if record["settings"]["checkpoint_sha256"] != checkpoint.sha256:
        raise SystemExit(f"{accuracy} is about another checkpoint: run camvid_cpu.py on {checkpoint.path} first")
    curve: list[dict[str, Any]] = record["curve"]
    return curve


def tokens_of(engine: Engine, pictures: Sequence[Windows], threshold: float | None) -> dict[str, Any]:
    """Tokens per window before merging, after the local and after the last merge."""
    counts = np.concatenate([engine.run(windows, threshold).token_counts for windows in pictures])
    before, local, last = counts.mean(axis=0).tolist()
    return {"tokens_kept": float(last / before), "tokens_per_window": [before, local, last]}


def point(accuracy: dict[str, Any], tokens: dict[str, Any], times: Samples, dense: Samples) -> dict[str, Any]:
    """One threshold's speed and accuracy."""
    known = {name: accuracy[name] for name in ("threshold", "mean_iou", "pixel_accuracy", "boundary_f_score")}
    rates = times.seconds.rate().to_dict()
    return known | tokens | {"images_per_second": rates, "times_as_fast_as_dense": dense.over(times).to_dict()}


def draw(points: Sequence[dict[str, Any]], what: str, path: Path) -> None:
    """Images per second against mIoU: a curve over thresholds, the dense model as a star."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}
    with mpl.rc_context(style | {"svg.hashsalt": "camvid", "axes.grid": True, "grid.alpha": 0.25}):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        dense, merged = points[0], sorted(points[1:], key=lambda row: float(row["threshold"]))
        across = [100 * row["mean_iou"] for row in merged]
        upward = [row["images_per_second"]["median"] for row in merged]
        axes.plot(across, upward, "o-", color="#0072B2", label="merged, by threshold")
        for row, x, y in zip(merged, across, upward, strict=True):
            axes.annotate(f"{row['threshold']:g}", (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)
        rate = dense["images_per_second"]["median"]
        axes.plot([100 * dense["mean_iou"]], [rate], "*", color="#D55E00", markersize=12, label="dense")
        axes.set_xlabel("mIoU on the CamVid test frames (%)")
        axes.set_ylabel("images/s")
        axes.set_ylim(bottom=0)
        axes.set_title(what, fontsize=9)
        axes.legend(frameon=False)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def main() -> None:
    """Export, time, print, record, draw."""
    parser = recording_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--accuracy", type=Path, default=ACCURACY, help="recorded results of camvid_cpu.py")
    parser.add_argument("--frames", type=int, default=24, help="test frames of a turn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="file for the picture: .svg or .png")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.checkpoint)
    curve = curve_of(arguments.accuracy, checkpoint)
    options = EngineOptions(backend="onnxruntime", device="cpu", threads=arguments.threads)
    with TemporaryDirectory() as folder:
        models = exported(checkpoint, Path(folder), precisions=("fp32",))
        engines = {kind: open_engine(path, options) for (kind, _), path in models.items()}
    pictures = frames(arguments.data, engines["merged"].card, arguments.frames)
    runs = [(engines["dense" if row["threshold"] is None else "merged"], row["threshold"]) for row in curve]
    turns = {
        str(threshold): [partial(engine.run, windows, threshold) for windows in pictures] for engine, threshold in runs
    }
    times = alternate(turns, arguments.rounds)
    points = [
        point(row, tokens_of(engine, pictures, threshold), times[str(threshold)], times["None"])
        for row, (engine, threshold) in zip(curve, runs, strict=True)
    ]
    results = {
        "what": f"{checkpoint.config.describe()}, windows of {checkpoint.crop[0]}x{checkpoint.crop[1]}, model alone",
        "backend": engines["merged"].description,
        "threads": arguments.threads,
        "frames": len(pictures),
        "windows_per_frame": float(np.mean([len(windows) for windows in pictures])),
        "rounds": arguments.rounds,
        "checkpoint_sha256": checkpoint.sha256,
        "training_threshold": checkpoint.merge.threshold if checkpoint.merge else None,
        "accuracy_from": arguments.accuracy.name,
        "curve": points,
    }
    print(camvid_tradeoff(results))
    write_record(arguments.json, results)
    if arguments.plot:
        draw(points, f"{results['backend']}, {arguments.threads} threads", arguments.plot)


if __name__ == "__main__":
    main()
