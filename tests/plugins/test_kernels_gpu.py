"""The kernels on a GPU against the NumPy reference (rung L4): fresh random inputs, poisoned outputs, odd sizes.

Run alone with `pytest -m gpu tests/plugins/test_kernels_gpu.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import kernel_cases as cases
from helpers.kernels import Array, Kernels

torch = pytest.importorskip("torch", reason="PyTorch holds the device memory of these tests")

pytestmark = pytest.mark.gpu
dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)


@dtypes
@pytest.mark.parametrize("case", [*cases.LOCAL_CASES, cases.LARGE_LOCAL_CASE], ids=str)
def test_local_merge(kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any) -> None:
    x = cases.exact_tokens(rng, (case.batch, case.extra_tokens + case.grid[0] * case.grid[1], case.channels), dtype)
    for threshold in (-2.0, 1 / 3, 1.0, 3.0, np.nan):
        cases.check_local_merge(kernels, case, x, threshold)


@dtypes
@pytest.mark.parametrize("case", cases.LOCAL_CASES[:5], ids=str)
def test_local_merge_of_generic_tokens(
    kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any
) -> None:
    cases.check_local_merge(kernels, case, cases.generic_grid(rng, case, dtype), 0.3)


@dtypes
@pytest.mark.parametrize(("lengths", "extra", "channels", "patches"), cases.GLOBAL_CASES)
@pytest.mark.parametrize("layer", [1, 9])
def test_global_merge(
    kernels: Kernels,
    rng: np.random.Generator,
    lengths: list[int],
    extra: int,
    channels: int,
    patches: int,
    layer: int,
    dtype: Any,
) -> None:
    inputs = cases.global_inputs(rng, lengths, patches)
    x = cases.exact_tokens(rng, (sum(lengths), channels), dtype)
    cases.check_global_merge(kernels, x, inputs, layer, extra)
    x = cases.generic_images(rng, lengths, channels, extra, layer, dtype)
    cases.check_global_merge(kernels, x, inputs, layer, extra)


@dtypes
def test_global_merge_of_a_long_image(kernels: Kernels, rng: np.random.Generator, dtype: Any) -> None:
    lengths, extra, channels, patches = cases.LONG_GLOBAL_CASE
    x = cases.exact_tokens(rng, (sum(lengths), channels), dtype)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, patches), 5, extra)


@dtypes
@pytest.mark.parametrize("length", [2305, 4301])
def test_global_merge_in_every_tile(kernels: Kernels, rng: np.random.Generator, length: int, dtype: Any) -> None:
    x = cases.tokens_of_every_tile(rng, length, dtype)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, [length], 50), 5, 1)


@dtypes
@pytest.mark.parametrize("depth", cases.HEAD_DIMENSIONS)
@pytest.mark.parametrize(("lengths", "heads"), [*cases.ATTENTION_CASES, ([1025, 613, 7], 3), ([2305], 2)])
def test_attention(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], heads: int, depth: int, dtype: Any
) -> None:
    cu_seqlens = cases.cumulative(lengths)
    qkv = (2 * rng.standard_normal((cu_seqlens[-1], 3 * heads * depth))).astype(dtype)
    cases.check_attention(kernels, qkv, cu_seqlens, heads, _torch_attention(qkv, lengths, heads))


@dtypes
@pytest.mark.parametrize("lengths", [[3], [4, 3, 7], list(range(3, 73))])
@pytest.mark.parametrize(("channels", "appended"), [(1, 5), (13, 150), (384, 2), (1100, 1)])
@pytest.mark.parametrize("drop", [0, 1, 2])
def test_append_tokens_and_unmerge(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], channels: int, appended: int, drop: int, dtype: Any
) -> None:
    cases.check_append_and_unmerge(kernels, rng, lengths, channels, appended, drop, dtype)


@dtypes
@pytest.mark.parametrize("case", [*cases.LABEL_CASES, (2, (32, 32), 150, (512, 512))], ids=str)
def test_labels(kernels: Kernels, rng: np.random.Generator, case: Any, dtype: Any) -> None:
    cases.check_labels(kernels, cases.label_logits(rng, case, dtype), case[-1])


@dtypes
@pytest.mark.parametrize("operator", ["local", "global", "attention", "labels"])
def test_a_second_run_gives_the_same_bits(
    kernels: Kernels, rng: np.random.Generator, operator: str, dtype: Any
) -> None:
    lengths = [613, 77, 1025]
    runs: dict[str, Callable[[], list[Array]]] = {}
    grid = rng.standard_normal((3, 1025, 384)).astype(dtype)
    runs["local"] = lambda: _fields(kernels.local_merge(grid, 0.0, grid=(32, 32), window=(2, 2)))
    x = cases.generic_images(rng, lengths, 384, 1, 5, dtype)
    inputs = cases.global_inputs(rng, lengths, 1024)
    runs["global"] = lambda: _fields(kernels.global_merge(x, *inputs, layer=5))
    qkv = np.tile(x, 3)
    runs["attention"] = lambda: [kernels.packed_attention(qkv, inputs[1], heads=6)]
    logits = rng.standard_normal((2, 32, 32, 150)).astype(dtype)
    runs["labels"] = lambda: [kernels.labels(logits, (512, 512))]
    first = runs[operator]()
    for _ in range(3):
        for ours, theirs in zip(runs[operator](), first, strict=True):
            assert ours.tobytes() == theirs.tobytes()


def _fields(merged: Any) -> list[Array]:
    return [merged.y, merged.sizes, merged.cu_seqlens, merged.token_map]


def _torch_attention(qkv: Array, lengths: list[int], heads: int) -> Array:
    """Attention by PyTorch's plain operations on the device, everything in the input's type."""
    images = []
    for rows in torch.from_numpy(qkv).cuda().split(lengths):
        q, k, v = rows.reshape(len(rows), 3, heads, -1).permute(1, 2, 0, 3)
        weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1)
        images.append((weights @ v).transpose(0, 1).reshape(len(rows), -1))
    return torch.cat(images).cpu().numpy()
