"""Small inputs for every operator, with which an installation checks any implementation against the reference.

Decisions are clear, so that rounding settles none of them: tokens to merge are +1 and -1 in 16 channels, whose lengths
and cosines are exact in float32 and float16, ties included; logits are whole numbers that are enlarged 16 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import reference, spec

Array = NDArray[Any]

_CHANNELS: Final = 16
_HEADS, _DEPTH = 2, 32
_TOLERANCE: Final = {"float32": 1e-5, "float16": 2e-3}
"""Relative and absolute, for two roundings of one number."""


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Attributes:
        name: what is special about it; unique.
        op: the operator.
        inputs: float activations are float32; in the order of `op.inputs`.
        attributes: all but the hint `expected_keep`.
        outputs: number of outputs.
    """

    name: str
    op: spec.OpSpec
    inputs: tuple[Array, ...]
    attributes: Mapping[str, Any]
    outputs: int

    def inputs_as(self, dtype: str) -> tuple[Array, ...]:
        """The inputs with activations as "float32" or "float16"; thresholds stay float32."""
        return tuple(
            value.astype(dtype) if tensor.dtype == "x" else value
            for tensor, value in zip(self.op.inputs, self.inputs, strict=True)
        )

    def expected(self, dtype: str = "float32") -> tuple[Array, ...]:
        """What the NumPy reference says."""
        attributes = {name: value for name, value in self.attributes.items() if name != "max_tokens"}
        found: Any = getattr(reference, _FUNCTIONS[self.op.name])(*self.inputs_as(dtype), **attributes)
        if isinstance(found, reference.Merged):
            return found.y, found.sizes, found.cu_seqlens, found.token_map, found.count
        return (found if isinstance(found, tuple) else (found,))[: self.outputs]

    def complaint(self, actual: Sequence[Array], dtype: str = "float32") -> str | None:
        """What is wrong with the outputs of an implementation, or None.

        Args:
            actual: in the order of `op.outputs`; the merges' cut to the rows in use.
            dtype: of the activations.
        """
        expected = self.expected(dtype)
        if len(actual) != len(expected):
            return f"{self.name}: {len(actual)} outputs, expected {len(expected)}"
        for tensor, value, wanted in zip(self.op.outputs, actual, expected, strict=False):
            if value.shape != wanted.shape:
                return f"{self.name}: {tensor.name} is {value.shape}, expected {wanted.shape}"
            tolerance = _TOLERANCE[dtype] if wanted.dtype.kind == "f" else 0.0
            equal = np.isclose(value.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)
            if not equal.all():
                return f"{self.name}: {int((~equal).sum())} of {equal.size} values of {tensor.name} differ"
        return None


_FUNCTIONS: Final = {
    spec.LOCAL_MERGE.name: "local_merge",
    spec.GLOBAL_MERGE.name: "global_merge",
    spec.PACKED_ATTENTION.name: "packed_attention",
    spec.APPEND_TOKENS.name: "append_tokens",
    spec.UNMERGE.name: "unmerge",
    spec.LABELS.name: "labels",
}
"""Function of each operator in `algm_trt.plugins.reference`, and of the same name in the C interface."""


def make_cases() -> tuple[Case, ...]:
    """All cases, every operator at least once; the same every time."""
    return (
        _local("local merge", 1, batch=3, grid=(6, 10), window=(2, 2), extra=1, threshold=0.1003),
        _local("local merge, window 4x2, two extra tokens", 2, batch=1, grid=(8, 6), window=(4, 2), extra=2),
        _global("global merge", 3, lengths=(57, 2, 40), layer=5, extra=1),
        _global("global merge, two extra tokens", 4, lengths=(33, 20), layer=3, extra=2),
        _attention("attention", 5, lengths=(60, 1, 31)),
        _append("append tokens", 6, lengths=(9, 3, 40), tokens=12, drop=1),
        _unmerge("unmerge", 7, lengths=(30, 14, 15), patches=64, appended=12, drop=1),
        _labels("labels", 8, batch=2, grid=(5, 7), classes=21),
    )


def _signs(random: np.random.Generator, *shape: int) -> Array:
    return (2 * random.integers(0, 2, shape) - 1).astype(np.float32)


def _starts(lengths: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _maps(random: np.random.Generator, lengths: Sequence[int], patches: int, extra: int) -> NDArray[np.int32]:
    return np.stack([random.integers(extra, length, patches) for length in lengths]).astype(np.int32)


def _local(
    name: str,
    seed: int,
    *,
    batch: int,
    grid: tuple[int, int],
    window: tuple[int, int],
    extra: int,
    threshold: float = 0.0203,
) -> Case:
    x = _signs(np.random.default_rng(seed), batch, extra + grid[0] * grid[1], _CHANNELS)
    attributes = {"grid": grid, "window": window, "extra_tokens": extra}
    return Case(name, spec.LOCAL_MERGE, (x, np.array(threshold, np.float32)), attributes, 5)


def _global(name: str, seed: int, *, lengths: tuple[int, ...], layer: int, extra: int) -> Case:
    random = np.random.default_rng(seed)
    starts = _starts(lengths)
    sizes = random.integers(1, 5, starts[-1]).astype(np.int32)
    for start in starts[:-1]:
        sizes[start : start + extra] = 1
    inputs = (_signs(random, starts[-1], _CHANNELS), sizes, starts, _maps(random, lengths, 60, extra))
    attributes = {"layer": layer, "extra_tokens": extra, "max_tokens": max(lengths)}
    return Case(name, spec.GLOBAL_MERGE, inputs, attributes, 5)


def _attention(name: str, seed: int, *, lengths: tuple[int, ...]) -> Case:
    starts = _starts(lengths)
    qkv = np.random.default_rng(seed).standard_normal((starts[-1], 3 * _HEADS * _DEPTH)).astype(np.float32)
    attributes = {"heads": _HEADS, "max_tokens": max(lengths)}
    return Case(name, spec.PACKED_ATTENTION, (qkv, starts), attributes, 1)


def _append(name: str, seed: int, *, lengths: tuple[int, ...], tokens: int, drop: int) -> Case:
    random = np.random.default_rng(seed)
    starts = _starts(lengths)
    x, new = (random.standard_normal((rows, _CHANNELS)).astype(np.float32) for rows in (starts[-1], tokens))
    return Case(name, spec.APPEND_TOKENS, (x, starts, new), {"drop": drop}, 2)


def _unmerge(name: str, seed: int, *, lengths: tuple[int, ...], patches: int, appended: int, drop: int) -> Case:
    random = np.random.default_rng(seed)
    starts = _starts(lengths)
    x = random.standard_normal((starts[-1], _CHANNELS)).astype(np.float32)
    counted = [stop - start + drop - appended for start, stop in pairwise(starts.tolist())]
    attributes = {"appended": appended, "drop": drop}
    return Case(name, spec.UNMERGE, (x, starts, _maps(random, counted, patches, drop)), attributes, 2)


def _labels(name: str, seed: int, *, batch: int, grid: tuple[int, int], classes: int) -> Case:
    logits = np.random.default_rng(seed).integers(0, 9, (batch, *grid, classes)).astype(np.float32)
    return Case(name, spec.LABELS, (logits,), {"size": (16 * grid[0], 16 * grid[1])}, 1)
