"""The options of every command that takes pictures through a model: windows, threads, and how large pictures may be."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from algm_trt.plugins.arguments import positive_int
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS, MAX_CANVAS_PIXELS, MODES

if TYPE_CHECKING:
    from algm_trt.runtime.pipeline_options import PipelineOptions


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --mode and --stride."""
    add = parser.add_argument
    add("--mode", choices=MODES, default="slide", help="windows over the picture, or the picture resized")
    add("--stride", type=positive_int, metavar="N", help="step of the windows in pixels (default: the model's)")


def pixels_or_native(text: str) -> int:
    """An argument that resizes pictures: pixels of their short side, or 0 for "native", as they are.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if text == "native":
        return 0
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; native takes pictures as they are") from None


def add_reading_arguments(parser: argparse.ArgumentParser, *, workers: str, larger: str = "refuse") -> None:
    """Add --workers and --max-pixels.

    Args:
        parser: of the command.
        workers: help of --workers: what these threads do, and how many there are by default.
        larger: what the command does to pictures above --max-pixels.
    """
    add = parser.add_argument
    add("--workers", type=positive_int, metavar="N", help=workers)
    add(
        "--max-pixels",
        type=positive_int,
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help=f"{larger} larger pictures (default: {DEFAULT_MAX_PIXELS // 10**6} million); windows are cut from up to "
        f"{MAX_CANVAS_PIXELS:,} pixels",
    )


def pipeline_options(
    arguments: argparse.Namespace,
    *,
    threshold: float | None = None,
    batch_size: int = 1,
    short_side: int | None = None,
) -> PipelineOptions:
    """The options that these arguments ask for, with those that a command takes in its own way.

    Args:
        arguments: of a parser with the arguments above.
        threshold: similarity at or above which a window of tokens merges; None takes the model card's.
        batch_size: windows that the model gets at a time.
        short_side: pixels that a picture's short side is resized to first; None takes the model card's, 0 takes
            pictures as they are.

    Raises:
        UsageError: arguments that exclude each other.
    """
    from algm_trt.runtime.pipeline_options import PipelineOptions  # needs NumPy and OpenCV, which --help does without

    return PipelineOptions(
        mode=arguments.mode,
        stride=arguments.stride,
        threshold=threshold,
        batch_size=batch_size,
        workers=arguments.workers,
        short_side=short_side,
    )
