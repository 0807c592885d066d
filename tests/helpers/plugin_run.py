"""Runs plugin objects against the NumPy reference: on host memory with the CPU twin of the kernels, or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from helpers.kernels import HostMemory, Memory
from helpers.plugin_probe import FLOAT, HALF, INT32, Plugin, Probe
from numpy.typing import NDArray

from algm_trt.plugins import reference

Array = NDArray[Any]
TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.float16): HALF, np.dtype(np.int32): INT32}


def run(
    probe: Probe, op: str, attributes: dict[str, Any], inputs: Sequence[Array], memory: Memory | None = None
) -> list[Array]:
    """Outputs of one operator, made the way an engine does it: build, store, load, attach, enqueue.

    Without a memory it is guarded host memory: a kernel that leaves its buffers ends the process.
    """
    built = probe.create(op, attributes)
    assert built is not None
    shapes, types = [array.shape for array in inputs], [TYPES[array.dtype] for array in inputs]
    described, kinds = built.output_shapes(shapes), built.output_types(types)
    assert described is not None
    assert kinds is not None
    assert built.configure(shapes, types)
    plugin = built.recreate().attach()
    assert plugin.shape_change(shapes, types)
    return _enqueue(plugin, inputs, described.shapes, kinds, built.workspace(shapes, types), memory or HostMemory())


def _enqueue(
    plugin: Plugin,
    inputs: Sequence[Array],
    shapes: Sequence[tuple[int, ...]],
    kinds: Sequence[int],
    workspace: int,
    memory: Memory,
) -> list[Array]:
    dtypes = {number: dtype for dtype, number in TYPES.items()}
    buffers = [memory.put(np.ascontiguousarray(array)) for array in inputs]
    poisoned = [memory.put(np.full(shape, -7, dtypes[kind])) for shape, kind in zip(shapes, kinds, strict=True)]
    scratch = memory.put(np.full(max(workspace, 1), 0xFF, np.uint8))
    status = plugin.enqueue(
        [array.shape for array in inputs],
        [TYPES[array.dtype] for array in inputs],
        [buffer.address for buffer in buffers],
        [buffer.address for buffer in poisoned],
        scratch.address,
        memory.stream,
    )
    assert status == 0
    return [buffer.array() for buffer in poisoned]


def close(found: Array, expected: Array) -> None:
    """Equal but for the rounding of the activations' type and another order of float32 sums."""
    tolerance = 2e-3 if found.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), tolerance, tolerance)


def tokens(activation: str, *shape: int, seed: int = 0) -> Array:
    """Random tokens with neighbours alike, so that some merge and some do not."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.standard_normal(shape) * rng.choice([0.05, 1.0], (*shape[:-1], 1)), axis=-2)
    return smooth.astype(activation)


def merged(found: list[Array], expected: reference.Merged) -> None:
    y, sizes, cu_seqlens, token_map, count = found
    assert int(count) == int(expected.count)
    np.testing.assert_array_equal(cu_seqlens, expected.cu_seqlens)
    np.testing.assert_array_equal(token_map, expected.token_map)
    np.testing.assert_array_equal(sizes[: int(count)], expected.sizes)
    close(y[: int(count)], expected.y)
    assert (y[int(count) :] == -7).all(), "rows beyond the count were written"


def check_every_operator(probe: Probe, activation: str, extra_tokens: int, memory: Memory | None = None) -> None:
    """Three unlike images through every plugin; each gets the reference's result of the one before."""

    def found_by(op: str, attributes: dict[str, Any], inputs: Sequence[Array]) -> list[Array]:
        return run(probe, op, attributes, inputs, memory)

    batch, grid, window, channels, classes = 3, (6, 4), (3, 2), 64, 5
    per_image = extra_tokens + grid[0] * grid[1]
    x, threshold = tokens(activation, batch, per_image, channels), 0.8

    local = reference.local_merge(x, threshold, grid=grid, window=window, extra_tokens=extra_tokens)
    attributes = {"grid": list(grid), "window": list(window), "extra_tokens": extra_tokens, "expected_keep": 0.6}
    merged(found_by("AlgmLocalMerge", attributes, [x, np.asarray(threshold, np.float32)]), local)
    assert batch * extra_tokens < int(local.count) < batch * per_image

    packed = [local.y, local.sizes, local.cu_seqlens, local.token_map]
    less = reference.global_merge(*packed, layer=6, extra_tokens=extra_tokens)  # type: ignore[arg-type]
    attributes = {"layer": 6, "extra_tokens": extra_tokens, "max_tokens": per_image, "expected_keep": 0.8}
    merged(found_by("AlgmGlobalMerge", attributes, packed), less)
    assert int(less.count) < int(local.count)

    added = tokens(activation, classes, channels, seed=1)
    y, cu = reference.append_tokens(less.y, less.cu_seqlens, added, drop=extra_tokens)
    found = found_by("AlgmAppendTokens", {"drop": extra_tokens}, [less.y, less.cu_seqlens, added])
    np.testing.assert_array_equal(found[0], y)
    np.testing.assert_array_equal(found[1], cu)

    qkv = np.concatenate([y, y[::-1], y], axis=1) / 4
    qkv = np.ascontiguousarray(qkv.astype(activation))
    attended = reference.packed_attention(qkv, cu, heads=2)
    attributes = {"heads": 2, "max_tokens": per_image + classes}
    close(found_by("AlgmPackedAttention", attributes, [qkv, cu])[0], attended)

    expected = reference.unmerge(y, cu, less.token_map, appended=classes, drop=extra_tokens)
    attributes = {"appended": classes, "drop": extra_tokens}
    for found_part, expected_part in zip(
        found_by("AlgmUnmerge", attributes, [y, cu, less.token_map]), expected, strict=True
    ):
        np.testing.assert_array_equal(found_part, expected_part)

    logits = np.ascontiguousarray(tokens(activation, batch, *grid, 19, seed=2))
    found_labels = found_by("AlgmLabels", {"size": [61, 37]}, [logits])[0]
    assert (found_labels == reference.labels(logits, (61, 37))).mean() > 0.999
