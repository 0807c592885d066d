"""The NumPy reference against worked examples, definitions written as plain loops, and properties of merging."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
from helpers.cases import CASES, GLOBAL_CASES, LOCAL_CASES, OpCase, cumulative, reference_outputs, signs
from helpers.compare import assert_same_bits
from helpers.slide_cases import SlideCase, noise

from algm_trt.plugins import reference, spec
from algm_trt.runtime.field import LogitField

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def _packed(*tokens: list[float]) -> np.ndarray:
    return np.array(tokens, np.float32)


def _merge_one(
    tokens: np.ndarray, layer: int = 1, extra: int = 1, sizes: Sequence[int] | None = None
) -> reference.Merged:
    """Global merge of one image in which patch i starts as token extra + i."""
    count = len(tokens)
    weights = np.array(sizes or [1] * count, np.int32)
    token_map = np.arange(extra, count, dtype=np.int32)[None]
    return reference.global_merge(tokens, weights, cumulative([count]), token_map, layer=layer, extra_tokens=extra)


class TestLocalMerge:
    def test_worked_example(self) -> None:
        # Windows of a 2x4 grid: left all east (similarity 1), right two east and two north (2 of 6 pairs agree: 1/3).
        x = np.array([[[5, 5], EAST, EAST, EAST, NORTH, EAST, EAST, NORTH, EAST]], np.float32)
        merged = reference.local_merge(x, 0.9, grid=(2, 4), window=(2, 2))
        np.testing.assert_array_equal(merged.y, [[5, 5], EAST, EAST, NORTH, NORTH, EAST])
        np.testing.assert_array_equal(merged.sizes, [1, 4, 1, 1, 1, 1])
        np.testing.assert_array_equal(merged.cu_seqlens, [0, 6])
        np.testing.assert_array_equal(merged.token_map, [[1, 1, 2, 3, 1, 1, 4, 5]])
        assert merged.count == 6

    def test_merged_windows_come_by_descending_similarity(self) -> None:
        x = np.array([[[0, 0], NORTH, EAST, EAST, EAST, WEST, EAST]], np.float32)
        x[0, 2] = [1, 0.5]
        merged = reference.local_merge(x, -1, grid=(1, 6), window=(1, 2))
        # Similarities 0.45, 1, -1.
        np.testing.assert_array_equal(merged.token_map, [[2, 2, 1, 1, 3, 3]])

    def test_ties_keep_the_order_of_the_windows(self) -> None:
        x = np.tile(np.array(EAST, np.float32), (1, 9, 1))
        merged = reference.local_merge(x, 1.0, grid=(2, 4), window=(1, 2))
        np.testing.assert_array_equal(merged.token_map, [[1, 1, 2, 2, 3, 3, 4, 4]])

    def test_the_threshold_itself_merges(self) -> None:
        x = np.array([[[0, 0], EAST, NORTH]], np.float32)
        assert reference.local_merge(x, 0.0, grid=(1, 2), window=(1, 2)).count == 2
        assert reference.local_merge(x, np.nextafter(0, 1, dtype=np.float32), grid=(1, 2), window=(1, 2)).count == 3

    def test_a_similarity_that_is_not_a_number_does_not_merge(self) -> None:
        x = np.array([[[0, 0], EAST, [np.nan, 0]]], np.float32)
        with np.errstate(invalid="ignore"):
            assert reference.local_merge(x, -1.0, grid=(1, 2), window=(1, 2)).count == 3

    @pytest.mark.parametrize("window", [(2, 2), (2, 3), (1, 6), (4, 1)])
    def test_similarity_is_the_mean_over_pairs(self, window: tuple[int, int]) -> None:
        x = np.random.default_rng(0).standard_normal((2, 24, 5)).astype(np.float32)
        similarity = reference.window_similarity(x, (4, 6), window)
        units = x / np.linalg.norm(x, axis=-1, keepdims=True)
        for image in range(2):
            for index, members in enumerate(reference.window_members((4, 6), window)):
                pairs = [units[image, i] @ units[image, j] for i, j in combinations(members, 2)]
                assert similarity[image, index] == pytest.approx(np.mean(pairs), abs=1e-6)

    def test_windows_are_cut_row_by_row(self) -> None:
        np.testing.assert_array_equal(
            reference.window_members((4, 4), (2, 2)), [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
        )

    @pytest.mark.parametrize("grid", [(5, 4), (4, 5), (1, 2)])
    def test_a_window_that_does_not_divide_the_grid_is_an_error(self, grid: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="does not divide"):
            reference.window_members(grid, (2, 2))


class TestGlobalMerge:
    def test_worked_example(self) -> None:
        # A: class, t2 east, t4 north; B: t1 east, t3 west. Best of t2 is t1 with 1, of t4 is t1 with 0 (tie with t3).
        tokens = _packed([9, 9], EAST, [3, 0], WEST, NORTH)
        merged = _merge_one(tokens, layer=5, sizes=[1, 1, 3, 1, 1])
        # Mean 0.5 + std 0.707 / 5 = 0.64: t2 merges, size-weighted (1 * 1 + 3 * 3) / 4.
        np.testing.assert_array_equal(merged.y, [[9, 9], NORTH, [2.5, 0], WEST])
        np.testing.assert_array_equal(merged.sizes, [1, 1, 4, 1])
        np.testing.assert_array_equal(merged.token_map, [[2, 2, 3, 1]])
        np.testing.assert_array_equal(merged.cu_seqlens, [0, 4])

    def test_ties_go_to_the_lower_destination(self) -> None:
        tokens = _packed([9, 9], EAST, EAST, EAST, WEST, NORTH)
        source, destination = reference.global_pairs(tokens, 5, 1)
        np.testing.assert_array_equal(source, [2])
        np.testing.assert_array_equal(destination, [1])

    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_fewer_than_two_candidates_merge_nothing(self, count: int) -> None:
        merged = _merge_one(np.ones((count, 4), np.float32))
        assert merged.count == count
        assert_same_bits(merged.y, np.ones((count, 4), np.float32))

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_the_second_extra_token_is_no_destination(self, count: int) -> None:
        assert _merge_one(np.ones((count, 4), np.float32), extra=2).count == count

    def test_two_extra_tokens_stay_in_front(self) -> None:
        tokens = _packed([9, 9], EAST, EAST, NORTH, EAST, WEST, NORTH)
        merged = _merge_one(tokens, layer=5, extra=2)
        # A without the class token: t2 and t4 (east, best 0 with t3), t6 (north, best 1 with t3). t6 merges into t3.
        np.testing.assert_array_equal(merged.y, [[9, 9], EAST, EAST, EAST, NORTH, WEST])
        np.testing.assert_array_equal(merged.sizes, [1, 1, 1, 1, 2, 1])
        np.testing.assert_array_equal(merged.token_map, [[2, 4, 3, 5, 4]])

    def test_all_equal_tokens_merge_into_the_first_destination(self) -> None:
        merged = _merge_one(np.ones((9, 4), np.float32))
        np.testing.assert_array_equal(merged.sizes, [1, 5, 1, 1, 1])

    def test_the_layer_divides_the_deviation(self) -> None:
        random = np.random.default_rng(3)
        tokens = random.standard_normal((200, 16)).astype(np.float32)
        counts = [int(_merge_one(tokens, layer=layer).count) for layer in (1, 2, 5, 12)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > counts[-1]

    def test_pairs_follow_the_definition(self) -> None:
        tokens = np.random.default_rng(4).standard_normal((41, 6))
        units = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
        best = {a: max(range(1, 41, 2), key=lambda b, a=a: units[a] @ units[b]) for a in range(2, 41, 2)}
        values = [units[a] @ units[b] for a, b in best.items()]
        limit = np.mean(values) + np.std(values, ddof=1) / 3
        wanted = [(a, b) for (a, b), value in zip(best.items(), values, strict=True) if value >= limit]
        pairs = reference.global_pairs(tokens.astype(np.float32), 3, 1)
        assert list(zip(*(index.tolist() for index in pairs), strict=True)) == wanted


@pytest.mark.parametrize("case", [*LOCAL_CASES, *GLOBAL_CASES], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_merges_lose_nothing(case: OpCase) -> None:
    """Sizes add up, sums are kept, every patch has a token, and images do not see each other."""
    inputs = case.inputs()
    y, sizes, cu_seqlens, token_map, count = reference_outputs(case, inputs)
    extra = case.attributes["extra_tokens"]
    x = inputs[0]
    if case.op is spec.LOCAL_MERGE:
        cu_before = np.arange(len(x) + 1) * x.shape[1]
        sizes_before, x = np.ones(cu_before[-1]), x.reshape(-1, x.shape[-1])
    else:
        sizes_before, cu_before = inputs[1], inputs[2]
    assert count == len(y) == len(sizes) == cu_seqlens[-1]
    assert (sizes >= 1).all()
    for image, ((a, b), (c, d)) in enumerate(zip(pairwise(cu_before), pairwise(cu_seqlens), strict=True)):
        assert sizes[c:d].sum() == sizes_before[a:b].sum()
        assert_same_bits(y[c : c + extra], x[a : a + extra], "extra tokens")
        assert token_map[image].min() >= extra
        assert token_map[image].max() < d - c
        before = (x[a:b].astype(np.float64) * sizes_before[a:b, None]).sum(axis=0)
        after = (y[c:d].astype(np.float64) * sizes[c:d, None]).sum(axis=0)
        scale = np.abs(x[a:b]).max() * sizes_before[a:b].sum() * np.finfo(x.dtype).eps
        np.testing.assert_allclose(after, before, atol=scale)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.op is not spec.APPEND_TOKENS and not case.heavy], ids=str
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_batch_is_its_images(case: OpCase) -> None:
    """The first image alone gives the first rows of the batch."""
    inputs = case.inputs()
    whole = reference_outputs(case, inputs)
    alone = reference_outputs(case, first_image(case.op, inputs))
    for part, output in zip(alone, whole, strict=True):
        if part.ndim:
            start = output[: len(part)]
            if part.dtype.kind == "f":
                np.testing.assert_allclose(part, start, rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(part, start)


def first_image(op: spec.OpSpec, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Inputs cut to the first image of the batch."""
    dense = op in (spec.LOCAL_MERGE, spec.LABELS)
    rows = 1 if dense else int(inputs[[t.name for t in op.inputs].index("cu_seqlens")][1])
    length = {"B": 1, "B+1": 2, "T": rows, "T1": rows}
    return [
        value[: length[tensor.shape[0]]] if tensor.shape and tensor.shape[0] in length else value
        for tensor, value in zip(op.inputs, inputs, strict=True)
    ]


