"""What algm-eval prints and writes, run by run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from algm_trt.plugins.command import remark, say
from algm_trt.runtime.evaluation.per_picture import per_picture_csv
from algm_trt.runtime.evaluation.report import Report
from algm_trt.runtime.evaluation.table import head_lines, last_lines, row
from algm_trt.runtime.files import is_special, write_report
from algm_trt.runtime.machine import environment, load_average
from algm_trt.runtime.paths import printable

_FAILURES_SHOWN: Final = 20


class Output:
    """Table, JSON and CSV of a job: what is there stays, whatever happens to the next run."""

    def __init__(self, json_file: Path | None, csv_file: Path | None, command: Sequence[str], *, quiet: bool):
        """Begin.

        Args:
            json_file: of all figures; None writes none.
            csv_file: of a line per run and picture; None writes none.
            command: words of the command line, for the JSON.
            quiet: print no table.
        """
        self._json = json_file
        self._csv = csv_file
        self._quiet = quiet
        self._known = environment() if json_file else {}
        self._command = list(command)
        self._load = load_average()
        self._shown: Report | None = None

    def follow(self, report: Report) -> None:
        """Write the files again, and print what is new since the last report."""
        shown, self._shown = self._shown, report
        if shown is None:
            self._print(head_lines(report))
            return
        try:
            self._write(report)  # first: whoever reads what is printed may be gone
        except OSError as error:  # the next run tries again, and the end says so for good
            remark(f"algm-eval: {error}")
        for failed in report.failed[len(shown.failed) :]:
            remark(f"algm-eval: {printable(failed.title)} failed: {failed.error}")
        for number in range(len(shown.runs), len(report.runs)):
            self._print([row(report, number)])

    def finish(self, report: Report) -> None:
        """Write the files for good, and print the rest."""
        try:
            self._write(report, last=True)
        finally:
            self._print(last_lines(report))
        failures = {failure.name: failure for run in report.runs for failure in run.evaluation.failures}
        for failure in list(failures.values())[:_FAILURES_SHOWN]:
            remark(f"algm-eval: {printable(failure.name)} left out ({failure.kind}): {failure.error}")
        if failures:
            remark(f"algm-eval: {len(failures)} of {len(report.data.samples)} pictures are not in the figures")

    def _print(self, lines: Sequence[str]) -> None:
        if not self._quiet:
            say("\n".join(lines))

    def _write(self, report: Report, *, last: bool = False) -> None:
        """Write the files whole; what is no file, such as a pipe, takes one text only: the last."""
        if self._json is not None and (last or not is_special(self._json)):
            write_report(self._json, self._json_text(report))
        if self._csv is not None and (last or not is_special(self._csv)):
            write_report(self._csv, per_picture_csv(report))

    def _json_text(self, report: Report) -> str:
        load = {"before": self._load, "after": load_average()}
        how = {"command": self._command, "load_average": load}
        return json.dumps(self._known | how | report.to_dict(), indent=1) + "\n"
