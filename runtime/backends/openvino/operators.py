"""The operators of domain `algm` for one picture, made of OpenVINO's own: what the OpenVINO backend converts with.

The function bodies that a model carries serve batches: they pad, mask and pack. For one picture the tokens are the
first rows of one matrix, `cu_seqlens` is [0, tokens], and what depends on the grid alone is computed here, in NumPy.
Semantics are those of `algm_trt.plugins.spec`.

OpenVINO compiles kernels for every number of rows that it meets, 5 to 15 ms for a picture of a ViT-S. So behind a
merge the rows are filled up to a multiple of `BLOCK`: attention leaves out those that are no tokens, and what else
looks across rows takes the tokens alone. Where nothing has merged yet the number of rows is fixed, nothing is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import spec
from algm_trt.plugins.reference import window_members

if TYPE_CHECKING:
    from openvino import Output

END: Final = np.iinfo(np.int64).max
SMALLEST_LENGTH: Final = 1e-12
BELOW_ANY_SIMILARITY: Final = -4.0
BLOCK: Final = 16
"""Rows behind a merge are a multiple of this many."""


def local_merge(x: Output, threshold: Output, *, grid: Sequence[int], window: Sequence[int], extra: int) -> list[Any]:
    """AlgmLocalMerge: x (1, E+N0, C) to y (filled T1, C), sizes (T1), cu_seqlens (2), token_map (1, N0), count ()."""
    from openvino import opset15 as op

    members = window_members((grid[0], grid[1]), (window[0], window[1]))
    windows, size = members.shape
    x = op.squeeze(x, _longs([0]))
    rows = op.gather(op.convert(x, "f32"), _longs(extra + members), _long(0))
    total = op.reduce_sum(_units(rows), _long(1))
    squares = op.reduce_sum(op.multiply(total, total), _long(1))
    similarity = op.divide(op.add(squares, _float(-size)), _float(size * (size - 1)))
    merges = _at_least(similarity, threshold)

    # Merged windows by descending similarity, lower windows first among equals; the others sort behind them.
    key = op.select(merges, similarity, _float(BELOW_ANY_SIMILARITY))
    order = op.topk(key, _long(windows), 0, "max", "value", "i32", stable=True).output(1)
    numbers = _ints(np.arange(windows))
    rank = op.scatter_elements_update(numbers, order, numbers, _long(0))
    merged = op.reduce_sum(op.convert(merges, "i32"), _long(0), True)
    position = op.select(merges, op.add(rank, _int(extra)), _int(-1))
    position_of_patch = op.gather(position, _longs(_window_of_patch(members)), _long(0))
    single = op.less(position_of_patch, _int(0))
    singles_before = op.cumsum(op.convert(single, "i32"), _long(0), exclusive=True)
    behind = op.add(op.add(singles_before, merged), _int(extra))
    token_map = op.select(single, behind, position_of_patch)

    # The pool holds the extra tokens, the means of all windows, and all patches.
    means = op.convert_like(op.divide(op.reduce_sum(rows, _long(1)), _float(size)), x)
    pool = op.concat([_rows(x, 0, extra), means, _rows(x, extra, END)], 0)
    lead = _ints(np.arange(extra))
    chosen = op.add(_rows(order, 0, merged), _int(extra))
    patches = op.add(_where(single), _int(extra + windows))
    source = op.concat([lead, chosen, patches], 0)
    y = op.gather(pool, _filled(source), _long(0))
    sizes = op.gather(_ints(np.repeat([1, size, 1], [extra, windows, windows * size])), source, _long(0))
    return [y, sizes, _cu_seqlens(sizes), op.unsqueeze(token_map, _longs([0])), _count(sizes)]


def global_merge(
    x: Output, sizes: Output, cu_seqlens: Output, token_map: Output, *, layer: int, extra: int
) -> list[Any]:
    """AlgmGlobalMerge: x (filled T1, C), sizes (T1) and token_map (1, N0) to y (filled T2, C) and its own.

    A are the even rows, B the odd ones.
    """
    from openvino import opset15 as op

    rows = op.convert(_tokens(x, cu_seqlens), "f32")
    units = _units(rows)
    similarity = op.matmul(_rows(units, 0, END, 2), _rows(units, 1, END, 2), False, True)
    a, b = _every_second(rows, 0), _every_second(rows, 1)
    can_receive = op.greater_equal(op.unsqueeze(b, _longs([0])), _int(extra - 1))
    similarity = op.select(can_receive, similarity, _float(BELOW_ANY_SIMILARITY))
    best = op.reduce_max(similarity, _long(1), True)
    # The lowest index among the best; one that is not a number has none.
    is_best = op.equal(similarity, best)
    choice = op.reduce_min(op.select(is_best, op.unsqueeze(b, _longs([0])), _int(spec.MAX_TOKENS)), _long(1))
    best = op.squeeze(best, _longs([1]))

    # The picture's own threshold: mean + std / layer over A without the class token.
    candidates = _rows(best, 1, END)
    count = op.convert(op.shape_of(candidates, "i32"), "f32")
    mean = op.divide(op.reduce_sum(candidates, _long(0), True), op.maximum(count, _float(1)))
    deviation = op.subtract(candidates, mean)
    squares = op.reduce_sum(op.multiply(deviation, deviation), _long(0), True)
    variance = op.divide(squares, op.maximum(op.subtract(count, _float(1)), _float(1)))
    limit = op.add(mean, op.divide(op.sqrt(variance), _float(layer)))
    enough = op.logical_and(op.greater(count, _float(1)), op.greater(op.shape_of(b, "i32"), _ints([extra - 1])))
    may_merge = op.logical_and(op.greater(a, _int(0)), enough)
    merges = op.logical_and(may_merge, _at_least(best, limit))

    # New positions: extra tokens, A that stay, B.
    keeps = op.logical_not(merges)
    kept = op.reduce_sum(op.convert(keeps, "i32"), _long(0), True)
    kept_before = op.cumsum(op.convert(keeps, "i32"), _long(0), exclusive=True)
    behind_first = op.select(op.greater(a, _int(0)), _int(extra - 1), _int(0))
    position_a = op.select(merges, op.add(kept, choice), op.add(kept_before, behind_first))
    position_b = op.select(op.less(b, _int(extra - 1)), op.add(b, _int(1)), op.add(kept, b))

    # Size-weighted means: a matrix of ones and zeros adds every source to its destination.
    weights = op.unsqueeze(op.convert(sizes, "f32"), _longs([1]))
    goes_to = op.select(merges, choice, _int(-1))
    joins = op.convert(op.equal(op.unsqueeze(b, _longs([1])), op.unsqueeze(goes_to, _longs([0]))), "f32")
    rows_a, rows_b = _rows(rows, 0, END, 2), _rows(rows, 1, END, 2)
    weights_a, weights_b = _rows(weights, 0, END, 2), _rows(weights, 1, END, 2)
    arrived_weight = op.matmul(joins, weights_a, False, False)
    new_weights_b = op.add(arrived_weight, weights_b)
    sums = op.add(op.multiply(rows_b, weights_b), op.matmul(joins, op.multiply(rows_a, weights_a), False, False))
    new_rows_b = op.select(op.greater(arrived_weight, _float(0)), op.divide(sums, new_weights_b), rows_b)

    # The pool holds all of A, then all of B.
    length_a = op.shape_of(a, "i32")
    staying, second = _where(keeps), op.add(b, length_a)
    lead = [_rows(staying, 0, 1), _rows(second, 0, extra - 1)]
    source = op.concat([*lead, _rows(staying, 1, END), _rows(second, extra - 1, END)], 0)
    y = op.convert_like(op.gather(op.concat([rows_a, new_rows_b], 0), _filled(source), _long(0)), x)
    pool_weights = op.squeeze(op.concat([weights_a, new_weights_b], 0), _longs([1]))
    new_sizes = op.convert(op.gather(pool_weights, source, _long(0)), "i32")
    in_pool = op.add(op.multiply(op.mod(token_map, _int(2)), length_a), op.divide(token_map, _int(2)))
    new_map = op.gather(op.concat([position_a, position_b], 0), in_pool, _long(0))
    return [y, new_sizes, _cu_seqlens(new_sizes), new_map, _count(new_sizes)]


def packed_attention(qkv: Output, cu_seqlens: Output, *, heads: int) -> list[Any]:
    """AlgmPackedAttention: qkv (filled T, 3C) to (filled T, C), in the form that OpenVINO fuses; at least two rows.

    Every picture has two tokens or more. After a run with a single row OpenVINO 2026.4 gives wrong results for others.
    """
    from openvino import opset15 as op

    split = op.reshape(qkv, _longs([1, -1, 3, heads, _static(qkv, 1) // 3 // heads]), False)
    by_head = op.transpose(split, _longs([2, 0, 3, 1, 4]))
    q, k, v = (op.squeeze(part, _longs([0])) for part in op.split(by_head, _long(0), 3).outputs())
    depth = _static(qkv, 1) // 3 // heads
    scale = op.convert_like(_float(depth**-0.5), qkv)
    scores = op.matmul(op.multiply(q, scale), k, False, True)
    if _is_filled(qkv):
        keys = op.range(_int(0), _count(qkv), _int(1), "i32")
        left_out = op.select(op.less(keys, _length(cu_seqlens)), _float(0), _float(-np.inf))
        scores = op.add(scores, op.convert_like(op.unsqueeze(left_out, _longs([0, 1, 2])), scores))
    mixed = op.matmul(op.softmax(scores, -1), v, False, False)
    return [op.reshape(op.transpose(mixed, _longs([0, 2, 1, 3])), _longs([-1, heads * depth]), False)]


def append_tokens(x: Output, cu_seqlens: Output, tokens: Output, *, drop: int) -> list[Any]:
    """AlgmAppendTokens: x (filled T, C) and tokens (K, C) to (filled T - drop + K, C) and its cu_seqlens."""
    from openvino import opset15 as op

    y = op.concat([_rows(op.convert_like(_tokens(x, cu_seqlens), tokens), drop, END), tokens], 0)
    return [_filled(y), _cu_seqlens(y)]


def unmerge(x: Output, cu_seqlens: Output, token_map: Output, *, appended: int, drop: int) -> list[Any]:
    """AlgmUnmerge: x (filled T, C) to the grid (1, N0, C), and to the last tokens (1, appended, C) if there are any."""
    from openvino import opset15 as op

    grid = op.gather(x, op.add(token_map, _int(-drop)), _long(0))
    if not appended:
        return [grid]
    return [grid, op.unsqueeze(_rows(_tokens(x, cu_seqlens), -appended, END), _longs([0]))]


CONVERTERS: Final[Mapping[str, tuple[Callable[..., list[Any]], Mapping[str, str]]]] = {
    spec.LOCAL_MERGE.name: (local_merge, {"grid": "grid", "window": "window", "extra": "extra_tokens"}),
    spec.GLOBAL_MERGE.name: (global_merge, {"layer": "layer", "extra": "extra_tokens"}),
    spec.PACKED_ATTENTION.name: (packed_attention, {"heads": "heads"}),
    spec.APPEND_TOKENS.name: (append_tokens, {"drop": "drop"}),
    spec.UNMERGE.name: (unmerge, {"appended": "appended", "drop": "drop"}),
}
"""The builder of every operator, and its arguments with the attributes that they are."""


def _units(rows: Any) -> Any:
    """Rows divided by their lengths."""
    from openvino import opset15 as op

    lengths = op.maximum(op.reduce_l2(rows, _longs([-1]), True), _float(SMALLEST_LENGTH))
    return op.divide(rows, lengths)


def _at_least(values: Any, limit: Any) -> Any:
    """Values >= limit, and not where either is not a number.

    There OpenVINO's GreaterEqual is true and its LessEqual false on x86-64, the other way round on Arm.
    """
    from openvino import opset15 as op

    return op.logical_and(op.less_equal(limit, values), op.greater_equal(values, limit))


def _rows(x: Any, start: int, stop: Any, step: int = 1) -> Any:
    """Rows of x as a Python slice takes them; `stop` may be a node of shape (1)."""
    from openvino import opset15 as op

    end = _longs([stop]) if isinstance(stop, int) else op.convert(stop, "i64")
    return op.slice(x, _longs([start]), end, _longs([step]), _longs([0]))


def _every_second(x: Any, first: int) -> Any:
    """0, 1, 2, ...: one number for every second row of x, from row `first` on."""
    from openvino import opset15 as op

    return op.range(_int(0), op.divide(op.add(_count(x), _int(1 - first)), _int(2)), _int(1), "i32")


def _where(condition: Any) -> Any:
    """Ascending indices at which a vector is true."""
    from openvino import opset15 as op

    return op.squeeze(op.non_zero(condition, "i32"), _longs([0]))


def _is_filled(x: Any) -> bool:
    """Whether rows behind the tokens may be none: their number is not fixed, something has merged."""
    return bool(x.get_partial_shape()[0].is_dynamic)


def _filled(y: Any) -> Any:
    """Zeros behind the rows of y, up to a multiple of BLOCK; nothing where the number of rows is fixed."""
    from openvino import opset15 as op

    y = y.output(0)
    if not _is_filled(y):
        return y
    first_axis = [1] + [0] * (len(y.get_partial_shape()) - 1)
    # Of positive numbers: OpenVINO 2026.4 gets FloorMod of negative ones wrong in this place.
    surplus = op.mod(op.add(op.shape_of(y, "i32"), _int(BLOCK - 1)), _int(BLOCK))
    missing = op.subtract(_int(BLOCK - 1), surplus)
    ends = op.multiply(missing, _ints(first_axis))
    return op.pad(y, _ints([0] * len(first_axis)), ends, "constant", op.convert_like(_int(0), y))


def _tokens(x: Any, cu_seqlens: Any) -> Any:
    """The rows of x that are tokens."""
    return _rows(x, 0, _length(cu_seqlens)) if _is_filled(x) else x


def _length(cu_seqlens: Any) -> Any:
    """Number of tokens, (1)."""
    return _rows(cu_seqlens, 1, 2)


def _cu_seqlens(y: Any) -> Any:
    from openvino import opset15 as op

    return op.concat([_ints([0]), op.slice(op.shape_of(y, "i32"), _longs([0]), _longs([1]), _longs([1]))], 0)


def _count(y: Any) -> Any:
    from openvino import opset15 as op

    return op.gather(op.shape_of(y, "i32"), _long(0), _long(0))


def _window_of_patch(members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Window that each patch of the grid lies in."""
    window = np.empty(members.size, np.int64)
    window[members] = np.arange(len(members))[:, None]
    return window


def _static(value: Any, axis: int) -> int:
    """A dimension that the model fixes."""
    return int(value.get_partial_shape()[axis].get_length())


def _float(value: float) -> Any:
    from openvino import opset15 as op

    return op.constant(np.float32(value))


def _int(value: int) -> Any:
    from openvino import opset15 as op

    return op.constant(np.int32(value))


def _long(value: int) -> Any:
    from openvino import opset15 as op

    return op.constant(np.int64(value))


def _ints(values: Any) -> Any:
    from openvino import opset15 as op

    return op.constant(np.asarray(values, np.int32))


def _longs(values: Any) -> Any:
    from openvino import opset15 as op

    return op.constant(np.asarray(values, np.int64))
