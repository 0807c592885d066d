"""What OpenVINO's long error messages say, in one line."""

from __future__ import annotations

from typing import Final

from algm_trt.runtime.backends.onnx_model import first_line

PLACES: Final = ("Exception from", "Check '", "FrontEnd API failed")
"""How lines begin that say where in its sources something failed, and not what."""
TELLING: Final = ("No conversion rule", "algm")
"""What the most telling lines contain: operators that it does not know, and ours."""


def telling_line(error: Exception) -> str:
    """The most telling line of an error of OpenVINO: about operators, or else the first that is no place."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(PLACES)]
    telling = [line for sign in TELLING for line in lines if sign in line]
    return next(filter(None, [*telling, *lines]), first_line(error))
