"""Plugin objects on a GPU (rung L5): created, stored, re-created, attached and enqueued with the real kernels.

Once with the library opened directly, and once through the registry of every TensorRT runtime library at hand; see
`helpers.tensorrt_runtimes` for how to name them. The library under test is the one that
`algm_trt.plugins.library` finds. Run alone with `pytest -m gpu tests/plugins/test_plugins_gpu.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.plugin_probe import Probe, build_abi_checks
from helpers.plugin_run import check_every_operator
from helpers.tensorrt_runtimes import headers_of, major_of, runtime_libraries

from algm_trt.plugins.spec import OPS

if TYPE_CHECKING:
    from helpers.device import DeviceMemory

torch = pytest.importorskip("torch", reason="PyTorch holds the device memory of these tests")

pytestmark = pytest.mark.gpu
DIRECTLY = Path("no registry")


@pytest.fixture(scope="module", params=[DIRECTLY, *(runtime_libraries() or [None])], ids=str)
def probe(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    plugin_library: Path,
    device_memory: DeviceMemory,
) -> Probe:
    """The plugin library behind one registry, or behind none."""
    torch.zeros(1, device="cuda")  # the context in which plugins will run
    if request.param is None:
        pytest.skip("no TensorRT runtime: pip install tensorrt_lean_cu13_libs, or set ALGM_TENSORRT_LIBS")
    folder = tmp_path_factory.mktemp("probe")
    if request.param == DIRECTLY:
        return Probe(build_abi_checks(folder) / "libplugin_probe.so", plugin_library)
    headers = headers_of(request.param)
    if headers is None:
        pytest.skip(f"no headers of TensorRT {major_of(request.param)} in ALGM_TENSORRT_HEADERS")
    library = build_abi_checks(folder, headers) / "libplugin_probe_nv.so"
    return Probe(library, plugin_library, request.param)


def test_every_operator_is_there(probe: Probe) -> None:
    assert probe.identities == [f"algm::{name}:1 PLUGIN CREATOR_V3ONE 1.0" for name in OPS]


@pytest.mark.parametrize("activation", ["float32", "float16"])
@pytest.mark.parametrize("extra_tokens", [1, 2])
def test_every_operator_equals_the_reference(
    probe: Probe, device_memory: DeviceMemory, activation: str, extra_tokens: int
) -> None:
    check_every_operator(probe, activation, extra_tokens, device_memory)


@pytest.mark.parametrize("activation", ["float32", "float16"])
def test_on_a_stream_of_its_own(probe: Probe, device_memory: DeviceMemory, activation: str) -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        check_every_operator(probe, activation, 1, device_memory)
