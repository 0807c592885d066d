"""What every record of a benchmark begins with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parts.record import write_record


def test_the_command_names_no_folder_outside_of_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    arguments = ["--official", "/home/me/official code", "--rounds", "5", "examples/sample", "../data/test"]
    monkeypatch.setattr("sys.argv", ["/home/me/benchmarks/cpu_table.py", *arguments])
    write_record(target, {"what": "nothing"})
    record = json.loads(target.read_text(encoding="utf-8"))
    assert record["command"] == (
        "python benchmarks/cpu_table.py --official 'official code' --rounds 5 examples/sample test"
    )
    assert record["what"] == "nothing"
    assert {"date", "machine", "versions", "load_average"} <= record.keys()
