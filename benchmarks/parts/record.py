"""What every benchmark records beside its numbers: date, machine, versions, load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from algm_trt.runtime.files import write_report
from algm_trt.runtime.machine import environment, load_average


def write_record(path: Path, results: dict[str, Any]) -> None:
    """Write results with their environment, whole: stopped meanwhile, the record before stays."""
    write_report(path, json.dumps(environment() | {"load_average": load_average()} | results, indent=1) + "\n")
