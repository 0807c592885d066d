"""What the reader of figures should know: what was asked for in vain, and which figures are not of one kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from algm_trt.runtime.bench.report import BenchReport

_TOKENS_DIFFER: Final = 0.03
"""Share of the tokens by which what was timed and what was scored may differ without a word."""


def notes_of(report: BenchReport) -> tuple[str, ...]:
    """Notes on a report, in the order in which they are read."""
    return (*_thresholds(report), *_tokens(report), *_sizes(report))


def _thresholds(report: BenchReport) -> Iterator[str]:
    for model in report.contenders:
        if report.options.thresholds and model["merge_layers"] is None:
            yield f"{model['name']} does not merge: --thresholds do not apply to it"


def _tokens(report: BenchReport) -> Iterator[str]:
    """Speed and mean IoU of one line are of unlike pictures."""
    told = set()
    for result in report.results:
        title, quality = result.variant.title, result.quality
        if quality is None or title in told or abs(quality.tokens_kept - result.tokens.kept) <= _TOKENS_DIFFER:
            continue
        told.add(title)
        yield (
            f"{title} keeps {result.tokens.kept:.1%} of the tokens in the windows that were timed, but "
            f"{quality.tokens_kept:.1%} in the pictures that were scored: its speed on those is another; "
            f"more --pictures{' and a larger --limit' if report.options.limit else ''} bring the two together"
        )


def _sizes(report: BenchReport) -> Iterator[str]:
    """Windows of the models differ."""
    base = next((result for result in report.results if result.variant.title == report.baseline), None)
    if base is None:
        return
    sizes = {result.variant.model: result.origin.size_text for result in report.results}
    others = [f"{name} {size}" for name, size in sizes.items() if size != base.origin.size_text]
    if others:
        yield (
            f"windows differ in size ({base.variant.model} {base.origin.size_text}, {', '.join(others)}): across sizes "
            "the model alone is not compared, the whole job is"
        )
