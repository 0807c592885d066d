"""What algm-bench says on the screen: two tables, and what their columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from algm_trt.runtime.bench.figures import PERCENTILES
from algm_trt.runtime.bench.report import BenchReport, BenchResult, mean_iou
from algm_trt.runtime.job import STAGES
from algm_trt.runtime.model_argument import model_title
from algm_trt.runtime.timing import Spread

_NONE = "-"


def report_lines(report: BenchReport) -> list[str]:
    """All that a run says at its end."""
    if not report.results:
        return [*_setting(report), "", *_table(_score_columns(report))]
    return [
        *_setting(report),
        "",
        *_table(_speed_columns(report)),
        "",
        *_table(_batch_columns(report)),
        "",
        *_meaning(report),
        *(f"Note: {note}" for note in report.notes),
    ]


def _setting(report: BenchReport) -> list[str]:
    """What was measured, where."""
    options, found = report.options, report.environment["machine"]
    load = report.environment["load_average"]
    processors = "; ".join([f"{found['processor']}, usable cores: {found['usable_cores']}", *found["gpus"]])
    rounds = f"{report.rounds_measured} of {options.rounds}" if report.stopped_by else f"{options.rounds}"
    lines = [
        f"{report.pictures.described}; rounds in which all variants take turns: {rounds}, "
        f"for warming up: {options.warmup}",
        f"{processors}; load {_number(load['before'])} before, {_number(load['after'])} after",
    ]
    if report.scored is not None:
        lines.append(f"mean IoU: {report.scored.described}")
    lines += [_model_line(report, model) for model in report.contenders]
    if report.stopped_by and report.results:
        lines.append(f"INTERRUPTED: the figures come from {rounds} rounds")
    elif report.stopped_by:
        lines.append("INTERRUPTED: these scores were complete, no speed was measured")
    return lines


def _model_line(report: BenchReport, model: dict[str, Any]) -> str:
    """What ran a model, how pictures were shown to it, and on how many windows."""
    threads = f", threads: {model['threads']}" if model["threads"] else ""
    alone, job = model["streams"]["model_alone"], model["streams"]["whole_job"]
    streams = f", streams: {alone}" if alone > 1 else f", streams of the whole job: {job}" if job > 1 else ""
    side = report.shown[model["name"]].short_side
    shown = f", short side {side}" if side else ""
    origins = [result.origin.described for result in report.results if result.variant.model == model["name"]]
    windows = f"; alone on {origins[0]}" if origins else ""
    size = "x".join(map(str, model["size"]))
    return f"{model['name']}: {model['backend']}{threads}{streams}, {size}, {model['precision']}{shown}{windows}"


Column = tuple[str, str, list[str]]
"""Two lines of head, and a value per row."""


def _speed_columns(report: BenchReport) -> list[Column]:
    """Speed of the model alone and of the whole job."""
    rows = report.results
    columns = [
        *_names(rows),
        ("tokens", "kept", [f"{row.tokens.kept:.1%}" for row in rows]),
        *_operations(rows),
        ("model alone", "images/s [quartiles]", [_spread(row.model.images_per_second) for row in rows]),
        ("times", "as fast", [_times(report.model_ratio(row)) for row in rows]),
    ]
    columns += [("batch", f"p{percent} ms", [_milliseconds(row, percent) for row in rows]) for percent in PERCENTILES]
    if any(row.model.device for row in rows):
        columns.append(("GPU events", "images/s [quartiles]", [_device(row) for row in rows]))
    if any(row.job for row in rows):
        values = [_spread(row.job.images_per_second) if row.job else _NONE for row in rows]
        columns.append(("whole job", "pictures/s [quartiles]", values))
        columns.append(("times", "as fast", [_times(report.job_ratio(row)) for row in rows]))
    if any(row.quality for row in rows):
        columns += [
            ("", "mIoU", [_percent(row.mean_iou) for row in rows]),
            ("pictures", "scored", [f"{row.quality.pictures}" if row.quality else _NONE for row in rows]),
            ("tokens kept", "in these", [f"{row.quality.tokens_kept:.1%}" if row.quality else _NONE for row in rows]),
        ]
    return columns + _pictures(report)


def _score_columns(report: BenchReport) -> list[Column]:
    """Scores alone, of a run that ended before anything was timed."""
    scores = report.scores.values()
    return [
        ("", "model @ threshold", [model_title(name, threshold) for name, threshold in report.scores]),
        ("", "mIoU", [_percent(mean_iou(quality)) for quality in scores]),
        ("pictures", "scored", [f"{quality.pictures}" for quality in scores]),
        ("tokens kept", "in these", [f"{quality.tokens_kept:.1%}" for quality in scores]),
    ]


def _batch_columns(report: BenchReport) -> list[Column]:
    """How well batches were filled and packed, and where the time of the whole job goes."""
    rows = report.results
    means = [" > ".join(f"{mean:.0f}" for mean in row.tokens.means) for row in rows]
    columns = [
        *_names(rows),
        ("tokens per window", "before > local > last", means),
        ("padding", "avoided", [f"{row.tokens.padding(row.variant.batch):.1%}" for row in rows]),
        ("filled", "model", [f"{row.model.filled:.0%}" for row in rows]),
    ]
    if any(row.job for row in rows):
        columns.append(("filled", "job", [f"{row.job.filled:.0%}" if row.job else _NONE for row in rows]))
        columns += [
            ("picture", f"p{percent} ms", [_job_milliseconds(row, percent) for row in rows]) for percent in PERCENTILES
        ]
        for stage in STAGES:
            shares = [f"{row.job.shares[stage]:.1%}" if row.job else _NONE for row in rows]
            columns.append(("work", stage, shares))
    return columns + _pictures(report)


def _meaning(report: BenchReport) -> list[str]:
    lines = []
    if report.pictures.repeated:
        lines.append(
            "ONE PICTURE REPEATED (--repeat-one), the official way of measuring: every figure is of batches whose "
            "windows are all alike. Unlike pictures merge unlike numbers of tokens; measure without it to see that."
        )
    if len(report.results) > 1:
        lines.append(f"Times as fast: as {report.baseline} at the same batch; paired by round, median.")
    if report.scored is not None:
        lines.append(
            "Tokens kept: in the windows of the model alone; in these: in all windows of the pictures that were scored."
        )
    if any(row.operations for row in report.results):
        lines.append(
            "GFLOPs: products of matrices, a multiplication with its addition counted once, as in the paper's table; "
            "mean of the windows of the model alone."
        )
    clocks = {model["device_clock"] for model in report.contenders}
    where = {
        frozenset({True}): "host clock, and events on the GPU",
        frozenset({False}): "host clock, from the call until the results are in memory",
        frozenset({True, False}): "host clock, and events on the GPU where the backend has them",
    }[frozenset(clocks)]
    lines.append(f"Model alone: an image is one window of the model's size, in memory. Times: {where}.")
    lines.append(
        f"Batch p50, p90, p99: milliseconds that this percentage of the calls stay within, of {_calls(report)}."
    )
    if any(result.job for result in report.results):
        kinds = ",".join(report.options.job.kinds)
        lines.append(
            f"Whole job: from picture files to the files of --save {kinds}. Work: share of the seconds in all threads, "
            "which overlap; cut is the resizing."
        )
        lines.append(
            "Picture p50, p90, p99: milliseconds that this percentage of the pictures stay within, from when one is "
            "taken up until its files are written, waiting for others included."
        )
    lines.append("Filled: windows per call of the model, as a share of the batch.")
    lines.append("Padding avoided: share of a batch padded to its longest window, after the last merge.")
    return lines


def _calls(report: BenchReport) -> str:
    """How many calls the percentiles are of: a p99 of few is little more than the slowest."""
    counts: dict[int, set[int]] = {}
    for row in report.results:
        counts.setdefault(row.variant.batch, set()).add(row.model.calls)
    return ", ".join(f"{' or '.join(map(str, sorted(counts[batch])))} at batch {batch}" for batch in counts)


def _names(rows: Sequence[BenchResult]) -> list[Column]:
    titles = [row.variant.title for row in rows]
    return [("", "model @ threshold", titles), ("", "batch", [str(row.variant.batch) for row in rows])]


def _operations(rows: Sequence[BenchResult]) -> list[Column]:
    """What a window costs, where models say what they consist of."""
    if not any(row.operations for row in rows):
        return []
    return [("GFLOPs", "per window", [row.operations.text if row.operations else _NONE for row in rows])]


def _pictures(report: BenchReport) -> list[Column]:
    """The words that stand beside every figure that is not of unlike pictures."""
    return [("", "measured on", [report.pictures.kind] * len(report.results))] if report.pictures.repeated else []


def _times(spread: Spread | None) -> str:
    return _NONE if spread is None else f"{spread.median:.2f}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.2f}"


def _milliseconds(row: BenchResult, percent: float) -> str:
    return f"{1e3 * row.model.latency(percent):.1f}"


def _job_milliseconds(row: BenchResult, percent: float) -> str:
    return _NONE if row.job is None else f"{1e3 * row.job.latency(percent):.1f}"


def _device(row: BenchResult) -> str:
    spread = row.model.device_images_per_second
    return _NONE if spread is None else _spread(spread)


def _spread(spread: Spread) -> str:
    lower, median, upper = (_rate(value) for value in (spread.lower, spread.median, spread.upper))
    return f"{median} [{lower}, {upper}]"


def _rate(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _table(columns: Sequence[Column]) -> list[str]:
    """Lines of a table; the first column is set left, the others right."""
    cells = [[first, second, *values] for first, second, values in columns]
    widths = [max(map(len, column)) for column in cells]
    lines = []
    for row in zip(*cells, strict=True):
        left, *right = zip(row, widths, strict=True)
        texts = [f"{left[0]:<{left[1]}}", *(f"{text:>{width}}" for text, width in right)]
        lines.append("  ".join(texts).rstrip())
    return lines
