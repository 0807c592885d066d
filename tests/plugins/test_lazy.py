"""Packages import what they offer when it is asked for, and know nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import algm_trt.runtime


@pytest.mark.parametrize("package", ["algm_trt.runtime", "algm_trt.engines", "algm_trt.exporter"])
def test_all_that_a_package_offers_is_there_and_nothing_else(package: str) -> None:
    module = import_module(package)
    assert all(getattr(module, name).__name__ == name for name in module.__all__)
    assert {*module.__all__, "__name__"} <= {*dir(module)}
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", ["runtime", "engines", "exporter"])
def test_a_package_alone_imports_none_of_its_modules(package: str) -> None:
    program = (
        f"import sys, algm_trt.{package} as package\n"
        "dir(package)\n"
        f"print([name for name in sys.modules if name.startswith('algm_trt.{package}.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_errors_that_callers_catch_are_public() -> None:
    with pytest.raises(algm_trt.runtime.UsageError):
        algm_trt.runtime.load("nowhere.onnx")
    assert issubclass(algm_trt.runtime.DecodeError, algm_trt.runtime.AlgmError)
