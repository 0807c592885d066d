"""Bodies of the operators of domain `algm` in standard ONNX operators (opset 20), written in ONNX Script.

They travel inside the model: ONNX Runtime inlines them, so the file runs on a CPU without any library of ours, and a
TensorRT build replaces them with plugins. Semantics are those of `algm_trt.plugins.spec`. House rules of the bodies,
each for a reason that was measured:

- Index arithmetic is int64; similarities, means and sums are float32.
- No NonZero, Compress, Unique or scatter with a reduction (TensorRT-RTX refuses them). Compaction is a scatter of row
  numbers into a buffer, whose last slot takes what is dropped, and a slice.
- No Pad: ONNX Runtime before 1.25 and ONNX 1.17 cannot infer its shape here, where the widths are a constant list.
- Squares over channels are summed by ReduceSum: ONNX Runtime's ReduceL2 and ReduceSumSquare add one after the other.
  Similarities were off by 2.6e-6 at 768 channels, ten times as much as PyTorch's, and near equals swapped their ranks.
- A size that depends on the threshold is the last element of a CumSum: TensorRT's shape analysis stops there.
- Padded lengths are cut from a constant range that `max_tokens` bounds, and are multiples of 64 or 128: sums over
  padded rows then group their terms the same way whatever the batch, so an image has the same bits in any batch.
"""
# mypy: ignore-errors
# ruff: noqa: N802, D103, RET504
# (these functions are ONNX, compiled from their source by onnxscript, and are named like their operators)

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset

from algm_trt.plugins import spec

OPSET_VERSION = 20

FLOAT = onnx.TensorProto.FLOAT
INT32 = onnx.TensorProto.INT32
INT64 = onnx.TensorProto.INT64
BOOL = onnx.TensorProto.BOOL
TO_THE_END = 2**63 - 1

algm = Opset(spec.DOMAIN, spec.VERSION)


