"""An evaluation as algm-eval prints it: what is evaluated, a row per run, IoU per class, drift and notes."""

from __future__ import annotations

import math

from algm_trt.runtime.evaluation.bootstrap import RESAMPLES
from algm_trt.runtime.evaluation.drift import Drift
from algm_trt.runtime.evaluation.report import Report, Run
from algm_trt.runtime.paths import printable


def head_lines(report: Report) -> list[str]:
    """What is evaluated and how, and the head of the table."""
    split = f" {report.data.split}" if report.data.split else ""
    count = len(report.data.samples)
    pictures = f"{count} of {report.total} pictures" if count < report.total else f"{count} pictures"
    head = f"{'model':<{_width(report)}}  {'mIoU':>6}  {'pixel':>6}  {'mean':>6}  {'bound.':>6}  {'tokens':>6}"
    units = f"{'':<{_width(report)}}  {'':>6}  {'acc.':>6}  {'acc.':>6}  {'F':>6}  {'kept':>6}"
    return [
        f"{report.data.dataset}{split}: {pictures}, {', '.join(_protocol(report))}",
        "",
        f"{head}  {'images/s':>15}",
        f"{units}  {'model':>7} {'all':>7}",
    ]


def row(report: Report, number: int) -> str:
    """The row of a run, counted from 0."""
    found = report.runs[number].evaluation
    scores = (
        found.scores.mean_iou,
        found.scores.pixel_accuracy,
        found.scores.mean_accuracy,
        found.boundary.mean_f_score,
        found.tokens_kept,
    )
    figures = "  ".join(_percent(score) for score in scores)
    speeds = f"{found.images_per_model_second:7.2f} {found.images_per_second:7.2f}"
    title = f"({number + 1}) {report.runs[number].title}"
    return f"{title:<{_width(report)}}  {figures}  {speeds}"


def last_lines(report: Report) -> list[str]:
    """What follows the rows of the runs."""
    notes = report.notes
    if any(run.interval for run in report.runs):
        notes.append(f"in brackets: 95 % of {RESAMPLES} resamples of the pictures (paired bootstrap)")
    return [
        "",
        *_class_table(report),
        *(line for run in report.runs if run.drift for line in _drift_lines(report, run, run.drift)),
        *([""] if notes else []),
        *(f"note: {note}" for note in notes),
    ]


def _protocol(report: Report) -> list[str]:
    options, protocol = report.options, report.options.protocol
    shown = ["whole"]
    if options.pipeline.mode == "slide":
        strides = sorted({variant.stride for variant in report.planned if variant.stride is not None})
        side = f"short side {protocol.short_side}" if protocol.short_side else "pictures as they are"
        shown = ["slide", side, f"stride {' or '.join(map(str, strides))}"]
    shown += [f"scales {','.join(f'{scale:g}' for scale in protocol.scales)}"] if protocol.scales != (1.0,) else []
    shown += ["flip"] if protocol.flip else []
    coupled = [variant.window_batch_coupled for variant in report.planned]
    if any(coupled):
        shown.append("windows of a batch coupled" if all(coupled) else "windows of a batch coupled where it says so")
    return shown


def _width(report: Report) -> int:
    """Of the column of models."""
    return max(len(f"({number}) {variant.title}") for number, variant in enumerate(report.planned, start=1))


def _class_table(report: Report) -> list[str]:
    """IoU per class, a column per run."""
    width = max(len("IoU per class"), *(len(name) for name in report.class_names))
    columns = [f"({number})" for number in range(1, len(report.runs) + 1)]
    lines = [f"{'IoU per class':<{width}}  {'  '.join(f'{column:>6}' for column in columns)}"]
    values = [run.evaluation.scores.iou for run in report.runs]
    for number, name in enumerate(report.class_names):
        lines.append(f"{name:<{width}}  {'  '.join(_percent(iou[number]) for iou in values)}")
    return lines


def _drift_lines(report: Report, run: Run, drift: Drift) -> list[str]:
    first = report.runs[0]
    change = run.evaluation.scores.mean_iou - first.evaluation.scores.mean_iou
    equal = f"{drift.share_equal:.3%} of labels equal" if drift.pictures else "no picture in common"
    moved = "" if math.isnan(change) else f", mIoU {100 * change:+.2f}"
    if moved and run.interval is not None:
        moved += f" [{100 * run.interval.low:+.2f}, {100 * run.interval.high:+.2f}]"
    lines = ["", f"{run.title} against {first.title}: {equal}{moved}"]
    by_class = zip(run.evaluation.scores.iou - first.evaluation.scores.iou, report.class_names, strict=True)
    lost = sorted((float(value), name) for value, name in by_class if value < 0)
    if lost:
        lines.append(f"  IoU lost most: {', '.join(f'{name} {100 * value:+.2f}' for value, name in lost[:3])}")
    worst = [f"{printable(report.data.samples[index].name)} {share:.1%}" for index, share in drift.worst()[:3]]
    if worst:
        lines.append(f"  labels differ most: {', '.join(worst)}")
    return lines


def _percent(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{100 * value:6.2f}"