class TestPackedAttention:
    def test_equal_keys_give_the_mean_of_the_values(self) -> None:
        qkv = np.zeros((3, 6), np.float32)
        qkv[:, 4:] = [[1, 2], [3, 4], [8, 6]]
        out = reference.packed_attention(qkv, np.array([0, 2, 3], np.int32), heads=1)
        np.testing.assert_allclose(out, [[2, 3], [2, 3], [8, 6]])

    def test_heads_are_thirds_of_the_channels_in_order(self) -> None:
        random = np.random.default_rng(0)
        qkv = random.standard_normal((5, 3 * 12)).astype(np.float32)
        whole = reference.packed_attention(qkv, cumulative([5]), heads=3)
        for head in range(3):
            own = qkv.reshape(5, 3, 3, 4)[:, :, head].reshape(5, 12)
            part = reference.packed_attention(own, cumulative([5]), heads=1)
            np.testing.assert_allclose(part, whole[:, 4 * head : 4 * head + 4], rtol=1e-6, atol=1e-6)


class TestTokensAndGrid:
    def test_append_drops_leading_tokens_and_adds_the_new_ones(self) -> None:
        x = np.arange(5, dtype=np.float32)[:, None]
        y, cu_seqlens = reference.append_tokens(x, cumulative([2, 3]), np.array([[8], [9]], np.float32), drop=1)
        np.testing.assert_array_equal(y.ravel(), [1, 8, 9, 3, 4, 8, 9])
        np.testing.assert_array_equal(cu_seqlens, [0, 3, 7])
        assert cu_seqlens.dtype == np.int32

    def test_unmerge_undoes_append(self) -> None:
        x = np.arange(7, dtype=np.float32)[:, None]
        grid, tail = reference.unmerge(x, cumulative([3, 4]), np.array([[1, 1], [2, 1]], np.int32), appended=2, drop=1)
        np.testing.assert_array_equal(grid[..., 0], [[0, 0], [4, 3]])
        np.testing.assert_array_equal(tail[..., 0], [[1, 2], [5, 6]])


