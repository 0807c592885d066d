"""Numbers as options and calls give them: of the right type and in range, or a UsageError. Standard library only."""

from __future__ import annotations

import math
import operator
import struct
from typing import Any

from algm_trt.plugins.errors import UsageError


def whole_number(what: str, value: Any) -> int:
    """An option that counts something, as an int.

    Args:
        what: name of the option, for the message.
        value: an int, or what Python takes for one as an index, such as those of NumPy; no bool.

    Raises:
        UsageError: anything else.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{what} must be a whole number, got {value!r}")


def finite_threshold(value: Any) -> float:
    """A threshold that is finite as float32 too, which is what models take.

    Args:
        value: a number, or what Python makes a float of; no bool and no text.

    Raises:
        UsageError: anything else.
    """
    try:
        if not isinstance(value, bool | str | bytes | bytearray):
            number = float(value)
            struct.pack("<f", number)  # an OverflowError beyond float32; native "f" would give infinity
            if math.isfinite(number):
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"the threshold must be a finite number, got {value!r}")