@script(algm, default_opset=op)
def AlgmLocalMerge(
    x,
    threshold,
    grid: Sequence[int],
    window: Sequence[int],
    extra_tokens: int,
    expected_keep: float,
    plugin_namespace: str,
    plugin_version: str,
):
    everything = op.Constant(value_ints=[TO_THE_END])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    minus_one = op.Constant(value_ints=[-1])
    extra = op.Reshape(op.Constant(value_int=extra_tokens), one)
    grid_hw = op.Constant(value_ints=grid)
    window_hw = op.Constant(value_ints=window)
    windows_hw = op.Div(grid_hw, window_hw)
    windows_h, windows_w = op.Split(windows_hw, num_outputs=2)
    window_h, window_w = op.Split(window_hw, num_outputs=2)
    window_count = op.ReduceProd(windows_hw, keepdims=1)
    patches = op.ReduceProd(grid_hw, keepdims=1)
    members = op.ReduceProd(window_hw, keepdims=1)
    members_f = op.Cast(members, to=FLOAT)

    # Similarity and mean of every window.
    lead = op.Slice(x, zero, extra, one)
    tokens = op.Slice(x, extra, everything, one)
    window_shape = op.Concat(zero, windows_h, window_h, windows_w, window_w, minus_one, axis=0)
    windows = op.Reshape(op.Cast(tokens, to=FLOAT), window_shape)
    squares = op.ReduceSum(op.Mul(windows, windows), minus_one, keepdims=1)
    units = op.Div(windows, op.Max(op.Sqrt(squares), op.Constant(value_float=1e-12)))
    over_w = op.Constant(value_ints=[4])
    over_h = op.Constant(value_ints=[2])
    total = op.ReduceSum(op.ReduceSum(units, over_w, keepdims=0), over_h, keepdims=0)
    pairs = op.Mul(members_f, op.Sub(members_f, op.Constant(value_float=1.0)))
    square_of_total = op.ReduceSum(op.Mul(total, total), minus_one, keepdims=0)
    similarity_hw = op.Div(op.Sub(square_of_total, members_f), pairs)
    similarity = op.Reshape(similarity_hw, op.Concat(zero, window_count, axis=0))
    summed = op.ReduceSum(op.ReduceSum(windows, over_w, keepdims=0), over_h, keepdims=0)
    means_hw = op.CastLike(op.Div(summed, members_f), x)
    means = op.Reshape(means_hw, op.Concat(zero, window_count, minus_one, axis=0))

    # Which windows merge, and their rank by descending similarity, ties by lower index.
    merges = op.GreaterOrEqual(similarity, threshold)
    merged_so_far = op.CumSum(op.Cast(merges, to=INT64), op.Constant(value_int=1))
    merged_count = op.Slice(merged_so_far, minus_one, everything, one)
    key = op.Where(merges, similarity, op.Constant(value_float=-3.0))
    key_i = op.Unsqueeze(key, op.Constant(value_ints=[2]))
    key_j = op.Unsqueeze(key, one)
    index = op.Range(op.Constant(value_int=0), op.Squeeze(window_count), op.Constant(value_int=1))
    lower = op.Less(op.Unsqueeze(index, zero), op.Unsqueeze(index, one))
    before = op.Or(op.Greater(key_j, key_i), op.And(op.Equal(key_j, key_i), lower))
    rank = op.Cast(op.ReduceSum(op.Cast(before, to=FLOAT), op.Constant(value_ints=[2]), keepdims=0), to=INT64)

    # Where every patch goes, and where every image begins.
    code = op.Where(merges, rank, minus_one)
    code_hw = op.Reshape(code, op.Concat(zero, windows_h, one, windows_w, one, axis=0))
    spread = op.Expand(code_hw, op.Concat(one, one, window_h, one, window_w, axis=0))
    code_of_patch = op.Reshape(spread, op.Concat(zero, patches, axis=0))
    single = op.Less(code_of_patch, op.Constant(value_int=0))
    singles_before = op.CumSum(op.Cast(single, to=INT64), op.Constant(value_int=1), exclusive=1)
    position = op.Add(op.Where(single, op.Add(merged_count, singles_before), code_of_patch), extra)
    unmerged_windows = op.Sub(window_count, merged_count)
    lengths = op.Add(op.Add(merged_count, op.Mul(unmerged_windows, members)), extra)
    ends = op.CumSum(op.Squeeze(lengths, one), op.Constant(value_int=0))
    cu = op.Concat(zero, ends, axis=0)
    starts = op.Unsqueeze(op.Slice(cu, zero, minus_one), one)
    count_1d = op.Slice(cu, minus_one, everything)

    # Compaction: rows of the pool (extra tokens, means, tokens) of all images, in output order.
    pool = op.Concat(lead, means, tokens, axis=1)
    pool_rows = op.Add(op.Add(extra, window_count), patches)
    batch = op.Shape(x, start=0, end=1)
    dropped = op.Mul(batch, pool_rows)
    rank_slot = op.Add(op.Add(starts, extra), rank)
    lead_slots = op.Add(starts, op.Range(op.Constant(value_int=0), op.Squeeze(extra), op.Constant(value_int=1)))
    slots_2d = op.Concat(
        lead_slots,
        op.Where(merges, rank_slot, dropped),
        op.Where(single, op.Add(starts, position), dropped),
        axis=1,
    )
    slots = op.Reshape(slots_2d, minus_one)
    buffer = op.ConstantOfShape(op.Add(dropped, one))
    row_numbers = op.Range(op.Constant(value_int=0), op.Squeeze(dropped), op.Constant(value_int=1))
    placed = op.ScatterElements(op.Cast(buffer, to=INT64), slots, row_numbers)
    bounded = op.Slice(placed, zero, op.Mul(batch, op.Add(extra, patches)))
    source = op.Slice(bounded, zero, count_1d)
    y = op.Gather(op.Flatten(pool, axis=2), source)
    row_in_image = op.Mod(source, pool_rows)
    is_mean = op.And(op.GreaterOrEqual(row_in_image, extra), op.Less(row_in_image, op.Add(extra, window_count)))
    sizes = op.Cast(op.Where(is_mean, members, one), to=INT32)
    cu_seqlens = op.Cast(cu, to=INT32)
    token_map = op.Cast(position, to=INT32)
    count = op.Cast(op.Squeeze(count_1d), to=INT32)
    return y, sizes, cu_seqlens, token_map, count


