"""What the doctor says: facts about the machine and the model, and findings about what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

FactState = Literal["ok", "absent", "broken"]
FindingState = Literal["found", "not found", "cannot tell"]

BREAKS: Final = 1
LACKS: Final = 4
"""Exit codes of findings: what was asked for will not work; the machine lacks something that it needs."""


@dataclass(frozen=True)
class Fact:
    """One line about the machine or the model.

    Attributes:
        name: what it is about.
        value: what was found, one line.
        state: "absent" is no fault by itself; "broken" is there and does not work.
    """

    name: str
    value: str
    state: FactState = "ok"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Finding:
    """One thing that goes wrong for others, looked for here.

    Attributes:
        name: of the pain.
        state: whether it is so here.
        evidence: what was seen, one line.
        cure: what to do if it was found; "" otherwise.
        exit_code: 0, or the exit code that it gives the command: `BREAKS` or `LACKS`.
    """

    name: str
    state: FindingState
    evidence: str
    cure: str = ""
    exit_code: int = 0

    def __post_init__(self) -> None:
        """Refuse what says nothing or too much.

        Raises:
            ValueError: no evidence, or a cure or an exit code for something that was not found.
        """
        found = self.state == "found"
        if not self.evidence or found != bool(self.cure) or (self.exit_code and not found):
            raise ValueError(f"a finding needs evidence, and a cure if and only if it was found: {self}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def found(name: str, evidence: str, cure: str, exit_code: int = 0) -> Finding:
    """Something goes wrong here."""
    return Finding(name, "found", evidence, cure, exit_code)


def not_found(name: str, evidence: str) -> Finding:
    """It was looked for and is not so."""
    return Finding(name, "not found", evidence)


def cannot_tell(name: str, evidence: str) -> Finding:
    """It was not looked for, and why."""
    return Finding(name, "cannot tell", evidence)


def exit_code(findings: Sequence[Finding], others: Sequence[int] = ()) -> int:
    """The command's exit code: what breaks comes before what is missing, since installing that would not help."""
    codes = {*others, *(finding.exit_code for finding in findings)}
    return next((code for code in (BREAKS, LACKS) if code in codes), 0)
