"""The kernels as nvcc compiles them, run on a CPU: their PTX, translated by helpers/ptx, against the NumPy reference.

The CPU twin (test_cpu_twin.py) runs the kernels' C++. Here the rest is seen: CUDA's own headers and CUB, the compiler,
inline assembly with its operands, the layout of shared memory, fused multiply-adds. Buffers are guarded and poisoned as
there; every access is checked for alignment, shared memory for its bounds, and races are searched.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import kernel_cases as cases
from helpers import slide_cases
from helpers.kernels import HostMemory, Kernels
from helpers.ptx.library import compile_ptx_twin
from helpers.races import WatchedKernels
from helpers.slide_cases import SlideCase
from helpers.twin import multiprocessors_with

from algm_trt.plugins.build import find_nvcc
from algm_trt.plugins.errors import AlgmError

# By compute capability the seed of the schedule: warps greedy; greedy, backwards and asynchronous copies at once. Up to
# 9.0 and from 10.0 on, nvcc has two compilers.
SCHEDULES = {80: 2, 120: 7}
dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)


@pytest.fixture(scope="module", params=SCHEDULES)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The compiled library and the seed of its schedule."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler: the kernels' PTX cannot be run on the CPU")
    try:
        nvcc = find_nvcc()
    except AlgmError as error:
        pytest.skip(str(error))
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    if f"compute_{request.param}" not in known:
        pytest.skip(f"{nvcc} does not compile for compute capability {request.param / 10}")
    return compile_ptx_twin(tmp_path_factory.mktemp("ptx"), nvcc, request.param), SCHEDULES[request.param]


@pytest.fixture
def kernels(library: tuple[Path, int]) -> Kernels:
    path, seed = library
    kernels = Kernels(path, HostMemory())
    kernels.library.algm_twin_set_seed(seed)
    return kernels


@pytest.fixture
def watched(library: tuple[Path, int]) -> WatchedKernels:
    """Kernels none of whose calls may have a race; their asynchronous copies last until the wait."""
    kernels = WatchedKernels(library[0])
    kernels.library.algm_twin_set_seed(2)
    return kernels


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261129)


@dtypes
@pytest.mark.parametrize("case", cases.LOCAL_CASES, ids=str)
def test_local_merge(kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any) -> None:
    x = cases.exact_tokens(rng, (case.batch, case.extra_tokens + case.grid[0] * case.grid[1], case.channels), dtype)
    for threshold in (1 / 3, 1.0, np.nan):
        cases.check_local_merge(kernels, case, x, threshold)


@dtypes
@pytest.mark.parametrize("case", cases.LOCAL_CASES[:4], ids=str)
def test_local_merge_of_generic_tokens(
    kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any
) -> None:
    cases.check_local_merge(kernels, case, cases.generic_grid(rng, case, dtype), 0.3)


@dtypes
@pytest.mark.parametrize(("lengths", "extra", "channels", "patches"), cases.GLOBAL_CASES)
def test_global_merge(
    kernels: Kernels,
    rng: np.random.Generator,
    lengths: list[int],
    extra: int,
    channels: int,
    patches: int,
    dtype: Any,
) -> None:
    x = cases.exact_tokens(rng, (sum(lengths), channels), dtype)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, patches), 9, extra)


@dtypes
@pytest.mark.parametrize(("lengths", "extra", "channels", "patches"), cases.GLOBAL_CASES[:-1])
def test_global_merge_of_generic_tokens(
    kernels: Kernels,
    rng: np.random.Generator,
    lengths: list[int],
    extra: int,
    channels: int,
    patches: int,
    dtype: Any,
) -> None:
    x = cases.generic_images(rng, lengths, channels, extra, 9, dtype)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, patches), 9, extra)


def test_global_merge_of_a_long_image(kernels: Kernels, rng: np.random.Generator) -> None:
    lengths, extra, channels, patches = cases.LONG_GLOBAL_CASE
    x = cases.exact_tokens(rng, (sum(lengths), channels), np.float32)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, patches), 5, extra)


@pytest.mark.parametrize(("lengths", "channels"), [([130, 7, 257, 64, 65], 72), ([300, 9, 515], 264)])
def test_global_merge_where_shared_memory_is_short(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], channels: int
) -> None:
    inputs = cases.global_inputs(rng, lengths, 20)
    x = cases.generic_images(rng, lengths, channels, 1, 9, np.float16)
    with multiprocessors_with(100, kernels.library):
        cases.check_global_merge(kernels, x, inputs, 9, 1)


@dtypes
@pytest.mark.parametrize("depth", cases.HEAD_DIMENSIONS)
@pytest.mark.parametrize(("lengths", "heads"), cases.ATTENTION_CASES)
def test_attention(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], heads: int, depth: int, dtype: Any
) -> None:
    cu_seqlens = cases.cumulative(lengths)
    qkv = (2 * rng.standard_normal((cu_seqlens[-1], 3 * heads * depth))).astype(dtype)
    plain = None if dtype == np.float16 else cases.half_attention(qkv, cu_seqlens, heads)
    cases.check_attention(kernels, qkv, cu_seqlens, heads, plain)


@dtypes
@pytest.mark.parametrize("lengths", [[4, 3, 7], list(range(3, 37))])
@pytest.mark.parametrize(("channels", "appended"), [(13, 150), (384, 2), (1100, 1)])
def test_append_tokens_and_unmerge(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], channels: int, appended: int, dtype: Any
) -> None:
    cases.check_append_and_unmerge(kernels, rng, lengths, channels, appended, 1, dtype)


@dtypes
@pytest.mark.parametrize("case", cases.LABEL_CASES, ids=str)
def test_labels(kernels: Kernels, rng: np.random.Generator, case: Any, dtype: Any) -> None:
    cases.check_labels(kernels, cases.label_logits(rng, case, dtype), case[-1])


@pytest.mark.parametrize("case", slide_cases.CUT_CASES, ids=str)
def test_cut_windows(kernels: Kernels, rng: np.random.Generator, case: Any) -> None:
    slide_cases.check_cut_windows(kernels, rng, case)


@dtypes
@pytest.mark.parametrize("case", slide_cases.SLIDE_CASES, ids=str)
def test_slide_labels(kernels: Kernels, rng: np.random.Generator, case: SlideCase, dtype: Any) -> None:
    slide_cases.check_slide_labels(kernels, case, slide_cases.noise(rng, case, dtype))
    slide_cases.check_slide_labels(kernels, case, slide_cases.regions(rng, case, dtype))


@dtypes
def test_garbage_stays_inside_the_buffers(kernels: Kernels, rng: np.random.Generator, dtype: Any) -> None:
    tokens, channels = 97, 32
    for most in (3, 60, 2**20):
        x = rng.standard_normal((tokens, channels)).astype(dtype)
        x[rng.integers(0, tokens, 5)] = rng.choice([np.nan, np.inf, -np.inf, 0])
        cu_seqlens = rng.integers(-(2**31), 2**31, 5).astype(np.int32)
        sizes = rng.integers(-(2**31), 2**31, tokens).astype(np.int32)
        token_map = rng.integers(-(2**31), 2**31, (4, 50)).astype(np.int32)
        merged = kernels.global_merge(x, sizes, cu_seqlens, token_map, layer=1, max_tokens=most, checked=False)
        assert 0 <= merged.count <= tokens
        kernels.packed_attention(np.tile(x, 3), cu_seqlens, heads=1, max_tokens=most)
        kernels.append_tokens(x, cu_seqlens, x[:7], drop=2)
        kernels.unmerge(x, cu_seqlens, token_map, appended=9, drop=1)
        kernels.labels(x.reshape(1, 1, tokens, channels), (13, 200))
        kernels.local_merge(x[None], np.inf, grid=(6, 16), window=(2, 2))


@dtypes
def test_merges_have_no_races(watched: WatchedKernels, rng: np.random.Generator, dtype: Any) -> None:
    for case in (cases.LocalCase(2, (6, 6), (3, 3), 7), cases.LocalCase(2, (12, 14), (2, 2), 16)):
        x = cases.exact_tokens(rng, (case.batch, 1 + case.grid[0] * case.grid[1], case.channels), dtype)
        cases.check_local_merge(watched, case, x, 1 / 3)
    for lengths, channels in ([9, 264], 8), ([6, 131], 72), ([1050], 8):
        x = cases.exact_tokens(rng, (sum(lengths), channels), dtype)
        cases.check_global_merge(watched, x, cases.global_inputs(rng, lengths, 9), 3, 1)


@pytest.mark.parametrize(("dtype", "depth"), [(np.float32, 32), (np.float16, 32), (np.float16, 80)])
def test_attention_has_no_races(watched: WatchedKernels, rng: np.random.Generator, dtype: Any, depth: int) -> None:
    watched.packed_attention(rng.standard_normal((131, 3 * depth)).astype(dtype), cases.cumulative([130, 1]), heads=1)


@dtypes
def test_other_kernels_have_no_races(watched: WatchedKernels, rng: np.random.Generator, dtype: Any) -> None:
    cases.check_append_and_unmerge(watched, rng, [4, 3, 7], 13, 150, 1, dtype)
    cases.check_labels(watched, cases.label_logits(rng, (2, (3, 2), 19, (29, 11)), dtype), (29, 11))
    case = SlideCase((23, 31), (16, 16), 11, 4, 11)
    slide_cases.check_slide_labels(watched, case, slide_cases.noise(rng, case, dtype))


def test_every_kernel_has_a_case(kernels: Kernels, rng: np.random.Generator) -> None:
    for dtype in cases.DTYPES:
        for local in cases.LOCAL_CASES:
            x = np.ones((local.batch, 1 + local.grid[0] * local.grid[1], local.channels), dtype)
            kernels.local_merge(x, 0.5, grid=local.grid, window=local.window)
        for channels in (8, 13, 776):
            x, inputs = cases.exact_tokens(rng, (9, channels), dtype), cases.global_inputs(rng, [9], 5)
            kernels.global_merge(x, *inputs, layer=1)
            with multiprocessors_with(100, kernels.library):
                kernels.global_merge(x, *inputs, layer=1)
            cases.check_append_and_unmerge(kernels, rng, [3], channels, 1, 0, dtype)
        for depth in cases.HEAD_DIMENSIONS:
            kernels.packed_attention(np.ones((1, 3 * depth), dtype), cases.cumulative([1]), heads=1)
        for label_case in cases.LABEL_CASES:
            kernels.labels(cases.label_logits(rng, label_case, dtype), label_case[-1])
        for slide in slide_cases.SLIDE_CASES[:8]:
            slide_cases.slide_labels(kernels, slide, slide_cases.noise(rng, slide, dtype))
    slide_cases.check_cut_windows(kernels, rng, slide_cases.CUT_CASES[1])
    kernels.library.algm_ptx_kernels_not_run.restype = ctypes.c_char_p
    assert kernels.library.algm_ptx_kernels_not_run().decode() == ""