@script(algm, default_opset=op)
def AlgmGlobalMerge(
    x,
    sizes,
    cu_seqlens,
    token_map,
    layer: int,
    extra_tokens: int,
    max_tokens: int,
    expected_keep: float,
    plugin_namespace: str,
    plugin_version: str,
):
    everything = op.Constant(value_ints=[TO_THE_END])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    minus_one = op.Constant(value_ints=[-1])
    lanes = op.Constant(value_ints=[128])
    extra = op.Reshape(op.Constant(value_int=extra_tokens), one)
    limit = op.Mul(op.Div(op.Add(op.Reshape(op.Constant(value_int=max_tokens), one), 127), lanes), lanes)

    # Unpack to (B, L, C), L a multiple of 128; rows beyond an image repeat its first one and are masked.
    cu = op.Cast(cu_seqlens, to=INT64)
    begins = op.Slice(cu, zero, minus_one)
    lengths = op.Unsqueeze(op.Sub(op.Slice(cu, one, everything), begins), one)
    starts = op.Unsqueeze(begins, one)
    longest = op.ReduceMax(lengths, keepdims=0)
    width = op.Mul(op.Div(op.Add(op.Reshape(longest, one), 127), lanes), lanes)
    every_lane = op.Range(op.Constant(value_int=0), op.Squeeze(limit), op.Constant(value_int=1))
    lane = op.Unsqueeze(op.Slice(every_lane, zero, width), zero)
    valid = op.Less(lane, lengths)
    rows = op.Where(valid, op.Add(starts, lane), starts)
    padded = op.Cast(op.Gather(x, rows), to=FLOAT)
    weights = op.Cast(op.Where(valid, op.Cast(op.Gather(sizes, rows), to=INT64), zero), to=FLOAT)
    squares = op.ReduceSum(op.Mul(padded, padded), minus_one, keepdims=1)
    units = op.Div(padded, op.Max(op.Sqrt(squares), op.Constant(value_float=1e-12)))

    # A = even positions, B = odd positions. The best destination of every A token, ties by lower index.
    similarity_all = op.MatMul(
        op.Slice(units, zero, everything, one, two),
        op.Transpose(op.Slice(units, one, everything, one, two), perm=[0, 2, 1]),
    )
    index = op.Div(op.Slice(lane, zero, everything, one, two), two)
    valid_a = op.Cast(op.Slice(op.Cast(valid, to=INT64), zero, everything, one, two), to=BOOL)
    valid_b = op.Cast(op.Slice(op.Cast(valid, to=INT64), one, everything, one, two), to=BOOL)
    may_receive = op.And(valid_b, op.GreaterOrEqual(index, op.Sub(extra, one)))
    similarity = op.Where(op.Unsqueeze(may_receive, one), similarity_all, op.Constant(value_float=-4.0))
    best = op.ReduceMax(similarity, minus_one, keepdims=0)
    choice = op.ArgMax(similarity, axis=-1, keepdims=0)

    # The image's own threshold: mean + std / layer over its A tokens without the class token.
    may_merge = op.And(valid_a, op.Greater(index, zero))
    present = op.Cast(may_merge, to=FLOAT)
    candidates = op.Sub(op.Div(op.Add(lengths, one), two), one)
    candidates_f = op.Cast(candidates, to=FLOAT)
    one_f = op.Constant(value_float=1.0)
    mean = op.Div(op.ReduceSum(op.Mul(best, present), one, keepdims=1), op.Max(candidates_f, one_f))
    deviation = op.Mul(op.Sub(best, mean), present)
    variance = op.Div(op.ReduceSumSquare(deviation, one, keepdims=1), op.Max(op.Sub(candidates_f, one_f), one_f))
    limit_of_image = op.Add(mean, op.Div(op.Sqrt(variance), op.Cast(op.Constant(value_int=layer), to=FLOAT)))
    possible = op.And(op.Greater(candidates, one), op.Greater(op.Div(lengths, two), op.Sub(extra, one)))
    merges = op.And(op.And(may_merge, possible), op.GreaterOrEqual(best, limit_of_image))

    # Positions in the new order: extra tokens, unmerged A, B.
    keeps = op.Cast(op.And(valid_a, op.Not(merges)), to=INT64)
    kept_before = op.CumSum(keeps, op.Constant(value_int=1), exclusive=1)
    kept_count = op.Slice(op.CumSum(keeps, op.Constant(value_int=1)), minus_one, everything, one)
    second_extra = op.Sub(extra, one)
    behind_first = op.Where(op.Greater(index, zero), second_extra, zero)
    position_b = op.Where(op.Less(index, second_extra), one, op.Add(kept_count, index))
    position_a = op.Where(merges, op.Add(kept_count, choice), op.Add(kept_before, behind_first))
    new_lengths = op.Add(kept_count, op.Div(lengths, two))
    ends = op.CumSum(op.Squeeze(new_lengths, one), op.Constant(value_int=0))
    new_cu = op.Concat(zero, ends, axis=0)
    new_starts = op.Unsqueeze(op.Slice(new_cu, zero, minus_one), one)
    count_1d = op.Slice(new_cu, minus_one, everything)

    # Size-weighted means: a matrix of ones and zeros adds every source to its destination.
    rows_a = op.Slice(padded, zero, everything, one, two)
    rows_b = op.Slice(padded, one, everything, one, two)
    weights_a = op.Slice(weights, zero, everything, one, two)
    weights_b = op.Slice(weights, one, everything, one, two)
    goes_to = op.Where(merges, choice, minus_one)
    joins = op.Equal(op.Unsqueeze(index, two), op.Unsqueeze(goes_to, one))
    incidence = op.Cast(joins, to=FLOAT)
    arrived = op.MatMul(incidence, op.Mul(rows_a, op.Unsqueeze(weights_a, two)))
    arrived_weight = op.ReduceSum(op.Mul(incidence, op.Unsqueeze(weights_a, one)), two, keepdims=0)
    new_weights_b = op.Add(arrived_weight, weights_b)
    sums_b = op.Add(arrived, op.Mul(rows_b, op.Unsqueeze(weights_b, two)))
    means_b = op.Div(sums_b, op.Unsqueeze(op.Max(new_weights_b, one_f), two))
    touched = op.Unsqueeze(op.Greater(arrived_weight, op.Constant(value_float=0.0)), two)
    new_rows_b = op.Where(touched, means_b, rows_b)

    # Compaction, as in the local merge; the pool holds all A rows, then all B rows, of each image.
    dropped = op.Mul(op.Shape(token_map, start=0, end=1), limit)
    slots_2d = op.Concat(
        op.Where(op.Cast(keeps, to=BOOL), op.Add(new_starts, position_a), dropped),
        op.Where(valid_b, op.Add(new_starts, position_b), dropped),
        axis=1,
    )
    slots = op.Reshape(slots_2d, minus_one)
    row_numbers = op.Range(op.Constant(value_int=0), op.Size(slots), op.Constant(value_int=1))
    buffer = op.Cast(op.ConstantOfShape(op.Add(dropped, one)), to=INT64)
    source = op.Slice(op.ScatterElements(buffer, slots, row_numbers), zero, count_1d)
    pool = op.Flatten(op.Concat(rows_a, new_rows_b, axis=1), axis=2)
    y = op.CastLike(op.Gather(pool, source), x)
    pool_weights = op.Reshape(op.Concat(weights_a, new_weights_b, axis=1), minus_one)
    new_sizes = op.Cast(op.Gather(pool_weights, source), to=INT32)

    # Patches follow their token: even tokens are in the first half of the pool, odd ones in the second.
    old = op.Cast(token_map, to=INT64)
    half = op.Div(width, two)
    pool_index = op.Add(op.Mul(op.Mod(old, two), half), op.Div(old, two))
    new_map = op.GatherElements(op.Concat(position_a, position_b, axis=1), pool_index, axis=1)
    new_token_map = op.Cast(new_map, to=INT32)
    new_cu_seqlens = op.Cast(new_cu, to=INT32)
    count = op.Cast(op.Squeeze(count_1d), to=INT32)
    return y, new_sizes, new_cu_seqlens, new_token_map, count


