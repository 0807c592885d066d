"""The doctor's report for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from algm_trt.engines.doctor.facts import Fact, Finding
from algm_trt.engines.doctor.ladder import Rung

WIDTH: Final = 120
FORMAT_VERSION: Final = 1
_MARKS: Final = {"ok": " ", "absent": "-", "broken": "!"}


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes:
        machine: facts about the machine.
        model: facts about the model; none if no model was named.
        findings: the pains.
        rungs: of the self-test; none if it was not asked for.
        exit_code: of the command.
    """

    machine: Sequence[Fact]
    model: Sequence[Fact]
    findings: Sequence[Finding]
    rungs: Sequence[Rung]
    exit_code: int

    def to_json(self) -> str:
        """The report as JSON text."""
        data: dict[str, Any] = {"format_version": FORMAT_VERSION, "exit_code": self.exit_code}
        for name, entries in (("machine", self.machine), ("model", self.model), ("pains", self.findings)):
            data[name] = [entry.to_dict() for entry in entries]
        data["selftest"] = [rung.to_dict() for rung in self.rungs]
        return json.dumps(data, indent=1) + "\n"


def facts_table(title: str, facts: Sequence[Fact]) -> list[str]:
    """Facts as lines: `!` marks what is broken, `-` what is absent."""
    width = max(len(fact.name) for fact in facts)
    return [title, *(line for fact in facts for line in _row(f"{_MARKS[fact.state]} {fact.name:<{width}}", fact.value))]


def findings_table(findings: Sequence[Finding]) -> list[str]:
    """Findings as lines: the state, the evidence, and under it the cure."""
    width = max(len(finding.name) for finding in findings)
    lines = ["what goes wrong for others"]
    for number, finding in enumerate(findings, 1):
        mark = "!" if finding.state == "found" else " "
        start = f"{mark} {number:>2} {finding.name:<{width}}  {finding.state:<11}"
        lines += _row(start, finding.evidence)
        if finding.cure:
            lines += _row(" " * len(start), f"cure: {finding.cure}")
    return lines


RUNG_HEADER: Final = f"  {'':<2} {'what it shows':<44} {'result':<7} {'s':>6}"


def rung_row(rung: Rung) -> list[str]:
    """One rung as lines."""
    mark = "!" if rung.state == "failed" else "-" if rung.state == "not run" else " "
    return _row(f"{mark} {rung.name:<2} {rung.shows:<44} {rung.state:<7} {rung.seconds:>6.1f}", rung.result)


def closing_line(report: Report) -> str:
    """The verdict in one line."""
    found = sum(finding.state == "found" for finding in report.findings)
    parts = [f"{found} of {len(report.findings)} pains found" if found else "none of the pains found"]
    if report.rungs:
        counts = {state: sum(rung.state == state for rung in report.rungs) for state in ("passed", "failed", "not run")}
        parts.append("self-test: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    verdicts = {
        0: "nothing here stands in the way",
        1: "something here will not work",
        3: "the self-test failed",
        4: "the machine lacks something that is needed",
    }
    return "; ".join([*parts, verdicts[report.exit_code]])


def _row(start: str, text: str) -> list[str]:
    """A line that begins with columns; a long text wraps below where it began."""
    room = max(40, WIDTH - len(start) - 2)
    first, *rest = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""]
    return [f"{start}  {first}".rstrip(), *(f"{' ' * len(start)}  {line}" for line in rest)]
