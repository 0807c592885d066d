"""Rung L1: the ONNX function bodies on ONNX Runtime against the NumPy reference; an image alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.cases import (
    CASES,
    NOTHING,
    OpCase,
    Size,
    attention_case,
    cumulative,
    global_case,
    mixed_tokens,
    random_map,
    reference_outputs,
)
from helpers.compare import assert_outputs_match, assert_same_bits, label_margins
from helpers.models import one_node_model, run_node, session
from numpy.typing import NDArray

from algm_trt.exporter.functions import functions_for
from algm_trt.plugins import spec

Array = NDArray[Any]

# Below this difference of the two best classes, two roundings of the interpolation may choose differently.
LABEL_MARGIN = 1e-6
WHOLE_NUMBERS = ("ties", "all equal")


def _node(op: spec.OpSpec, outputs: int | None = None) -> onnx.NodeProto:
    names = [t.name for t in op.outputs[:outputs]]
    return onnx.helper.make_node(op.name, [t.name for t in op.inputs], names, domain=spec.DOMAIN)


@pytest.mark.parametrize("op", list(spec.OPS.values()), ids=lambda op: op.name)
def test_signature_is_that_of_the_contract(op: spec.OpSpec) -> None:
    (function,) = functions_for([_node(op)])
    assert function.name == op.name
    assert function.domain == spec.DOMAIN
    assert list(function.input) == [t.name for t in op.inputs]
    assert len(function.output) == len(op.outputs)
    plugin = ["plugin_namespace", "plugin_version"]
    assert sorted(function.attribute) == sorted([a.name for a in op.attributes] + plugin)


def test_unmerge_without_appended_tokens_has_one_output() -> None:
    (function,) = functions_for([_node(spec.UNMERGE, outputs=1)])
    assert function.name == spec.UNMERGE.name
    assert len(function.output) == 1


def test_bodies_use_only_standard_operators() -> None:
    refused = {"NonZero", "Compress", "Unique", "Pad", "BitwiseAnd", "Loop", "If", "Scan"}
    for function in functions_for([_node(op) for op in spec.OPS.values()]):
        assert {node.domain for node in function.node} == {""}
        assert not refused & {node.op_type for node in function.node}
        for node in function.node:
            assert not (node.op_type.startswith("Scatter") and any(a.name == "reduction" for a in node.attribute))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_agrees_with_the_reference(case: OpCase) -> None:
    model = one_node_model(case)
    onnx.checker.check_model(model, full_check=True)
    inputs = case.inputs()
    actual = run_node(session(model), inputs)
    expected = reference_outputs(case, inputs)
    if case.op is spec.LABELS and case.name not in WHOLE_NUMBERS:
        unclear = label_margins(inputs[0], case.attributes["size"]) < LABEL_MARGIN
        assert unclear.mean() < 0.001
        expected = (np.where(unclear, actual[0], expected[0]),)
    assert_outputs_match(case.op, actual, expected, case.magnifies)


class TestLabelsOnAnyInput:
    """Scores that a broken network might give do not end the process, and labels stay class ids."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
    @pytest.mark.parametrize("classes", [1, 2, 300])
    @pytest.mark.parametrize("everywhere", [False, True])
    def test_labels_stay_in_range_whatever_the_logits(self, value: float, classes: int, everywhere: bool) -> None:
        case = _labels_case(classes, (3, 4), (48, 64))
        logits = np.random.default_rng(0).standard_normal((2, 3, 4, classes)).astype(np.float32)
        if everywhere:
            logits[:] = value
        else:
            logits[0, 1, 2, classes // 2] = value
        (labels,) = run_node(session(one_node_model(case)), [logits])
        assert labels.shape == (2, 48, 64)
        assert labels.min() >= 0
        assert labels.max() < classes

    def test_a_broken_image_leaves_its_mates_alone(self) -> None:
        running = session(one_node_model(_labels_case(40, (8, 8), (128, 128))))
        logits = np.random.default_rng(0).standard_normal((3, 8, 8, 40)).astype(np.float32)
        logits[1, 2, 3] = np.nan
        (batch,) = run_node(running, [logits])
        for image in (0, 2):
            (alone,) = run_node(running, [logits[image : image + 1]])
            np.testing.assert_array_equal(batch[image], alone[0])

    @pytest.mark.parametrize(("grid", "size"), [((2, 3), (122, 183)), ((4, 5), (164, 205)), ((7, 4), (455, 164))])
    def test_pixels_of_any_scale_are_in_their_cells(self, grid: Size, size: Size) -> None:
        """Sizes at which float32 puts a pixel at the centre of a patch into the cell before."""
        case = _labels_case(40, grid, size)
        logits = np.random.default_rng(0).standard_normal((1, *grid, 40)).astype(np.float32)
        (actual,) = run_node(session(one_node_model(case)), [logits])
        (expected,) = reference_outputs(case, [logits])
        clear = label_margins(logits, size) >= LABEL_MARGIN
        np.testing.assert_array_equal(actual[clear], expected[clear])
        assert clear.mean() > 0.999

    def test_only_a_few_of_many_classes_can_win(self) -> None:
        """The case that the pruning of classes is for: exact all the same."""
        case = _labels_case(150, (16, 16), (256, 256))
        random = np.random.default_rng(0)
        coarse = np.kron(random.standard_normal((1, 4, 4, 150)) * 4, np.ones((1, 4, 4, 1)))
        logits = (coarse + 0.1 * random.standard_normal((1, 16, 16, 150))).astype(np.float32)
        (actual,) = run_node(session(one_node_model(case)), [logits])
        (expected,) = reference_outputs(case, [logits])
        clear = label_margins(logits, (256, 256)) >= LABEL_MARGIN
        np.testing.assert_array_equal(actual[clear], expected[clear])
        assert clear.mean() > 0.999


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", [attention_case("attention", [10, 7, 5]), global_case("global", [10, 7, 9])], ids=str)
def test_a_broken_image_of_a_packed_batch_leaves_its_mates_alone(case: OpCase, value: float) -> None:
    running = session(one_node_model(case))
    inputs = [array.copy() for array in case.inputs()]
    starts = inputs[1 if case.op is spec.PACKED_ATTENTION else 2].tolist()
    whole = run_node(running, inputs)
    inputs[0][0] = value
    broken = run_node(running, inputs)
    if case.op is spec.PACKED_ATTENTION:
        np.testing.assert_array_equal(broken[0][starts[1] :], whole[0][starts[1] :])
        return
    mates = [outputs[0][outputs[2][1] :] for outputs in (broken, whole)]
    np.testing.assert_array_equal(*mates)
    np.testing.assert_array_equal(np.diff(broken[2])[1:], np.diff(whole[2])[1:])
    np.testing.assert_array_equal(broken[3][1:], whole[3][1:])


def _labels_case(classes: int, grid: tuple[int, int], size: tuple[int, int]) -> OpCase:
    return OpCase("any", spec.LABELS, lambda: (np.zeros((1, *grid, classes), np.float32),), {"size": size})


# An image alone and in a batch. Every image is described by its own inputs with a batch of one; a batch joins them.

Image = tuple[Array, ...]
LENGTHS = (2, 3, 17, 64, 65, 127, 128, 129, 200, 255, 256, 257, 333, 511, 513, 640, 769, 897, 1000, 1024, 1025)


def _images(make: Callable[[np.random.Generator, int], Image], dtype: str) -> list[Image]:
    images = []
    for length in LENGTHS:
        made = make(np.random.default_rng(length), length)
        images.append(tuple(value.astype(dtype) if value.dtype.kind == "f" else value for value in made))
    return images


def _local_image(random: np.random.Generator, length: int) -> Image:
    """Every image has another share of merged windows; the threshold is the same for all."""
    x = mixed_tokens(random, 1, (16, 16), 1, 48, (2, 2))
    return (x * random.uniform(0.5, 2.0),)


def _global_image(random: np.random.Generator, length: int) -> Image:
    x = random.standard_normal((length, 48)) + 2 * random.standard_normal(48)
    sizes = random.integers(1, 17, length).astype(np.int32)
    return x, sizes, cumulative([length]), random_map(random, [length], 256, 1)


def _attention_image(random: np.random.Generator, length: int) -> Image:
    return 2 * random.standard_normal((length, 3 * 48)), cumulative([length])


def _append_image(random: np.random.Generator, length: int) -> Image:
    return random.standard_normal((length, 48)), cumulative([length])


def _unmerge_image(random: np.random.Generator, length: int) -> Image:
    return random.standard_normal((length + 11, 48)), cumulative([length + 11]), random_map(random, [length], 256, 1)


def _labels_image(random: np.random.Generator, length: int) -> Image:
    return (random.standard_normal((1, 8, 8, 1 + length % 30)) * 3,)


def _many_classes_image(random: np.random.Generator, length: int) -> Image:
    """Images that leave different classes in the running."""
    logits = random.standard_normal((1, 8, 8, 40))
    logits[..., random.integers(0, 40, length % 7)] += 5
    return (logits,)


def _join(op: spec.OpSpec, images: Sequence[Image]) -> list[Array]:
    """One batch of several images."""
    joined = []
    for index, tensor in enumerate(op.inputs[: len(images[0])]):
        parts = [image[index] for image in images]
        joined.append(cumulative([int(p[1]) for p in parts]) if tensor.name == "cu_seqlens" else np.concatenate(parts))
    return joined


def _image_outputs(op: spec.OpSpec, outputs: Sequence[Array], image: int) -> list[Array]:
    """What a batch's outputs say about one of its images."""
    names = [tensor.name for tensor in op.outputs]
    cu_seqlens = outputs[names.index("cu_seqlens")] if "cu_seqlens" in names else None
    parts = []
    for tensor, value in zip(op.outputs, outputs, strict=True):
        if tensor.shape[:1] == ("B",):
            parts.append(value[image])
        elif cu_seqlens is not None and tensor.name in ("y", "sizes"):
            parts.append(value[cu_seqlens[image] : cu_seqlens[image + 1]])
    return parts


INVARIANT = [
    (spec.LOCAL_MERGE, _local_image, {"grid": (16, 16), "window": (2, 2), "extra_tokens": 1}, [np.float32(0.5)]),
    (spec.GLOBAL_MERGE, _global_image, {"layer": 5, "extra_tokens": 1, "max_tokens": 1025}, []),
    (spec.APPEND_TOKENS, _append_image, {"drop": 1}, [np.random.default_rng(0).standard_normal((11, 48))]),
    (spec.UNMERGE, _unmerge_image, {"appended": 11, "drop": 1}, []),
    (spec.LABELS, _many_classes_image, {"size": (128, 128)}, []),
]


def _assert_invariant(
    op: spec.OpSpec, images: Sequence[Image], attributes: dict[str, Any], constants: Sequence[Array], threads: int
) -> None:
    """Every image has the same bits alone, and in batches of eight in several orders with several mates."""
    case = OpCase("invariance", op, lambda: (*_join(op, images[:1]), *constants), attributes)
    running = session(one_node_model(case), threads)
    alone = [_outputs_of(op, running, [image], constants)[0] for image in images]
    random = np.random.default_rng(1)
    for trial in range(3):
        chosen = random.permutation(len(images))[:8]
        if trial == 0:
            chosen = np.array([0, *range(len(images) - 7, len(images))])
        for order in (chosen, chosen[::-1]):
            batch = _outputs_of(op, running, [images[i] for i in order], constants)
            for place, index in enumerate(order):
                for part, wanted in zip(batch[place], alone[index], strict=True):
                    assert_same_bits(part, wanted, f"{op.name}, image {index} at place {place} of {order.tolist()}")


def _outputs_of(
    op: spec.OpSpec, running: onnxruntime.InferenceSession, images: Sequence[Image], constants: Sequence[Array]
) -> list[list[Array]]:
    """Outputs of a batch, split by image."""
    inputs = [*_join(op, images), *constants]
    outputs = run_node(running, inputs)
    if op is spec.PACKED_ATTENTION:
        return [[outputs[0][start:stop]] for start, stop in pairwise(inputs[1])]
    return [_image_outputs(op, outputs, place) for place in range(len(images))]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("op", "make", "attributes", "constants"), INVARIANT, ids=lambda v: getattr(v, "name", ""))
