"""The plugin library in TensorRT's own registry: loaded, created, stored, re-created, enqueued. Needs no GPU.

The registry is that of a TensorRT runtime library: those named in ALGM_TENSORRT_LIBS (separated as in PATH), or the
`tensorrt_lean_libs` wheel. It is called through NVIDIA's headers of the same major version, which
ALGM_TENSORRT_HEADERS or TENSORRT_ROOT name. The kernels behind the plugins are the CPU twin.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.plugin_probe import Probe, build_abi_checks
from helpers.plugin_run import check_every_operator
from helpers.tensorrt_runtimes import headers_of, major_of, runtime_libraries

from algm_trt.plugins.spec import OPS


@pytest.mark.parametrize("library", runtime_libraries() or [None], ids=str)
def test_library_goes_through_the_registry(
    library: Path | None, tmp_path_factory: pytest.TempPathFactory, twin_library: Path
) -> None:
    if library is None:
        pytest.skip("no TensorRT runtime: pip install tensorrt_lean_cu13_libs, or set ALGM_TENSORRT_LIBS")
    headers = headers_of(library)
    if headers is None:
        pytest.skip(
            f"no headers of TensorRT {major_of(library)} in ALGM_TENSORRT_HEADERS: its registry cannot be called"
        )
    folder = build_abi_checks(tmp_path_factory.mktemp("registry"), headers)
    probe = Probe(folder / "libplugin_probe_nv.so", twin_library, library)
    assert probe.identities == [f"algm::{name}:1 PLUGIN CREATOR_V3ONE 1.0" for name in OPS]
    check_every_operator(probe, "float16", extra_tokens=1)
