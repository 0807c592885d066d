"""Fixtures of the plugin tests: the native library, or why it is not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from algm_trt.plugins.library import PluginLibraryError, find_library


@pytest.fixture(scope="session")
def plugin_library() -> Path:
    """The plugin library as a user would find it."""
    try:
        return find_library()
    except PluginLibraryError as error:
        pytest.skip(str(error))