@script(algm, default_opset=op)
def AlgmPackedAttention(qkv, cu_seqlens, heads: int, max_tokens: int, plugin_namespace: str, plugin_version: str):
    everything = op.Constant(value_ints=[TO_THE_END])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    minus_one = op.Constant(value_ints=[-1])
    lanes = op.Constant(value_ints=[64])
    heads_1d = op.Reshape(op.Constant(value_int=heads), one)
    limit = op.Mul(op.Div(op.Add(op.Reshape(op.Constant(value_int=max_tokens), one), 63), lanes), lanes)

    # Unpack to (B, L, 3C), L a multiple of 64; rows beyond an image repeat its first one and are masked.
    cu = op.Cast(cu_seqlens, to=INT64)
    begins = op.Slice(cu, zero, minus_one)
    stops = op.Slice(cu, one, everything)
    lengths = op.Unsqueeze(op.Sub(stops, begins), one)
    starts = op.Unsqueeze(begins, one)
    longest = op.ReduceMax(lengths, keepdims=0)
    width = op.Mul(op.Div(op.Add(op.Reshape(longest, one), 63), lanes), lanes)
    every_lane = op.Range(op.Constant(value_int=0), op.Squeeze(limit), op.Constant(value_int=1))
    lane = op.Unsqueeze(op.Slice(every_lane, zero, width), zero)
    valid = op.Less(lane, lengths)
    padded = op.Gather(qkv, op.Where(valid, op.Add(starts, lane), starts))

    # Attention per head; padding gets a score that no real one comes near and that float16 still holds.
    split_shape = op.Concat(zero, zero, op.Constant(value_ints=[3]), heads_1d, minus_one, axis=0)
    by_head = op.Transpose(op.Reshape(padded, split_shape), perm=[2, 0, 3, 1, 4])
    q_1, k_1, v_1 = op.Split(by_head, axis=0, num_outputs=3)
    q = op.Squeeze(q_1, zero)
    k = op.Squeeze(k_1, zero)
    v = op.Squeeze(v_1, zero)
    depth = op.Cast(op.Div(op.Shape(qkv, start=1, end=2), op.Mul(heads_1d, 3)), to=FLOAT)
    scale = op.CastLike(op.Reciprocal(op.Sqrt(depth)), qkv)
    hidden = op.Where(valid, op.Constant(value_float=0.0), op.Constant(value_float=-60000.0))
    mask = op.Unsqueeze(op.CastLike(hidden, qkv), op.Constant(value_ints=[1, 2]))
    scores = op.Add(op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=[0, 1, 3, 2])), mask)
    mixed = op.MatMul(op.Softmax(scores, axis=-1), v)
    merged_heads = op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))

    # Pack again: row t belongs to the image whose start is the last one at or before t.
    rows = op.Shape(qkv, start=0, end=1)
    t = op.Range(op.Constant(value_int=0), op.Squeeze(rows), op.Constant(value_int=1))
    passed = op.Cast(op.GreaterOrEqual(op.Unsqueeze(t, one), op.Unsqueeze(stops, zero)), to=INT64)
    image = op.ReduceSum(passed, one, keepdims=0)
    source = op.Add(op.Mul(image, width), op.Sub(t, op.Gather(begins, image)))
    y = op.Gather(op.Flatten(merged_heads, axis=2), source)
    return y


