"""The picture of a trade-off: speed against accuracy or tokens, a curve over thresholds per model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.bench_report import BenchReport, BenchResult
from algm_trt.runtime.files import renamed_together

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES: Final = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, told apart with any kind of colour vision, without the yellow that paper hides.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SIZE_INCHES = (5.2, 3.6)
_DOTS_PER_INCH = 200
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "algm-bench",
}


def check_plot(path: Path) -> None:
    """Find out before anything is measured whether the plot can be drawn.

    Raises:
        UsageError: a suffix that says no known format.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: the name must end in {', '.join(SUFFIXES)}")
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            f"--plot needs matplotlib, which cannot be imported ({error}): pip install 'algm-trt[plot]'"
        ) from error


def draw_plot(report: BenchReport, path: Path) -> None:
    """Draw images per second of the model alone, at the largest batch size that was measured.

    Args:
        report: against the mean IoU where all results have one, else against the share of tokens kept.
        path: PNG, SVG or PDF by its suffix.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    batch = max(result.variant.batch for result in report.results)
    results = [result for result in report.results if result.variant.batch == batch]
    against_quality = all(result.mean_iou is not None for result in results)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for number, (_, group) in enumerate(groupby(results, key=lambda result: result.variant.model)):
            _draw_model(axes, list(group), number, against_quality)
        axes.set_xlabel("mean IoU (%)" if against_quality else "tokens kept (%)")
        size = "x".join(map(str, report.contenders[0]["size"]))
        axes.set_ylabel(f"images/s, model alone\n({size}, batch of {batch}, {report.pictures.kind})")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.12)
        axes.legend(frameon=False, fontsize=8)
        with renamed_together() as temporary:
            figure.savefig(temporary(path), dpi=_DOTS_PER_INCH, metadata=_metadata(path))


def _draw_model(axes: Axes, results: Sequence[BenchResult], number: int, against_quality: bool) -> None:
    """A curve over thresholds, or the point of a dense model; bars are the quartiles over rounds."""
    ordered = sorted(results, key=lambda result: result.variant.threshold or 0.0)
    across = [100 * _across(result, against_quality) for result in ordered]
    spreads = [result.model.images_per_second for result in ordered]
    rates = [spread.median for spread in spreads]
    bars = [[spread.median - spread.lower for spread in spreads], [spread.upper - spread.median for spread in spreads]]
    dense = ordered[0].variant.threshold is None
    axes.errorbar(
        across,
        rates,
        yerr=bars,
        color=_COLOURS[number % len(_COLOURS)],
        marker="*" if dense else _MARKERS[number % len(_MARKERS)],
        markersize=11 if dense else 5,
        linestyle="none" if dense else "-",
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        label=f"{ordered[0].variant.model}{' (dense)' if dense else ''}",
    )
    for x, y, result in zip(across, rates, ordered, strict=True):
        if result.variant.threshold is not None:
            axes.annotate(f"{result.variant.threshold:g}", (x, y), (4, 4), textcoords="offset points", fontsize=7)


def _across(result: BenchResult, against_quality: bool) -> float:
    quality = result.mean_iou
    return quality if against_quality and quality is not None else result.tokens.kept


def _metadata(path: Path) -> dict[str, str | None]:
    """Without the date, so that equal figures make equal files."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
