"""Public names of the packages: imported when they are used, and listed before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import algm_trt.engines
import algm_trt.exporter
import algm_trt.runtime


@pytest.mark.parametrize("package", [algm_trt.engines, algm_trt.exporter, algm_trt.runtime])
def test_public_names_are_there_and_listed(package) -> None:  # type: ignore[no-untyped-def]
    assert all(hasattr(package, name) for name in package.__all__)
    assert {*package.__all__, "__name__"} <= {*dir(package)}
    with pytest.raises(AttributeError, match=r"module 'algm_trt\.\w+' has no attribute 'lood'"):
        package.lood  # noqa: B018


def test_listing_imports_nothing_heavy() -> None:
    code = "import sys, algm_trt.runtime as r; dir(r); assert 'load' in dir(r) and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_that_callers_catch_are_public() -> None:
    with pytest.raises(algm_trt.runtime.UsageError):
        algm_trt.runtime.load("nowhere.onnx")
    assert issubclass(algm_trt.runtime.DecodeError, algm_trt.runtime.AlgmError)
