"""Races that a CPU run cannot feel: every load and store of the kernels, with the barriers between them.

The twin hands over from thread to thread at every collective, shuffles included, so that a missing barrier may give the
right result on the CPU and a wrong one on a device. Here plugins/native/cpu_twin/races.cpp looks at the accesses.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import kernel_cases as cases
from helpers import slide_cases
from helpers.kernels import Kernels
from helpers.races import WatchedKernels, WatchedMemory
from helpers.slide_cases import SlideCase
from helpers.twin import compile_race_twin, multiprocessors_with

FAULTY = """
#include "cuda_on_cpu.h"

// Each thread writes one element and reads its right neighbour's.
static void neighbours(int* out, bool block, bool warp, bool shuffle) {
  __shared__ int shared[64];
  shared[threadIdx.x] = 7;
  if (block) __syncthreads();
  if (warp) __syncwarp();
  if (shuffle) __shfl_xor_sync(~0u, 1, 1);
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

static void oneForAll(int* out, bool same) { out[0] = same ? 5 : int(threadIdx.x + blockIdx.x); }

static void unwritten(int* out, bool written) {
  __shared__ int shared[1];
  if (written) shared[0] = 1;
  out[threadIdx.x] = shared[0];
}

static void across(int* out, bool own) { out[blockIdx.x] = out[own ? blockIdx.x : blockIdx.x ^ 1] + 1; }

extern "C" __attribute__((visibility("default"))) void run(const char* kernel, int* out) {
  const auto is = [kernel](const char* name) { return std::strcmp(kernel, name) == 0; };
  const auto start = [&](int blocks, int threads, auto body) { twin::run(dim3(blocks), dim3(threads), 0, body); };
  if (is("barrier")) start(1, 64, [&] { neighbours(out, true, false, false); });
  if (is("no barrier")) start(1, 64, [&] { neighbours(out, false, false, false); });
  if (is("warp barrier, two warps")) start(1, 64, [&] { neighbours(out, false, true, false); });
  if (is("warp barrier")) start(1, 32, [&] { neighbours(out, false, true, false); });
  if (is("shuffle")) start(1, 32, [&] { neighbours(out, false, false, true); });
  if (is("same value")) start(2, 32, [&] { oneForAll(out, true); });
  if (is("other values")) start(1, 2, [&] { oneForAll(out, false); });
  if (is("other values, blocks")) start(2, 1, [&] { oneForAll(out, false); });
  if (is("written")) start(2, 1, [&] { unwritten(out, true); });
  if (is("unwritten")) start(1, 1, [&] { unwritten(out, false); });
  if (is("own place")) start(2, 1, [&] { across(out, true); });
  if (is("place of another block")) start(2, 1, [&] { across(out, false); });
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, twin_library: Path) -> Path:
    return compile_race_twin(tmp_path_factory.mktemp("races"))


@pytest.fixture
def kernels(library: Path) -> Kernels:
    kernels = WatchedKernels(library)
    kernels.library.algm_twin_set_seed(2)  # shuffled; asynchronous copies last from their start to their wait
    return kernels


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)


dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)


@dtypes
@pytest.mark.parametrize(
    "case",
    [
        cases.LocalCase(2, (6, 6), (3, 3), 7),
        cases.LocalCase(2, (12, 14), (2, 2), 16),
        cases.LocalCase(34, (2, 4), (2, 2), 8),
        cases.LocalCase(1, (4, 280), (2, 2), 4),
    ],
    ids=str,
)
def test_local_merge_has_no_races(
    kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any
) -> None:
    x = cases.exact_tokens(rng, (case.batch, 1 + case.grid[0] * case.grid[1], case.channels), dtype)
    cases.check_local_merge(kernels, case, x, 1 / 3)


@dtypes
@pytest.mark.parametrize(("lengths", "channels"), [([9, 264], 8), ([6, 131], 72), ([9], 5)])
def test_global_merge_has_no_races(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], channels: int, dtype: Any
) -> None:
    x = cases.exact_tokens(rng, (sum(lengths), channels), dtype)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, 9), 3, 1)


@pytest.mark.parametrize(("lengths", "channels"), [([9, 264], 8), ([6, 131], 72)])
def test_global_merge_has_no_races_where_shared_memory_is_short(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], channels: int
) -> None:
    x = cases.exact_tokens(rng, (sum(lengths), channels), np.float16)
    with multiprocessors_with(100, kernels.library):
        cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, 9), 3, 1)


@dtypes
@pytest.mark.parametrize("depth", [32, 80])
def test_attention_has_no_races(kernels: Kernels, rng: np.random.Generator, depth: int, dtype: Any) -> None:
    cu_seqlens = cases.cumulative([130, 1, 65])
    kernels.packed_attention(rng.standard_normal((196, 3 * depth)).astype(dtype), cu_seqlens, heads=1)


@dtypes
def test_append_tokens_and_unmerge(kernels: Kernels, rng: np.random.Generator, dtype: Any) -> None:
    cases.check_append_and_unmerge(kernels, rng, [4, 3, 7], 13, 150, 1, dtype)


@dtypes
@pytest.mark.parametrize("case", [(2, (3, 2), 19, (29, 11)), (1, (2, 2), 300, (4, 5))], ids=str)
def test_labels_have_no_races(kernels: Kernels, rng: np.random.Generator, case: Any, dtype: Any) -> None:
    cases.check_labels(kernels, cases.label_logits(rng, case, dtype), case[-1])


@dtypes
@pytest.mark.parametrize(
    "case", [SlideCase((23, 31), (16, 16), 11, 4, 11), SlideCase((17, 9), (16, 16), 3, 8, 260)], ids=str
)
def test_slide_labels_have_no_races(kernels: Kernels, rng: np.random.Generator, case: SlideCase, dtype: Any) -> None:
    logits = slide_cases.noise(rng, case, dtype)
    slide_cases.check_slide_labels(kernels, case, logits)
    logits[0] = np.nan
    slide_cases.slide_labels(kernels, case, logits)


def test_cut_windows_has_no_races(kernels: Kernels, rng: np.random.Generator) -> None:
    canvas = rng.integers(0, 256, (9, 37, 3), np.uint8)
    kernels.cut_windows(canvas, np.array([[0, 1], [2, 17]], np.int32), (7, 20), offsets=(1, 5))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, twin_library: Path) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.cu").write_text(FAULTY)
    return ctypes.CDLL(str(compile_race_twin(folder, [folder / "faulty.cu"])))


@pytest.mark.parametrize(
    ("kernel", "has_races"),
    [
        ("barrier", False),
        ("no barrier", True),
        ("warp barrier, two warps", True),
        ("warp barrier", False),
        ("shuffle", True),
        ("same value", False),
        ("other values", True),
        ("other values, blocks", True),
        ("written", False),
        ("unwritten", True),
        ("own place", False),
        ("place of another block", True),
    ],
)
def test_races_are_found(faulty: ctypes.CDLL, kernel: str, has_races: bool) -> None:
    memory = WatchedMemory(faulty)
    out = memory.put(np.full(64, -7, np.int32))
    faulty.run(kernel.encode(), ctypes.c_void_p(out.address))
    assert (faulty.algm_twin_races() > 0) == has_races
