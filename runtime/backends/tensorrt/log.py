"""TensorRT's messages, collected for our one-line errors, and what it says when nothing can be made with it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

_PLACE: Final = re.compile(r"^(\[[^\]]*::[^\]]*\]\s*|I\w+::\w+: |Error Code \d+: )")


@dataclass
class Messages:
    """Messages in order, without the places in TensorRT's sources that they begin with."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def unused_inputs(self) -> list[str]:
        """Warnings that an input of a node is ignored: the engine would compute something else than the graph says."""
        return [message for message in self.warnings if "unused input" in message.lower()]

    def summary(self, most: int = 3) -> str:
        """The errors as one line, the first ones if there are many."""
        distinct = list(dict.fromkeys(self.errors))
        more = f" | and {len(distinct) - most} more" if len(distinct) > most else ""
        return " | ".join(distinct[:most]) + more


_LOGGERS: Final[list[Any]] = []


def logger_for(trt: Any, messages: Messages) -> Any:
    """An `ILogger` of a TensorRT module that fills `messages`. It is never freed.

    The first one of a process is what TensorRT's own parts, such as the plugin registry, report to for as long as any
    builder or runtime lives, whoever made that. Tried with TensorRT-RTX 1.7: freed before, it ends the process at the
    next message.
    """
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity_of_message: Any, text: str) -> None:
            if severity_of_message in (severity.ERROR, severity.INTERNAL_ERROR):
                messages.errors.append(tidy(text))
            elif severity_of_message == severity.WARNING:
                messages.warnings.append(tidy(text))

    _LOGGERS.append(Logger())
    return _LOGGERS[-1]


def made(kind: Callable[[Any], Any], logger: Any, messages: Messages) -> Any:
    """A builder or a runtime.

    Args:
        kind: class of a TensorRT module.
        logger: of `logger_for`.
        messages: that the logger fills.

    Raises:
        RuntimeError: TensorRT cannot make one; the message says why.
    """
    before = len(messages.errors)
    try:
        result = kind(logger)
    except (RuntimeError, TypeError) as error:
        raise RuntimeError(messages.summary() or tidy(str(error))) from error
    if len(messages.errors) > before:
        # Tried with 10.16 and 11.4: where the driver is too old, or not there, a runtime comes all the same, and
        # whatever uses it ends the process, its destructor included. So this one is never destroyed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(result))
        raise RuntimeError(messages.summary())
    return result


def tidy(text: str) -> str:
    """A message on one line, without the place in the sources and the error's number."""
    line = " ".join(text.split())
    while (shorter := _PLACE.sub("", line)) != line:
        line = shorter
    return line
