"""Where files lie that are worth keeping between runs and can be made again."""

from __future__ import annotations

from pathlib import Path

from algm_trt.plugins.library import cache_library


def cache_folder() -> Path:
    """The project's folder in the user's cache; it need not exist."""
    return cache_library().parents[1]
