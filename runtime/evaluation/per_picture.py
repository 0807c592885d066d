"""The table that `--per-picture` writes: a line per run and picture, for statistics of the user's own."""

from __future__ import annotations

import csv
import io
import math
from typing import Final

from algm_trt.runtime.evaluation.report import Report
from algm_trt.runtime.paths import printable

COLUMNS: Final = ("name", "run", "pixels", "mean_iou", "labels_equal_to_first", "tokens_kept", "windows")


def per_picture_csv(report: Report) -> str:
    """All scored pictures of all complete runs as CSV with a head.

    Shares lie in 0..1. A field is empty where there is no such figure: labels equal to those of the first run in that
    run itself, and the mean IoU of a picture without ground truth. Pictures that failed are left out.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in report.runs:
        equal = run.drift.shares_equal if run.drift else {}
        for picture in run.evaluation.scored:
            name = printable(report.data.samples[picture.index].name)
            mean_iou = "" if math.isnan(picture.mean_iou) else picture.mean_iou
            kept = picture.tokens[2] / picture.tokens[0]
            share = equal.get(picture.index, "")
            writer.writerow((name, printable(run.title), picture.pixels, mean_iou, share, kept, picture.windows))
    return text.getvalue()
