"""Fixtures shared by all tests: they supply what a test needs or say why the machine cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _shared_folder() -> Path | None:
    """The team's extra data: $ALGM_SHARED, or `shared` beside the checkout."""
    candidate = Path(os.environ.get("ALGM_SHARED", Path(__file__).parents[2] / "shared"))
    return candidate if (candidate / "golden" / "index.json").is_file() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the golden cases, photographs and data set samples."""
    folder = _shared_folder()
    if folder is None:
        pytest.skip("the team's extra data is not beside this checkout (set ALGM_SHARED)")
    return folder
