"""What TensorRT says while a builder or a runtime is made decides whether it may be used."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from algm_trt.runtime.backends.tensorrt.log import Messages, made

_TWO_SESSIONS = """\
import gc, pathlib, sys
from algm_trt.engines.network import open_session
from algm_trt.plugins.library import load_library
from algm_trt.runtime.backends.tensorrt.bindings import load_tensorrt_rtx
rtx, library = load_tensorrt_rtx(), pathlib.Path(sys.argv[1])
first, second = open_session(rtx, library), open_session(rtx, library)
del first
gc.collect()
load_library(rtx.module.get_plugin_registry(), library)
"""


class Runtime:
    """As TensorRT's: it is there although it cannot begin."""

    def __init__(self, logger: Messages) -> None:
        logger.errors.append("createInferRuntime: CUDA initialization failure with error: 35")


def test_what_was_said_before_does_not_count() -> None:
    messages = Messages(errors=["Could not register plugin creator"])
    assert isinstance(made(lambda logger: object(), None, messages), object)


def test_what_cannot_begin_is_neither_used_nor_destroyed() -> None:
    messages, kept = Messages(), []

    def make(logger: Messages) -> Any:
        runtime = Runtime(logger)
        kept.append(weakref.ref(runtime))
        return runtime

    with pytest.raises(RuntimeError, match="error: 35"):
        made(make, messages, messages)
    gc.collect()
    assert kept[0]() is not None


def test_what_is_not_made_says_why() -> None:
    messages = Messages()

    def fail(logger: Any) -> Any:
        raise TypeError("pybind11::init(): factory function\nreturned nullptr")

    with pytest.raises(RuntimeError, match=r"^pybind11::init\(\): factory function returned nullptr$"):
        made(fail, None, messages)
    messages.errors.append("no device")
    with pytest.raises(RuntimeError, match=r"^no device$"):
        made(fail, None, messages)


@pytest.mark.rtx
def test_the_first_session_may_end_before_the_second(plugin_library: Path) -> None:
    """TensorRT's global registry goes on reporting to the first one's logger."""
    command = [sys.executable, "-c", _TWO_SESSIONS, str(plugin_library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
