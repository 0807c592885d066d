"""The picture of a trade-off: speed against accuracy or tokens, a curve over thresholds per model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.bench.report import BenchReport, BenchResult
from algm_trt.runtime.files import write_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

SUFFIXES: Final = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, told apart with any kind of colour vision, without the yellow that paper hides.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SIZE_INCHES = (5.2, 3.6)
_DOTS_PER_INCH = 200
_MARKER_SIZE = 5
_HEADROOM = 1.1
"""Height of the axis over its highest point: room for the text above that point."""
_LEAST_WIDTH = 1.0
"""Points of mean IoU or tokens kept that the axis spans at least: less would draw chance as if it were a difference."""
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "algm-bench",
    "text.parse_math": False,  # a file name may hold dollars
}
# Without the date, so that equal figures make equal files.
_METADATA: Final[dict[str, dict[str, None]]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
# Places of a threshold around its point, the best first: offset in points, and which side of the text touches it.
_PLACES = (
    ((4, 4), "left", "bottom"),
    ((4, -4), "left", "top"),
    ((-4, 4), "right", "bottom"),
    ((-4, -4), "right", "top"),
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((3, 12), "left", "bottom"),
    ((3, -12), "left", "top"),
)


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
    """Draw images per second of the model alone, of each model at the largest batch that it was measured with.

    Args:
        report: against the mean IoU where all results have one, else against the share of tokens kept.
        path: PNG, SVG or PDF by its suffix.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    models = [_at_largest_batch(list(group)) for _, group in groupby(report.results, key=lambda r: r.variant.model)]
    batches = {results[0].variant.batch for results in models}
    against_quality = all(result.mean_iou is not None for results in models for result in results)
    sizes = {results[0].origin.size_text for results in models}
    size = f"{sizes.pop()}, " if len(sizes) == 1 else ""
    batch = f"batch of {batches.pop()}, " if len(batches) == 1 else ""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        lines = [_draw_model(axes, results, number, against_quality) for number, results in enumerate(models)]
        scored = f", {report.scored.described}" if report.scored is not None else ""
        axes.set_xlabel(f"mean IoU (%){scored}" if against_quality else "tokens kept (%)")
        axes.set_ylabel(f"images/s, model alone\n({size}{batch}{report.pictures.kind})")
        axes.set_ylim(0, _HEADROOM * axes.get_ylim()[1])
        axes.margins(x=0.12)
        left, right = axes.get_xlim()
        spare = max(0.0, _LEAST_WIDTH - (right - left)) / 2
        axes.set_xlim(left - spare, right + spare)
        titles = [_title(results, "" if size else results[0].origin.size_text, not batch) for results in models]
        _place_labels(figure, axes, axes.legend(lines, titles, frameon=False, fontsize=8))
        drawn = BytesIO()
        suffix = path.suffix.lower()
        figure.savefig(drawn, format=suffix[1:], dpi=_DOTS_PER_INCH, metadata=_METADATA.get(suffix, {}))
    write_report(path, drawn.getvalue())


def _at_largest_batch(results: Sequence[BenchResult]) -> list[BenchResult]:
    batch = max(result.variant.batch for result in results)
    return [result for result in results if result.variant.batch == batch]


def _title(results: Sequence[BenchResult], size: str, with_batch: bool) -> str:
    """Name of a model, with what the models do not have in common."""
    variant = results[0].variant
    remarks = ["dense"] if variant.threshold is None else []
    remarks += [size] if size else []
    remarks += [f"batch of {variant.batch}"] if with_batch else []
    return f"{variant.model} ({', '.join(remarks)})" if remarks else variant.model


def _draw_model(axes: Axes, results: Sequence[BenchResult], number: int, against_quality: bool) -> Line2D:
    """A curve over thresholds, or the point of a dense model; bars are the quartiles over rounds."""
    ordered = sorted(results, key=lambda result: result.variant.threshold or 0.0)
    across = [100 * _across(result, against_quality) for result in ordered]
    spreads = [result.model.images_per_second for result in ordered]
    rates = [spread.median for spread in spreads]
    bars = [[spread.median - spread.lower for spread in spreads], [spread.upper - spread.median for spread in spreads]]
    dense = ordered[0].variant.threshold is None
    colour = _COLOURS[number % len(_COLOURS)]
    line: Line2D = axes.errorbar(
        across,
        rates,
        yerr=bars,
        color=colour,
        marker="*" if dense else _MARKERS[number % len(_MARKERS)],
        markersize=11 if dense else _MARKER_SIZE,
        linestyle="none" if dense else "-",
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
    )[0]
    for point, result in zip(zip(across, rates, strict=True), ordered, strict=True):
        label = "" if result.variant.threshold is None else f"{result.variant.threshold:g}"
        axes.annotate(label, point, (0, 0), textcoords="offset points", fontsize=7, color=colour, in_layout=False)
    return line


def _place_labels(figure: Figure, axes: Axes, legend: Legend) -> None:
    """Move the text of each point to where it covers as little as it can of the others, the points and the legend."""
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # only then is known where the points and the legend lie
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    half = _MARKER_SIZE / 2 * figure.dpi / 72
    corners = [axes.transData.transform(label.xy) for label in labels]
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in corners]
    taken.append(legend.get_window_extent())
    for label in labels:
        if label.get_text():
            best = min(_PLACES, key=lambda place: _covered(_moved(label, place), taken))
            taken.append(_moved(label, best))


def _moved(label: Annotation, place: tuple[tuple[int, int], str, str]) -> Bbox:
    """Put a label at one of `_PLACES`; returns what it covers, in pixels."""
    offset, across, upward = place
    label.set(position=offset, ha=across, va=upward)
    return label.get_window_extent()


def _covered(box: Bbox, others: Sequence[Bbox]) -> float:
    """Area of the others under a box, in square pixels."""
    shared = (box.intersection(box, other) for other in others)
    return float(sum(part.width * part.height for part in shared if part is not None))


def _across(result: BenchResult, against_quality: bool) -> float:
    quality = result.mean_iou
    return quality if against_quality and quality is not None else result.tokens.kept