@script(algm, default_opset=op)
def AlgmAppendTokens(x, cu_seqlens, tokens, drop: int, plugin_namespace: str, plugin_version: str):
    everything = op.Constant(value_ints=[TO_THE_END])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    minus_one = op.Constant(value_ints=[-1])
    dropped = op.Reshape(op.Constant(value_int=drop), one)

    # New starts: every image changes by the same number of rows.
    cu = op.Cast(cu_seqlens, to=INT64)
    added = op.Sub(op.Shape(tokens, start=0, end=1), dropped)
    images = op.Range(op.Constant(value_int=0), op.Size(cu), op.Constant(value_int=1))
    new_cu = op.Add(cu, op.Mul(images, added))
    stops = op.Slice(new_cu, one, everything)
    begins = op.Slice(cu, zero, minus_one)
    kept = op.Sub(op.Sub(op.Slice(cu, one, everything), begins), dropped)

    # Row t of the result is a kept token of its image, or one of the appended ones behind all rows of x.
    old_rows = op.Shape(x, start=0, end=1)
    new_rows = op.Add(old_rows, op.Mul(op.Shape(begins), added))
    t = op.Range(op.Constant(value_int=0), op.Squeeze(new_rows), op.Constant(value_int=1))
    passed = op.Cast(op.GreaterOrEqual(op.Unsqueeze(t, one), op.Unsqueeze(stops, zero)), to=INT64)
    image = op.ReduceSum(passed, one, keepdims=0)
    within = op.Sub(t, op.Gather(op.Slice(new_cu, zero, minus_one), image))
    kept_of_row = op.Gather(kept, image)
    own = op.Add(op.Add(op.Gather(begins, image), dropped), within)
    appended = op.Add(old_rows, op.Sub(within, kept_of_row))
    source = op.Where(op.Less(within, kept_of_row), own, appended)
    y = op.Gather(op.Concat(x, tokens, axis=0), source)
    new_cu_seqlens = op.Cast(new_cu, to=INT32)
    return y, new_cu_seqlens