class TestLabels:
    def test_ties_go_to_the_lower_class(self) -> None:
        assert not reference.labels(np.ones((1, 2, 2, 3), np.float32), (32, 32)).any()

    def test_border_is_repeated(self) -> None:
        logits = np.zeros((1, 1, 2, 2), np.float32)
        logits[0, 0, 1, 1] = 1
        logits[0, 0, 0, 0] = 1
        np.testing.assert_array_equal(reference.labels(logits, (1, 8))[0, 0], [0, 0, 0, 0, 1, 1, 1, 1])

    @pytest.mark.parametrize(("source", "target"), [(1, 16), (2, 32), (5, 7), (7, 7), (32, 512), (9, 4)])
    def test_weights_of_a_pixel_add_up_to_one(self, source: int, target: int) -> None:
        weights = reference.bilinear_matrix(source, target)
        assert weights.shape == (target, source)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        assert ((weights > 0).sum(axis=1) <= 2).all()

    def test_bilinear_weights_equal_those_by_hand(self) -> None:
        np.testing.assert_allclose(
            reference.bilinear_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], atol=1e-7
        )


class TestSlide:
    @pytest.mark.parametrize("anchor", [(0, 0), (2, 1), (4, 3), (5, 4), (-1, -9), (2**31 - 1, -(2**31))])
    def test_windows_lie_inside_the_canvas(self, anchor: tuple[int, int]) -> None:
        canvas = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)
        top, left = min(max(anchor[0], 0), 4), min(max(anchor[1], 0), 3)
        windows = reference.cut_windows(canvas, np.array([(0, 0), anchor], np.int32), (3, 2))
        np.testing.assert_array_equal(windows, [canvas[:3, :2], canvas[top : top + 3, left : left + 2]])

    @pytest.mark.parametrize(
        "case",
        [
            SlideCase((1, 1), (32, 32), 24, 8, 3),
            SlideCase((37, 53), (24, 16), 13, 8, 5),
            SlideCase((61, 19), (20, 30), 20, 7, 2),  # enlarged, patches overhang the window
            SlideCase((23, 31), (40, 64), 0, 8, 4),
        ],
        ids=str,
    )
    def test_values_are_those_of_the_runtime(self, case: SlideCase) -> None:
        logits = noise(np.random.default_rng(5), case, np.float32)
        expected = LogitField(case.plan, logits, case.patch).rows(0, case.source[0])
        values = reference.slide_values(logits, len(case.plan.rows), *case.axes)
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_exact_data_are_exact() -> None:
    """The premise of the tie cases: lengths and cosines of tokens of +1 and -1 have no rounding."""
    for channels in (4, 16):
        units = reference.unit_rows(signs(np.random.default_rng(0), 50, channels))
        assert set(np.abs(units).ravel()) == {channels**-0.5}
        assert np.array_equal((units @ units.T) * channels, np.rint((units @ units.T) * channels))
