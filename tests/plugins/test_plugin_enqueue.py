"""Plugin objects at work: enqueue on the CPU twin of the kernels equals the NumPy reference.

What this shows beyond the kernels' own tests: which extents, attributes and tensors each plugin hands to its kernel,
and that the workspace it asks for is enough. The library is the whole one, compiled for the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.plugin_probe import Probe, build_abi_checks
from helpers.plugin_run import check_every_operator, run, tokens

from algm_trt.plugins import reference


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory, twin_library: Path) -> Probe:
    return Probe(build_abi_checks(tmp_path_factory.mktemp("abi")) / "libplugin_probe.so", twin_library)


@pytest.mark.parametrize("activation", ["float32", "float16"])
@pytest.mark.parametrize("extra_tokens", [1, 2])
def test_every_operator_equals_the_reference(probe: Probe, activation: str, extra_tokens: int) -> None:
    check_every_operator(probe, activation, extra_tokens)


def test_unmerge_without_appended_tokens(probe: Probe) -> None:
    x, cu = tokens("float16", 7, 32), np.array([0, 3, 7], np.int32)
    token_map = np.array([[0, 1, 2, 2], [3, 2, 1, 0]], np.int32)
    grid = run(probe, "AlgmUnmerge", {"appended": 0, "drop": 0}, [x, cu, token_map])
    assert len(grid) == 1
    np.testing.assert_array_equal(grid[0], reference.unmerge(x, cu, token_map)[0])
