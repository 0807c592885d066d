"""What TensorRT says while a builder or a runtime is made decides whether it may be used."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from algm_trt.runtime.backends.tensorrt.log import Messages, made


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
