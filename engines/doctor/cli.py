"""The command algm-doctor: what is here, what will go wrong and its cure, and the self-test."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.engines.doctor.facts import LACKS, exit_code
from algm_trt.plugins.arguments import command_parser
from algm_trt.plugins.command import run_command, say
from algm_trt.plugins.errors import VerificationError
from algm_trt.runtime.files import check_writable, write_report

if TYPE_CHECKING:
    from algm_trt.engines.doctor.ladder import Rung
    from algm_trt.engines.doctor.machine import Machine

_EPILOG = """\
  algm-doctor                        this machine
  algm-doctor model.plan             this machine, the plan, and whether they fit
  algm-doctor --selftest             run what can be run here, from the operators to TensorRT engines

Marks: ! is broken or found, - is not here or was not run.

exit codes: 0 nothing wrong; 1 something will not work; 2 wrong usage; 3 a rung of the self-test failed;
4 the machine lacks something that the model, or any model, needs; 130 interrupted, 143 terminated.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command("algm-doctor", lambda: _examine(_parser().parse_args(argv)))


def _examine(arguments: argparse.Namespace) -> int:
    if arguments.json:
        check_writable(arguments.json)
    # Imported here: a NumPy that is broken is one line too.
    from algm_trt.engines.doctor.machine import examine, machine_facts
    from algm_trt.engines.doctor.model import examine_model, model_facts
    from algm_trt.engines.doctor.pains import Situation, look_for_all
    from algm_trt.engines.doctor.report import Report, closing_line, facts_table, findings_table

    machine = examine()
    model = examine_model(arguments.model, machine) if arguments.model else None
    on_machine = machine_facts(machine)
    _print(facts_table("this machine", on_machine))
    in_model = model_facts(model) if model else []
    if in_model:
        _print(["", *facts_table("the model", in_model)])
    findings = look_for_all(Situation(machine, model))
    _print(["", *findings_table(findings)])
    rungs = _selftest(machine, build=not arguments.skip_build) if arguments.selftest else []
    code = exit_code(findings, [problem.exit_code for problem in model.problems] if model else lacking(machine))
    if any(rung.state == "failed" for rung in rungs):
        code = VerificationError.exit_code
    report = Report(on_machine, in_model, findings, rungs, code)
    _print(["", closing_line(report)])
    if arguments.json:
        write_report(arguments.json, report.to_json())
    return code


def lacking(machine: Machine) -> list[int]:
    """Exit codes of what keeps any model from running, where none was named."""
    return [] if machine.answers["onnxruntime"].ok or machine.version("tensorrt") else [LACKS]


def _selftest(machine: Machine, *, build: bool) -> list[Rung]:
    """Climb the ladder; a row appears when its rung is done."""
    from algm_trt.engines.doctor.ladder import Ladder
    from algm_trt.engines.doctor.report import RUNG_HEADER, rung_row

    _print(["", "self-test", RUNG_HEADER])
    rungs = []
    with tempfile.TemporaryDirectory(prefix="algm-selftest-") as folder:
        for rung in Ladder(machine, Path(folder), build=build).climb():
            rungs.append(rung)
            _print(rung_row(rung))
    return rungs


def _print(lines: Iterable[str]) -> None:
    say("\n".join(lines))


def _parser() -> argparse.ArgumentParser:
    description = "Say what this machine and a model are, what will go wrong and its cure."
    parser = command_parser("algm-doctor", description, _EPILOG)
    add = parser.add_argument
    add("model", nargs="?", type=Path, metavar="MODEL", help="model.onnx or model.plan")
    add("--selftest", action="store_true", help="run the rungs L0 to L6 as far as the machine allows")
    add("--skip-build", action="store_true", help="leave out rung L2, which compiles the plugin library for minutes")
    add("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
