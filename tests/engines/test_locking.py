"""Files that several builds change at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from algm_trt.engines.locking import update_file

ADD = """
import sys, time
from pathlib import Path
from algm_trt.engines.locking import update_file
def change(content):
    time.sleep(0.002)
    return content + sys.argv[2].encode()
for _ in range(20):
    update_file(Path(sys.argv[1]), change)
"""


def test_updates_of_several_processes_all_count(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.cache"
    children = [subprocess.Popen([sys.executable, "-c", ADD, str(path), letter]) for letter in "abc"]
    assert [child.wait() for child in children] == [0, 0, 0]
    content = path.read_text()
    assert {letter: content.count(letter) for letter in "abc"} == {"a": 20, "b": 20, "c": 20}
    assert [file.name for file in path.parent.iterdir()] == ["file.cache"]


def test_update_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.cache"
    path.write_bytes(b"before")

    def fail(content: bytes) -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        update_file(path, fail)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["file.cache"]