@script(algm, default_opset=op)
def AlgmUnmerge(x, cu_seqlens, token_map, appended: int, drop: int, plugin_namespace: str, plugin_version: str):
    everything = op.Constant(value_ints=[TO_THE_END])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    minus_one = op.Constant(value_ints=[-1])
    cu = op.Cast(cu_seqlens, to=INT64)
    starts = op.Unsqueeze(op.Slice(cu, zero, minus_one), one)
    stops = op.Unsqueeze(op.Slice(cu, one, everything), one)
    shift = op.Constant(value_int=drop)
    grid = op.Gather(x, op.Sub(op.Add(starts, op.Cast(token_map, to=INT64)), shift))
    tail_length = op.Constant(value_int=appended)
    tail_index = op.Range(op.Constant(value_int=0), tail_length, op.Constant(value_int=1))
    tail = op.Gather(x, op.Add(op.Sub(stops, tail_length), tail_index))
    return grid, tail


@script(algm, default_opset=op)
def AlgmUnmergeGrid(x, cu_seqlens, token_map, appended: int, drop: int, plugin_namespace: str, plugin_version: str):
    cu = op.Cast(cu_seqlens, to=INT64)
    begins = op.Slice(cu, op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]))
    starts = op.Unsqueeze(begins, op.Constant(value_ints=[1]))
    rows = op.Sub(op.Add(starts, op.Cast(token_map, to=INT64)), op.Constant(value_int=drop))
    grid = op.Gather(x, rows)
    return grid


