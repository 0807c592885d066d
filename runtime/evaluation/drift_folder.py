"""What `--drift` writes: the pictures on which each run of an evaluation is farthest from the first run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.evaluation.drift import Drift, side_by_side
from algm_trt.runtime.evaluation.report import Report, Run
from algm_trt.runtime.files import renamed_together


def write_drift(report: Report, folder: Path) -> None:
    """Draw the pictures of the last run that drifted most, and write drift.json about all runs so far.

    A run has a subfolder, which is replaced as a whole; one without any difference has none.

    Args:
        report: of a job whose last run has a drift.
        folder: made if need be.

    Raises:
        AlgmError: a picture or its ground truth has become unreadable.
        OSError: something cannot be written.
    """
    number, run = len(report.runs) - 1, report.runs[-1]
    drift = run.drift
    assert drift is not None
    target = folder / _folder_name(number, run)
    with renamed_together() as temporary:
        if drift.worst():
            draft = temporary(target, folder=True)
            draft.mkdir()
            for place, (index, _) in enumerate(drift.worst(), start=1):
                name = report.data.samples[index].name.replace("/", "_")
                _sheet(report, run, drift, index).save(draft / f"{place:02d}_{name}.png")
        text = json.dumps(
            [_entry(report, number, run) for number, run in enumerate(report.runs) if run.drift], indent=1
        )
        temporary(folder / "drift.json").write_text(f"{text}\n", encoding="utf-8")
    if not drift.worst() and target.is_dir():
        shutil.rmtree(target)


def _entry(report: Report, number: int, run: Run) -> dict[str, object]:
    assert run.drift is not None
    folder = _folder_name(number, run) if run.drift.worst() else None
    known = {"model": run.variant.argument.text, "threshold": run.threshold, "folder": folder}
    return report.drift_dict(run, run.drift) | known


def _folder_name(number: int, run: Run) -> str:
    at = "dense" if run.threshold is None else f"{run.threshold:g}"
    return f"{number:02d}_{Path(run.name).stem}_{at}"


def _sheet(report: Report, run: Run, drift: Drift, index: int) -> Image.Image:
    sample = report.data.samples[index]
    picture = decode_image(sample.image, max_pixels=report.options.max_pixels)
    truth = report.data.truth(sample, (picture.shape[0], picture.shape[1]))
    before, after = drift.worst_labels(index)
    columns = [("ground truth", truth), (report.runs[0].title, before), (run.title, after)]
    return side_by_side(picture, columns, report.card.palette)
