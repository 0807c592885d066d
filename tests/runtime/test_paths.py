"""Paths: how they sort, print, and where they lead."""

from __future__ import annotations

import os
import random
from pathlib import Path

from algm_trt.runtime.paths import absolute_path, natural_key, printable, real_path


def test_natural_key_counts_and_ignores_case() -> None:
    ordered = ["1", "a", "a01", "a1", "A1b", "a2", "a10", "B", "c²"]
    shuffled = ordered[:]
    random.Random(1).shuffle(shuffled)
    assert sorted(shuffled, key=natural_key) == ordered


def test_printable_escapes_what_a_terminal_cannot_show() -> None:
    assert printable("pics/été 1.jpg") == "pics/été 1.jpg"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable(Path("a\nb\x1b")) == r"a\nb\x1b"
    assert printable("a\ud800b") == r"a\ud800b", "no file has such a name, but JSON can name it"


def test_where_links_lead(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert real_path(tmp_path / "link") == real_path(tmp_path) / "file"
    assert real_path(tmp_path / "loop" / "a").name == "a", "a link that leads to itself is no error"
    assert absolute_path(tmp_path / "sub" / ".." / "link") == tmp_path / "link", "a link keeps its own name"
