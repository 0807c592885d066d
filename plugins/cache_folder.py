"""Where files lie that are worth keeping between runs and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The project's folder in the user's cache; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(root) / "algm-trt"


def _home() -> Path:
    """The user's folder; "/", as in a container, for a user whom neither $HOME nor the system gives one."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")