def test_an_image_has_the_same_bits_in_any_batch(
    op: spec.OpSpec,
    make: Callable[[np.random.Generator, int], Image],
    attributes: dict[str, Any],
    constants: list[Array],
    dtype: str,
    threads: int,
) -> None:
    typed = [c.astype(dtype) if c.ndim else c for c in map(np.asarray, constants)]
    _assert_invariant(op, _images(make, dtype), attributes, typed, threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("heads", "dtype"), [(1, "float32"), (6, "float32"), (3, "float16")])
def test_attention_of_an_image_has_the_same_bits_in_any_batch(heads: int, dtype: str, threads: int) -> None:
    attributes = {"heads": heads, "max_tokens": 1025}
    _assert_invariant(spec.PACKED_ATTENTION, _images(_attention_image, dtype), attributes, [], threads)


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("channels", [1, 7, 40, 384])
def test_merges_of_any_width_are_the_same_in_any_batch(channels: int, extra: int) -> None:
    """Rows whose length is no multiple of a vector register."""

    def local(random: np.random.Generator, length: int) -> Image:
        return (mixed_tokens(random, 1, (8, 8), extra, channels, (2, 2)),)

    def packed(random: np.random.Generator, length: int) -> Image:
        length = max(3, length // 3)
        x = random.standard_normal((length, channels)) + 1
        return x, np.ones(length, np.int32), cumulative([length]), random_map(random, [length], 64, extra)

    local_attributes = {"grid": (8, 8), "window": (2, 2), "extra_tokens": extra}
    _assert_invariant(spec.LOCAL_MERGE, _images(local, "float32"), local_attributes, [np.array(0.4, np.float32)], 2)
    global_attributes = {"layer": 2, "extra_tokens": extra, "max_tokens": 400}
    _assert_invariant(spec.GLOBAL_MERGE, _images(packed, "float32"), global_attributes, [], 2)


def test_no_threshold_merges_beyond_one() -> None:
    """The operator is the identity, up to packing, where nothing merges."""
    x = np.random.default_rng(0).standard_normal((3, 65, 8)).astype(np.float32)
    attributes = {"grid": (8, 8), "window": (2, 2), "extra_tokens": 1}
    inputs = (x, np.array(NOTHING, np.float32))
    y, sizes, _, token_map, count = run_node(
        session(one_node_model(OpCase("none", spec.LOCAL_MERGE, lambda: inputs, attributes))), inputs
    )
    assert_same_bits(y, x.reshape(-1, 8))
    assert (sizes == 1).all()
    assert (token_map == np.arange(1, 65)).all()
    assert count == 3 * 65


@pytest.mark.parametrize("channels", [384, 768])
def test_windows_of_almost_equal_similarity_keep_their_order(channels: int) -> None:
    # Similarities 1e-6 apart: float32 tells them apart if the squares are not summed one after the other.
    random, windows = np.random.default_rng(channels), 64
    rank = random.permutation(windows)
    cosine = 2 * (0.97 - 1e-6 * rank) - 1  # of one token to the three others of its window, which are equal
    a, b = np.linalg.qr(random.standard_normal((windows, channels, 2)))[0].transpose(2, 0, 1)
    odd = cosine[:, None] * a + np.sqrt(1 - cosine**2)[:, None] * b
    members = np.stack([a, a, a, odd], axis=1).reshape(8, 8, 2, 2, channels).transpose(0, 2, 1, 3, 4)
    tokens = members.reshape(1, 4 * windows, channels).astype(np.float32)
    inputs = (np.concatenate([tokens[:, :1], tokens], axis=1), np.array(0.9, np.float32))
    attributes = {"grid": (16, 16), "window": (2, 2), "extra_tokens": 1}
    case = OpCase("close", spec.LOCAL_MERGE, lambda: inputs, attributes)
    token_map = run_node(session(one_node_model(case)), inputs)[3]
    assert np.array_equal(token_map.reshape(16, 16)[::2, ::2].ravel(), 1 + rank)
