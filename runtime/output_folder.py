"""The output folder before a run: it can be written, is no input, and loses no file that is not a run's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.paths import printable, real_path
from algm_trt.runtime.sources import Source
from algm_trt.runtime.video import video_target
from algm_trt.runtime.writers import KINDS, output_path


def prepare_folder(folder: Path, kinds: Sequence[str] = ()) -> None:
    """Make the output folder and try it, so that a run does not fail at its first picture.

    Args:
        folder: to make.
        kinds: whose subfolders are tried too, those that there are: they may be another user's.

    Raises:
        AlgmError: it cannot be made or written.
    """
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, *(folder / kind for kind in kinds if os.path.lexists(folder / kind))):
            with TemporaryFile(dir=path):
                pass
    except OSError as error:
        is_file = os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112 - never raise
        reason = "is a file, not a folder" if is_file else error.strerror or error
        raise AlgmError(f"cannot write to {printable(path)}: {reason}") from error


def without_outputs(sources: Sequence[Source], folder: Path) -> list[Source]:
    """Leave out what earlier runs wrote, where the output folder lies within an input folder, whatever leads there."""
    outputs = [real_path(folder / kind) for kind in KINDS]
    real = {parent: real_path(parent) for parent in {source.path.parent for source in sources}}
    written = {parent for parent, path in real.items() if any(path.is_relative_to(output) for output in outputs)}
    return [source for source in sources if source.path.parent not in written]


def check_overwriting(sources: Sequence[Source], folder: Path, kinds: Sequence[str]) -> None:
    """Refuse to replace files that no run wrote: the labels of a data set often lie in a folder called labels.

    Raises:
        UsageError: a file of this run exists in a folder without a results file.
    """
    if any(folder.glob("results*.jsonl")):
        return
    for source in sources:
        target_of = video_target if source.medium == "video" else output_path
        for kind in kinds:
            target = folder / target_of(kind, source.name)
            if os.path.exists(target):  # noqa: PTH110 - Path.exists raises where the path is too long
                raise UsageError(
                    f"{printable(target)} exists, and not from a run: there is no results.jsonl in "
                    f"{printable(folder)}. Name another --output, or move that file away"
                )
