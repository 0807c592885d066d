"""Table and JSON of what `gpu_all.sh` did: `python benchmarks/gpu_summary.py STEPS.tsv OUT.json DEVICE`."""

from __future__ import annotations

import sys
from pathlib import Path

from parts.record import write_record


def main(table: str, output: str, device: str) -> int:
    """Print the steps, write them, and say whether one failed (1)."""
    lines = Path(table).read_text().splitlines()
    fields = ("step", "status", "seconds", "detail")
    steps = [dict(zip(fields, line.split("\t", 3), strict=True)) for line in lines]
    write_record(
        Path(output), {"device": device, "steps": [step | {"seconds": int(step["seconds"])} for step in steps]}
    )
    print(f"\n{'step':11} {'status':8} {'time':>6}  what it said")
    for step in steps:
        print(f"{step['step']:11} {step['status']:8} {step['seconds'] + ' s':>6}  {step['detail']}")
    return int(any(step["status"] == "failed" for step in steps))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
