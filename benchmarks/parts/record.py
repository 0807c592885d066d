"""What every benchmark records beside its numbers (date, machine, versions, load), and the option that asks for it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from algm_trt.runtime.files import write_report
from algm_trt.runtime.machine import environment, load_average


def recording_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option `--json`; scripts describe themselves by their docstrings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser


def write_record(path: Path | None, results: dict[str, Any]) -> None:
    """Write results with their environment, if a file is named.

    The file is written whole: who stops meanwhile keeps the record before.
    """
    if path is not None:
        known = environment() | {"load_average": load_average(), "command": _command()}
        write_report(path, json.dumps(known | results, indent=1) + "\n")


def _command() -> str:
    """The command line; of paths that lead out of the checkout, which are those of a machine, the last part."""
    script, *arguments = sys.argv
    shown = [Path(text).name if text.startswith(("/", "..")) else text for text in arguments]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])