@script(algm, default_opset=op)
def AlgmLabels(logits, size: Sequence[int], plugin_namespace: str, plugin_version: str):
    everything = op.Constant(value_ints=[TO_THE_END])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    minus_one = op.Constant(value_ints=[-1])
    two = op.Constant(value_ints=[2])
    one_f = op.Constant(value_float=1.0)
    scores = op.Cast(logits, to=FLOAT)
    height, width = op.Split(op.Constant(value_ints=size), num_outputs=2)
    rows = op.Shape(logits, start=1, end=2)
    columns = op.Shape(logits, start=2, end=3)

    # The pixels between four neighbouring patches are a cell; cell r lies between the patch rows r-1 and r. Per pixel
    # row: its cell, its place in the cell, and the weight of the lower patch; in integers up to the weight, so that no
    # pixel is rounded into another cell. The same for columns.
    y = op.Range(op.Constant(value_int=0), op.Squeeze(height), op.Constant(value_int=1))
    y_unit = op.Mul(two, height)
    y_at = op.Add(op.Mul(op.Add(op.Mul(two, y), one), rows), height)
    y_cell = op.Div(y_at, y_unit)
    y_weight = op.Div(op.Cast(op.Sub(y_at, op.Mul(y_cell, y_unit)), to=FLOAT), op.Cast(y_unit, to=FLOAT))
    x = op.Range(op.Constant(value_int=0), op.Squeeze(width), op.Constant(value_int=1))
    x_unit = op.Mul(two, width)
    x_at = op.Add(op.Mul(op.Add(op.Mul(two, x), one), columns), width)
    x_cell = op.Div(x_at, x_unit)
    x_weight = op.Div(op.Cast(op.Sub(x_at, op.Mul(x_cell, x_unit)), to=FLOAT), op.Cast(x_unit, to=FLOAT))
    cell_rows = op.Range(op.Constant(value_int=0), op.Squeeze(op.Add(rows, one)), op.Constant(value_int=1))
    cell_columns = op.Range(op.Constant(value_int=0), op.Squeeze(op.Add(columns, one)), op.Constant(value_int=1))
    cell_height = op.Div(op.Sub(op.Add(height, rows), one), rows)
    cell_width = op.Div(op.Sub(op.Add(width, columns), one), columns)
    above = op.Cast(op.Less(op.Unsqueeze(y_cell, zero), op.Unsqueeze(cell_rows, one)), to=INT64)
    y_first = op.ReduceSum(above, one, keepdims=0)
    left = op.Cast(op.Less(op.Unsqueeze(x_cell, zero), op.Unsqueeze(cell_columns, one)), to=INT64)
    x_first = op.ReduceSum(left, one, keepdims=0)

    # Weights of the four corners for every place of every cell: (h+1, w+1, places, 4).
    y_place = op.Range(op.Constant(value_int=0), op.Squeeze(cell_height), op.Constant(value_int=1))
    y_of_place = op.Min(op.Add(op.Unsqueeze(y_first, one), y_place), op.Sub(height, one))
    down = op.Unsqueeze(op.Gather(y_weight, y_of_place), op.Constant(value_ints=[1, 3]))
    x_place = op.Range(op.Constant(value_int=0), op.Squeeze(cell_width), op.Constant(value_int=1))
    x_of_place = op.Min(op.Add(op.Unsqueeze(x_first, one), x_place), op.Sub(width, one))
    across = op.Unsqueeze(op.Gather(x_weight, x_of_place), op.Constant(value_ints=[0, 2]))
    up = op.Sub(one_f, down)
    back = op.Sub(one_f, across)
    parts = op.Concat(
        op.Unsqueeze(op.Mul(up, back), minus_one),
        op.Unsqueeze(op.Mul(up, across), minus_one),
        op.Unsqueeze(op.Mul(down, back), minus_one),
        op.Unsqueeze(op.Mul(down, across), minus_one),
        axis=-1,
    )
    places = op.Mul(cell_height, cell_width)
    weights = op.Reshape(parts, op.Concat(zero, zero, places, op.Constant(value_ints=[4]), axis=0))

    # Scores at the corners of every cell, the border repeated: (B, h+1, w+1, 4, K).
    upper = op.Gather(scores, op.Max(op.Sub(cell_rows, one), zero), axis=1)
    lower = op.Gather(scores, op.Min(cell_rows, op.Sub(rows, one)), axis=1)
    first = op.Max(op.Sub(cell_columns, one), zero)
    second = op.Min(cell_columns, op.Sub(columns, one))
    corner_axis = op.Constant(value_ints=[3])
    corners = op.Concat(
        op.Unsqueeze(op.Gather(upper, first, axis=2), corner_axis),
        op.Unsqueeze(op.Gather(upper, second, axis=2), corner_axis),
        op.Unsqueeze(op.Gather(lower, first, axis=2), corner_axis),
        op.Unsqueeze(op.Gather(lower, second, axis=2), corner_axis),
        axis=3,
    )

    # The weights of a pixel add up to one. A class whose best corner is below another class's worst one cannot win in
    # the cell: few are left, and only they are interpolated. Slots that a cell does not need hold class 0, which is
    # either one of its candidates or cannot win there.
    to_beat = op.ReduceMax(op.ReduceMin(corners, corner_axis, keepdims=0), minus_one, keepdims=1)
    able = op.Cast(op.GreaterOrEqual(op.ReduceMax(corners, corner_axis, keepdims=0), to_beat), to=INT64)
    seen = op.CumSum(able, op.Constant(value_int=-1))
    most = op.ReduceMax(op.Slice(seen, minus_one, everything, minus_one), keepdims=0)
    count = op.Max(op.Reshape(most, one), one)
    classes = op.Shape(logits, start=3, end=4)
    class_ids = op.Range(op.Constant(value_int=0), op.Squeeze(classes), op.Constant(value_int=1))
    slots = op.Where(op.Cast(able, to=BOOL), op.Sub(seen, one), classes)
    ids = op.Add(op.Mul(able, zero), class_ids)
    empty = op.Concat(op.Mul(able, zero), op.Mul(op.Slice(able, zero, one, minus_one), zero), axis=-1)
    candidates = op.Slice(op.ScatterElements(empty, slots, ids, axis=-1), zero, count, minus_one)
    four = op.Constant(value_ints=[1, 1, 1, 4, 1])
    kept = op.GatherElements(corners, op.Expand(op.Unsqueeze(candidates, corner_axis), four), axis=-1)

    # The winner of every place, then the places in the order of the picture.
    winner = op.ArgMax(op.MatMul(weights, kept), axis=-1, keepdims=0)
    label = op.Cast(op.GatherElements(candidates, winner, axis=-1), to=INT32)
    by_cell = op.Reshape(label, op.Concat(zero, zero, zero, cell_height, cell_width, axis=0))
    tall_shape = op.Concat(
        zero, op.Mul(op.Add(rows, one), cell_height), op.Mul(op.Add(columns, one), cell_width), axis=0
    )
    tall = op.Reshape(op.Transpose(by_cell, perm=[0, 1, 3, 2, 4]), tall_shape)
    y_index = op.Sub(y, op.Gather(y_first, y_cell))
    x_index = op.Sub(x, op.Gather(x_first, x_cell))
    picture_rows = op.Gather(tall, op.Add(op.Mul(y_cell, cell_height), y_index), axis=1)
    labels = op.Gather(picture_rows, op.Add(op.Mul(x_cell, cell_width), x_index), axis=2)
    return labels


_FUNCTIONS = {
    spec.LOCAL_MERGE.name: AlgmLocalMerge,
    spec.GLOBAL_MERGE.name: AlgmGlobalMerge,
    spec.PACKED_ATTENTION.name: AlgmPackedAttention,
    spec.APPEND_TOKENS.name: AlgmAppendTokens,
    spec.UNMERGE.name: AlgmUnmerge,
    spec.LABELS.name: AlgmLabels,
}


def functions_for(nodes: Iterable[onnx.NodeProto]) -> list[onnx.FunctionProto]:
    """The function bodies that a graph's nodes need, in the order of `spec.OPS`."""
    outputs = {node.op_type: len(node.output) for node in nodes if node.domain == spec.DOMAIN}
    return [_function(name, outputs[name]) for name in spec.OPS if name in outputs]


def _function(name: str, outputs: int) -> onnx.FunctionProto:
    """The body of an operator; AlgmUnmerge has one output where nothing was appended."""
    if name == spec.UNMERGE.name and outputs == 1:
        proto = AlgmUnmergeGrid.to_function_proto()
        proto.name = name
        return proto
    return _FUNCTIONS[name].to_function_proto()
