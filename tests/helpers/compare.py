"""Compare two implementations of an operator, and measure how close a merge came to deciding otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import reference, spec

Array = NDArray[Any]
Doubles = NDArray[np.float64]

# Two float32 computations of one similarity differ by about 2e-7; a decision that is clearer than this is the same.
CLEAR = 1e-5
# What two roundings of the same real number may differ by: (relative, absolute).
TOLERANCE = {"float32": (1e-5, 1e-5), "float16": (2e-3, 2e-3)}

_TIE = 1e-12


def assert_outputs_match(
    op: spec.OpSpec, actual: Sequence[Array], expected: Sequence[Array], magnifies: float = 1.0
) -> None:
    """Shapes, types and integers are equal, floats agree within `magnifies` times the `TOLERANCE` of their type."""
    assert len(actual) == len(expected)
    for tensor, value, wanted in zip(op.outputs, actual, expected, strict=False):
        assert value.shape == wanted.shape, f"{op.name}.{tensor.name}: {value.shape}, expected {wanted.shape}"
        assert value.dtype == wanted.dtype, f"{op.name}.{tensor.name}: {value.dtype}, expected {wanted.dtype}"
        if wanted.dtype.kind == "f":
            relative, absolute = (magnifies * share for share in TOLERANCE[str(wanted.dtype)])
            np.testing.assert_allclose(
                value.astype(np.float64),
                wanted.astype(np.float64),
                rtol=relative,
                atol=absolute,
                err_msg=f"{op.name}.{tensor.name}",
            )
        else:
            np.testing.assert_array_equal(value, wanted, err_msg=f"{op.name}.{tensor.name}")


def assert_same_bits(actual: Array, expected: Array, what: str = "") -> None:
    """Equal shapes, types and bytes: not even the sign of a zero differs."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    if actual.tobytes() != expected.tobytes():
        differs = actual != expected
        worst = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
        raise AssertionError(f"{what}: {differs.sum()} of {differs.size} values differ, by at most {worst:.3g}")


def local_margin(
    x: Array, threshold: float, grid: tuple[int, int], window: tuple[int, int], extra_tokens: int
) -> float:
    """Smallest distance of a local merge of x (B, E+N0, C) from deciding otherwise, in units of similarity.

    Looks at windows near the threshold and at neighbours in the order of the merged ones. Exact ties do not count.
    """
    members = reference.window_members(grid, window)
    count = members.shape[1]
    units = _unit_rows(x[:, extra_tokens:])
    similarity = (np.square(units[:, members].sum(axis=2)).sum(axis=-1) - count) / (count * (count - 1))
    similarity = similarity[np.isfinite(similarity).all(axis=1)]
    margins = [np.inf]
    for sims in similarity:
        gaps = np.diff(np.sort(sims[sims >= threshold]))
        margins += [float(np.abs(sims - threshold).min()), float(gaps[gaps > _TIE].min(initial=np.inf))]
    return min(margins)


def global_margin(x: Array, cu_seqlens: Array, layer: int, extra_tokens: int) -> float:
    """Smallest distance of a global merge of packed x (T, C) from deciding otherwise, in units of similarity.

    Looks at tokens near the image's threshold and at the runner-up of every chosen destination. Exact ties between
    destinations do not count; nor does a threshold that all tokens of an image lie exactly on.
    """
    margins = [np.inf]
    for start, stop in pairwise(cu_seqlens):
        units = _unit_rows(x[start:stop])
        a, b = units[2::2], units[1::2][extra_tokens - 1 :]
        if len(a) < 2 or len(b) < 1:
            continue
        similarity = np.sort(a @ b.T, axis=1)
        best = similarity[:, -1]
        if np.ptp(best) > _TIE:
            limit = best.mean() + best.std(ddof=1) / layer
            margins.append(float(np.abs(best - limit).min()))
            gaps = np.diff(similarity[best >= limit - CLEAR], axis=1)[:, -1:]
            margins.append(float(gaps[gaps > _TIE].min(initial=np.inf)))
    return min(margins)


def label_margins(logits: Array, size: tuple[int, int]) -> Doubles:
    """Difference of the two best classes of every pixel, (B, H, W) float64; infinite where there is one class."""
    rows = reference.bilinear_matrix(logits.shape[1], size[0]).astype(np.float64)
    columns = reference.bilinear_matrix(logits.shape[2], size[1])
    full = np.einsum("yi,xj,bijk->byxk", rows, columns, logits.astype(np.float64), optimize=True)
    if full.shape[-1] == 1:
        return np.full(full.shape[:-1], np.inf)
    best = np.partition(full, -2, axis=-1)
    return np.asarray(best[..., -1] - best[..., -2])


def _unit_rows(x: Array) -> Doubles:
    rows = x.astype(np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))
