"""The project's folder in the user's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from algm_trt.plugins.cache_folder import cache_folder


def test_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "algm-trt"
