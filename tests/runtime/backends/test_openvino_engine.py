"""The OpenVINO backend: its operators against the NumPy reference, its results against ONNX Runtime, cache, errors."""

from __future__ import annotations

import builtins
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from helpers.cases import CASES, OpCase, reference_outputs
from helpers.compare import assert_outputs_match, assert_same_bits, label_margins
from helpers.engines import card_of, tiny_model
from helpers.models import LINEAR, NETWORKS, TINY, TWO, Size, random_segmenter
from helpers.pictures import checkerboard, drawn_scene, gradient, noise
from numpy.typing import NDArray
from PIL import Image

from algm_trt.exporter.graph import build_graph
from algm_trt.plugins import reference, spec
from algm_trt.plugins.errors import AlgmError, MissingDependencyError, UsageError
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.backends.openvino import engine as openvino_engine
from algm_trt.runtime.backends.openvino.engine import CACHED_MODELS, OpenVinoEngine
from algm_trt.runtime.backends.openvino.operators import BLOCK, CONVERTERS
from algm_trt.runtime.backends.streams import Streams
from algm_trt.runtime.card import METADATA_KEY, MergeSettings, ModelCardError
from algm_trt.runtime.engine import EngineError, EngineOutput, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.scenes import draw_scene

openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install 'algm-trt[openvino]'")

Array = NDArray[Any]

# Two float32 computations of a whole network; and below what difference of two classes they may choose differently.
LOGITS, LABEL_MARGIN = 1e-4, 2e-4
IMAGES_PER_CASE = 5
FILLED = (spec.LOCAL_MERGE, spec.GLOBAL_MERGE, spec.APPEND_TOKENS)

MODELS = NETWORKS | {
    "distilled, linear, dense": (replace(LINEAR, distilled=True, normalization="deit"), None, (64, 96)),
    "300 classes": (replace(TINY, n_cls=300, n_layers=3), TWO, (64, 96)),
    # OpenVINO leaves the transposes around attention out there, see `options_for`.
    "as many tokens as heads": (replace(TINY, n_heads=16), MergeSettings((2, 3), (3, 1), 0.5), (48, 80)),
    "as many tokens as heads, dense": (replace(TINY, n_heads=16), None, (48, 80)),
}
MANY_SHAPES = (TINY, TWO, (384, 384))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled models of these tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def bf16() -> None:
    """The CPU computes in bfloat16."""
    if openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        pytest.skip("this CPU has no bfloat16 arithmetic")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports a network of MODELS with random weights, once per precision."""
    folder = tmp_path_factory.mktemp("networks")

    def export(name: str, precision: str = "fp32") -> Path:
        path = folder / f"{name} {precision}.onnx"
        if not path.exists():
            config, merge, size = MODELS.get(name, MANY_SHAPES)
            graph = build_graph(random_segmenter(config, merge), size, precision)
            graph.metadata_props.add(key=METADATA_KEY, value=card_of(config, merge, size).to_json())
            onnx.save(graph, path)
        return path

    return export


def unlike_pictures(size: Size) -> NDArray[np.uint8]:
    """Pictures that merge much, little and everything: (7, H, W, 3)."""
    even = gradient(*size, (20, 30, 40), (25, 32, 41))
    scenes = [drawn_scene(*size, seed=seed) for seed in range(4)]
    return np.stack([*scenes, even, noise(*size), checkerboard(*size, cell=24)])


# The operators.


def images_of(case: OpCase) -> list[tuple[Array, ...]]:
    """The images of a case one by one, each as a batch of one."""
    inputs = case.inputs()
    if case.op is spec.LOCAL_MERGE:
        return [(inputs[0][i : i + 1], inputs[1]) for i in range(len(inputs[0]))]
    if case.op is spec.LABELS:
        return [(inputs[0][i : i + 1],) for i in range(len(inputs[0]))]
    names = [tensor.name for tensor in case.op.inputs]
    starts = inputs[names.index("cu_seqlens")]
    images = []
    for index, (start, stop) in enumerate(pairwise(starts)):
        parts: dict[str, Any] = {
            "cu_seqlens": np.array([0, stop - start], np.int32),
            "token_map": inputs[names.index("token_map")][index : index + 1] if "token_map" in names else None,
            "tokens": inputs[-1],
        }
        images.append(tuple(parts.get(name, value[start:stop]) for name, value in zip(names, inputs, strict=True)))
    return images


def compiled_operator(case: OpCase, inputs: tuple[Array, ...]) -> Any:
    """The operator alone, for any number of tokens."""
    builder, arguments = CONVERTERS[case.op.name]
    free = {"T", "T1", "T2"}
    parameters = []
    for tensor, value in zip(case.op.inputs, inputs, strict=True):
        shape = [-1 if name in free else length for name, length in zip(tensor.shape, value.shape, strict=True)]
        parameters.append(openvino.opset15.parameter(shape, value.dtype))
    outputs = builder(*(p.output(0) for p in parameters), **{key: case.attributes[a] for key, a in arguments.items()})
    model = openvino.Model([output.output(0) for output in outputs], parameters, case.op.name)
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def filled(case: OpCase, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """The inputs with rows that are no tokens behind the packed ones, as other operators leave them."""
    if case.op not in (*FILLED[1:], spec.PACKED_ATTENTION, spec.UNMERGE):
        return inputs
    rows = inputs[0]
    others = np.full((-len(rows) % BLOCK, *rows.shape[1:]), 100, rows.dtype)
    return (np.concatenate([rows, others]), *inputs[1:])


@pytest.mark.parametrize("case", [case for case in CASES if not case.heavy and case.op is not spec.LABELS], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_operators_agree_with_the_reference(case: OpCase) -> None:
    images = images_of(case)
    if case.op is spec.PACKED_ATTENTION:  # see packed_attention: no picture has a single row
        images = [inputs for inputs in images if len(inputs[0]) > 1] or images
    running = compiled_operator(case, images[0])
    for inputs in images[:IMAGES_PER_CASE]:
        expected = reference_outputs(case, inputs)
        for given in (inputs, filled(case, inputs)):
            actual = [np.array(value) for value in running(list(given)).values()]
            if case.op in FILLED:
                assert len(actual[0]) == -(-len(expected[0]) // BLOCK) * BLOCK
            if case.op in (*FILLED, spec.PACKED_ATTENTION):
                actual[0] = actual[0][: len(expected[0])]
            assert_outputs_match(case.op, actual, expected, case.magnifies)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_a_number_merges_nowhere_with_the_comparisons_of_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is LessEqual that is true for it, not GreaterEqual."""
    ops = openvino.opset15
    less_equal, greater_equal = ops.less_equal, ops.greater_equal

    def strange(a: Any, b: Any) -> Any:
        return ops.logical_or(ops.is_nan(a), ops.is_nan(b))

    monkeypatch.setattr(ops, "less_equal", lambda a, b: ops.logical_or(less_equal(a, b), strange(a, b)))
    monkeypatch.setattr(
        ops, "greater_equal", lambda a, b: ops.logical_and(greater_equal(a, b), ops.logical_not(strange(a, b)))
    )
    test_operators_agree_with_the_reference(next(case for case in CASES if case.name == "zeros, NaN and infinity"))


@pytest.mark.parametrize("element_type", ["f32", "bf16"])
def test_attention_of_ever_changing_lengths(element_type: str) -> None:
    """One compiled attention, lengths around the steps of its kernels in an order that jumps up and down.

    Two of three have rows behind the tokens.
    """
    from openvino import opset15 as op

    heads, channels = 2, 64
    qkv, starts = op.parameter([-1, 3 * channels], np.float32), op.parameter([2], np.int32)
    (mixed,) = CONVERTERS[spec.PACKED_ATTENTION.name][0](
        op.convert(qkv, element_type).output(0), starts.output(0), heads=heads
    )
    model = openvino.Model([op.convert(mixed, "f32").output(0)], [qkv, starts], "attention")
    running = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "dynamic"})
    first: dict[int, Array] = {}
    random = np.random.default_rng(0)
    lengths = [2, 3, 130, 15, 16, 17, 2, 64, 65, 63, 33, 31, 257, 4, *random.integers(2, 300, 60), 3, 2, 130]
    for length in lengths:
        values = np.random.default_rng(int(length)).standard_normal((length, 3 * channels)).astype(np.float32)
        cu_seqlens = np.array([0, length], np.int32)
        others = np.full((length % 3 * 7, 3 * channels), 100, np.float32)
        actual = np.array(running([np.concatenate([values, others]), cu_seqlens])[0])[:length]
        expected = reference.packed_attention(values, cu_seqlens, heads=heads)
        np.testing.assert_allclose(actual, expected, atol=1e-5 if element_type == "f32" else 5e-2)
        assert_same_bits(actual, first.setdefault(int(length), actual))


def test_every_operator_that_is_left_has_a_converter() -> None:
    assert set(CONVERTERS) == set(spec.OPS) - {spec.LABELS.name}
    for name, (_, arguments) in CONVERTERS.items():
        assert set(arguments.values()) <= {attribute.name for attribute in spec.OPS[name].attributes}


# Whole models.


def assert_same_results(actual: EngineOutput, expected: EngineOutput, size: Size) -> None:
    """Equal decisions, logits within LOGITS, labels equal wherever two classes are not closer than LABEL_MARGIN."""
    for name in ("logits", "labels", "token_counts", "token_map"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
    np.testing.assert_array_equal(actual.token_counts, expected.token_counts)
    np.testing.assert_array_equal(actual.token_map, expected.token_map)
    np.testing.assert_allclose(actual.logits, expected.logits, rtol=0, atol=LOGITS)
    differs = actual.labels != expected.labels
    if differs.any():
        height, width = actual.logits.shape[2:]
        patch = -(-size[0] // height)
        margins = label_margins(expected.logits.transpose(0, 2, 3, 1), (height * patch, width * patch))
        assert margins[:, : size[0], : size[1]][differs].max() < LABEL_MARGIN
        assert differs.mean() < 1e-3


def both(path: Path) -> tuple[OpenVinoEngine, OnnxRuntimeEngine]:
    return OpenVinoEngine(path, threads=2), OnnxRuntimeEngine(path, device="cpu", threads=2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_same_results_as_onnx_runtime(network: Callable[..., Path], name: str, precision: str) -> None:
    ours, theirs = both(network(name, precision))
    assert ours.card == theirs.card
    pictures = unlike_pictures(ours.card.size)
    actual, expected = ours.run(pictures), theirs.run(pictures)
    if precision == "fp32":
        assert_same_results(actual, expected, ours.card.size)
        return
    # ONNX Runtime rounds every activation to float16, OpenVINO computes such a model in float32.
    np.testing.assert_allclose(actual.token_counts, expected.token_counts, rtol=0.1)
    assert actual.logits.dtype == np.float32
    assert (actual.labels == expected.labels).mean() > 0.9


@pytest.mark.parametrize("merge", [True, False])
def test_same_results_with_the_trained_sample(sample_model: Path, dense_sample_model: Path, merge: bool) -> None:
    ours, theirs = both(sample_model if merge else dense_sample_model)
    # Scene 5 is a near tie: without AVX-512 two of its windows change ranks.
    pictures = np.stack([draw_scene(*ours.card.size, seed).image for seed in (0, 1, 2, 3, 4, 6)])
    assert_same_results(ours.run(pictures), theirs.run(pictures), ours.card.size)


@pytest.mark.parametrize("threshold", [2.0, 0.99, 0.5, 0.0, -1.0])
def test_results_agree_at_every_threshold(network: Callable[..., Path], threshold: float) -> None:
    ours, theirs = both(network("masks"))
    pictures = unlike_pictures(ours.card.size)
    actual = ours.run(pictures, threshold)
    assert_same_results(actual, theirs.run(pictures, threshold), ours.card.size)
    if threshold == 2.0:
        assert (actual.token_counts[:, 1] == 65).all()
    if threshold == -1.0:
        assert (actual.token_counts[:, 1] == 17).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_picture_has_the_same_bits_in_any_batch(
    network: Callable[..., Path], precision: str, request: pytest.FixtureRequest
) -> None:
    if precision == "bf16":
        request.getfixturevalue("bf16")
    engine = OpenVinoEngine(network("masks"), precision=precision, threads=2)
    pictures = unlike_pictures(engine.card.size)
    alone = [engine.run(picture[None]) for picture in pictures]
    for order in (np.arange(7), np.arange(7)[::-1], np.array([3, 3, 0, 6])):
        batch = engine.run(pictures[order])
        for name in ("logits", "labels", "token_counts", "token_map"):
            together = np.concatenate([getattr(alone[index], name) for index in order])
            assert_same_bits(getattr(batch, name), together, name)


def test_results_stay_when_the_engine_runs_again(network: Callable[..., Path]) -> None:
    engine = OpenVinoEngine(network("masks"), threads=1)
    pictures = unlike_pictures(engine.card.size)
    first = engine.run(pictures[:1])
    kept = first.logits.copy()
    engine.run(pictures[1:2])
    np.testing.assert_array_equal(first.logits, kept)


def test_memory_does_not_grow_with_the_number_of_shapes(network: Callable[..., Path]) -> None:
    """OpenVINO keeps kernels per shape: limited, or every picture of a folder would cost memory for good."""
    engine = OpenVinoEngine(network("many shapes"), threads=2)
    pictures = [drawn_scene(*engine.card.size, seed=seed) for seed in range(10)]
    process, random, resident, shapes = psutil.Process(), np.random.default_rng(0), [], set()
    for index in range(240):
        output = engine.run(pictures[index % 10][None], float(random.uniform(0.4, 0.9)))
        shapes.add(tuple(output.token_counts[0]))
        resident.append(process.memory_info().rss)
    assert len(shapes) > 100
    assert resident[-1] - resident[80] < 28e6  # 16 MB with the limit, 40 without


# bfloat16.


@pytest.mark.usefixtures("bf16")
class TestBfloat16:
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    @pytest.mark.parametrize("name", MODELS)
    def test_outputs_are_of_the_same_form(self, network: Callable[..., Path], name: str, precision: str) -> None:
        path = network(name, precision)
        lowered, exact = (OpenVinoEngine(path, precision=which, threads=2) for which in ("bf16", "fp32"))
        pictures = unlike_pictures(lowered.card.size)
        actual, expected = lowered.run(pictures), exact.run(pictures)
        for key in ("logits", "labels", "token_counts", "token_map"):
            ours, theirs = getattr(actual, key), getattr(expected, key)
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), key
        assert np.isfinite(actual.logits).all()
        # The local merge sees nothing that was computed in bfloat16.
        np.testing.assert_array_equal(actual.token_counts[:, :2], expected.token_counts[:, :2])
        if lowered.card.merge is None or len(lowered.card.merge.layers) == 1:
            np.testing.assert_array_equal(actual.token_map, expected.token_map)
            assert not np.array_equal(actual.logits, expected.logits) or lowered.card.merge

    @pytest.mark.parametrize("merge", [True, False])
    def test_the_trained_sample_keeps_its_labels(
        self, sample_model: Path, dense_sample_model: Path, merge: bool
    ) -> None:
        path = sample_model if merge else dense_sample_model
        lowered, exact = (OpenVinoEngine(path, precision=which, threads=2) for which in ("bf16", "fp32"))
        pictures = np.stack([draw_scene(*exact.card.size, seed).image for seed in range(12)])
        actual, expected = lowered.run(pictures), exact.run(pictures)
        assert (actual.labels == expected.labels).mean() >= 0.995
        np.testing.assert_allclose(actual.token_counts.mean(axis=0), expected.token_counts.mean(axis=0), rtol=0.01)

    def test_linear_layers_compute_in_bfloat16(self, sample_model: Path) -> None:
        """All but those of the attention before the local merge."""
        from algm_trt.runtime.backends.openvino.model import read_model

        types = [
            str(node.get_output_element_type(0).get_type_name())
            for node in read_model(sample_model, bf16=True).get_ordered_ops()
            if node.get_type_name() == "MatMul" and node.input_value(1).get_node().get_type_name() == "Convert"
        ]
        assert types.count("bf16") == len(types) > 20

    def test_a_cpu_without_it_is_an_error(self, sample_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = openvino.Core.get_property

        def without(core: Any, device: str, name: str) -> Any:
            return openvino.Type.f32 if name == "INFERENCE_PRECISION_HINT" else real(core, device, name)

        monkeypatch.setattr(openvino.Core, "get_property", without)
        with pytest.raises(MissingDependencyError, match=r"no bfloat16 arithmetic for this CPU .*--cpu-precision fp32"):
            OpenVinoEngine(sample_model, precision="bf16")
        OpenVinoEngine(sample_model)


# The cache of compiled models.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of compiled models in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "algm-trt" / "openvino"


def blobs(cache: Path) -> set[str]:
    return {file.name for file in cache.glob("*.blob")}


def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every model that is compiled."""
    real, calls = openvino.Core.compile_model, []

    def counted(core: Any, *arguments: Any, **named: Any) -> Any:
        calls.append("compiled")
        return real(core, *arguments, **named)

    monkeypatch.setattr(openvino.Core, "compile_model", counted)
    return calls


class TestCache:
    def test_the_second_time_nothing_is_compiled(
        self, network: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = compilations(monkeypatch)
        first, second = (OpenVinoEngine(network("masks"), threads=2) for _ in range(2))
        assert calls == ["compiled"]
        assert len(blobs(cache)) == 1
        assert first.card == second.card
        pictures = unlike_pictures(first.card.size)
        for name in ("logits", "labels", "token_counts", "token_map"):
            assert_same_bits(getattr(first.run(pictures), name), getattr(second.run(pictures), name), name)

    @pytest.mark.usefixtures("bf16")
    def test_another_model_precision_thread_count_or_version_does_not_hit(
        self, network: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = compilations(monkeypatch)
        model = network("one window")
        OpenVinoEngine(model, threads=2)
        OpenVinoEngine(network("one class"), threads=2)
        OpenVinoEngine(model, precision="bf16", threads=2)
        OpenVinoEngine(model, threads=1)
        monkeypatch.setattr(openvino, "__version__", "2099.1.0")
        assert OpenVinoEngine(model, threads=2).description == "OpenVINO 2099.1.0 on CPU, fp32"
        assert len(calls) == 5

    def test_an_installation_without_sources_has_a_cache_too(
        self, network: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stripped(_: object) -> str:
            raise OSError("could not get source code")

        monkeypatch.setattr(inspect, "getsource", stripped)
        calls = compilations(monkeypatch)
        for _ in range(2):
            OpenVinoEngine(network("one window"), threads=2)
        assert calls == ["compiled"]

    def test_a_copy_of_the_model_hits(
        self, network: Callable[..., Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = compilations(monkeypatch)
        copy = tmp_path / "copy.onnx"
        copy.write_bytes(network("one window").read_bytes())
        OpenVinoEngine(network("one window"))
        OpenVinoEngine(copy)
        assert calls == ["compiled"]

    def test_a_file_whose_time_cannot_be_set_hits(
        self, network: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(1, "Operation not permitted", str(path))  # another user's, or a read-only disk

        OpenVinoEngine(network("one window"))
        calls = compilations(monkeypatch)
        monkeypatch.setattr(Path, "touch", refuse)
        OpenVinoEngine(network("one window"))
        assert calls == []

    def test_only_the_last_few_are_kept(self, network: Callable[..., Path], cache: Path) -> None:
        for threads in range(1, CACHED_MODELS + 3):
            OpenVinoEngine(network("one window"), threads=threads)
        assert len(blobs(cache)) == CACHED_MODELS

    @pytest.mark.parametrize("damage", [b"", b"nonsense", None])
    def test_a_damaged_file_is_made_again(
        self, network: Callable[..., Path], cache: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        OpenVinoEngine(network("one window"))
        (name,) = blobs(cache)
        whole = (cache / name).read_bytes()
        (cache / name).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        calls = compilations(monkeypatch)
        engine = OpenVinoEngine(network("one window"))
        assert calls == ["compiled"]
        assert len((cache / name).read_bytes()) == len(whole)
        engine.run(unlike_pictures(engine.card.size))

    @pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.9])
    def test_a_file_with_one_other_byte_is_made_again(
        self, network: Callable[..., Path], cache: Path, place: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        OpenVinoEngine(network("one window"))
        (name,) = blobs(cache)
        whole = (cache / name).read_bytes()
        at = int(len(whole) * place)
        (cache / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        calls = compilations(monkeypatch)
        OpenVinoEngine(network("one window"))
        assert calls == ["compiled"]

    def test_a_cache_that_cannot_be_written_is_no_error(
        self, network: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("not a folder")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        engine = OpenVinoEngine(network("one window"))
        engine.run(unlike_pictures(engine.card.size))


# Errors.


class TestErrors:
    def test_openvino_not_installed(self, sample_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def without(name: str, *arguments: Any, **named: Any) -> Any:
            if name.split(".")[0] == "openvino":
                raise ModuleNotFoundError("No module named 'openvino'", name="openvino")
            return real(name, *arguments, **named)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingDependencyError, match=r"pip install 'algm-trt\[openvino\]'") as caught:
            OpenVinoEngine(sample_model)
        assert caught.value.exit_code == 4

    def test_an_old_openvino(self, sample_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openvino, "__version__", "2025.4.1-20426-releases")
        with pytest.raises(MissingDependencyError, match=r"OpenVINO 2025\.4\.1 cannot convert.*pip install -U"):
            OpenVinoEngine(sample_model)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
    def test_not_a_whole_model(self, sample_model: Path, tmp_path: Path, share: float) -> None:
        path = tmp_path / "model.onnx"
        data = sample_model.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(AlgmError, match="not a model"):
            OpenVinoEngine(path)

    def test_not_onnx(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_text("not a model")
        with pytest.raises(EngineError, match="not a model that OpenVINO can open"):
            OpenVinoEngine(path)

    @pytest.mark.parametrize("domain", ["", "elsewhere", "algm"])
    def test_somebody_elses_model(self, tmp_path: Path, domain: str) -> None:
        one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        two = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"], domain=domain)], "g", [one], [two])
        path = tmp_path / "model.onnx"
        opsets = [onnx.helper.make_opsetid(name, 20 if not name else 1) for name in {"", domain}]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        error, message = (EngineError, domain) if domain else (ModelCardError, "carries no model card")
        with pytest.raises(error, match=message) as caught:
            OpenVinoEngine(path)
        assert len(str(caught.value).splitlines()) == 1

    def test_wrong_pictures_and_thresholds(self, network: Callable[..., Path]) -> None:
        engine = OpenVinoEngine(network("padded, dense"))
        with pytest.raises(UsageError, match="images must be"):
            engine.run(np.zeros((1, 5, 5, 3), np.uint8))
        with pytest.raises(UsageError, match="takes no threshold"):
            engine.run(np.zeros((1, 121, 95, 3), np.uint8), 0.5)

    @pytest.mark.parametrize(
        "said",
        ["out of memory\nat somewhere.cpp:1", "Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nout of memory"],
    )
    def test_a_failing_run_is_one_line(self, network: Callable[..., Path], said: str) -> None:
        class Broken:
            def infer(self, _: object) -> None:
                raise RuntimeError(said)

        engine = OpenVinoEngine(network("one window"))
        engine._streams = Streams([Broken()])
        with pytest.raises(EngineError, match=r"^OpenVINO failed on a picture: out of memory$"):
            engine.run(unlike_pictures(engine.card.size))

    def test_the_first_run_of_a_process_is_alone_and_later_ones_are_not(
        self, network: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running: list[int] = []
        most: list[int] = []
        together = threading.Barrier(2)

        class Request:
            def infer(self, _: object) -> dict[str, Any]:
                running.append(1)
                most.append(len(running))
                if openvino_engine._HAS_RUN.is_set():
                    together.wait(10)
                else:
                    time.sleep(0.05)
                running.pop()
                return dict.fromkeys(("logits", "token_counts", "token_map"), np.zeros((1, 1), np.float32))

        monkeypatch.setattr(openvino_engine, "_HAS_RUN", threading.Event())
        engine = OpenVinoEngine(network("one window"))
        engine._streams = Streams([Request(), Request()])
        pictures = np.zeros((5, *engine.card.size, 3), np.uint8)
        engine.run(pictures)
        assert most == [1, *most[1:]]
        assert max(most) == 2

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="cannot be read"):
            OpenVinoEngine(tmp_path / "model.onnx")

    def test_bytes_would_become_float32(self, tmp_path: Path, cache: Path) -> None:
        path = tmp_path / "int8.onnx"
        onnx.save(tiny_model(precision="int8"), path)
        with pytest.raises(UsageError, match="an int8 model is for ONNX Runtime"):
            OpenVinoEngine(path)
        assert not blobs(cache)

    def test_unknown_precision(self, sample_model: Path) -> None:
        with pytest.raises(UsageError, match="unknown CPU precision 'fp16'"):
            OpenVinoEngine(sample_model, precision="fp16")


# As users call it.


def test_opened_by_its_options(sample_model: Path) -> None:
    engine = open_engine(sample_model, EngineOptions(backend="openvino", threads=1))
    assert engine.description == f"OpenVINO {openvino.__version__.split('-')[0]} on CPU, fp32"
    engine.close()


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_infer_gives_the_masks_of_onnx_runtime(sample_model: Path, tmp_path: Path, mode: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, (height, width) in enumerate([(192, 192), (16, 16), (193, 191), (97, 401), (300, 260), (17, 37)]):
        Image.fromarray(draw_scene(height, width, index).image).save(pictures / f"p{index}.png")
    masks = {}
    for backend in ("onnxruntime", "openvino"):
        out = tmp_path / backend
        command = [sys.executable, "-c", "import sys; from algm_trt.runtime.cli import main; sys.exit(main())"]
        arguments = ["--engine", sample_model, "-o", out, "--backend", backend, "--mode", mode, "--save", "labels"]
        done = subprocess.run(
            [*command, pictures, *arguments], capture_output=True, text=True, env=os.environ, check=False, timeout=300
        )
        assert (done.returncode, done.stderr) == (0, "")
        masks[backend] = [np.array(Image.open(path)) for path in sorted(out.rglob("*.png"))]
    assert len(masks["openvino"]) == len(masks["onnxruntime"]) == 6
    # Pictures this small are even once enlarged: their windows are so alike that rounding decides some merges.
    shares = []
    for ours, theirs in zip(masks["openvino"], masks["onnxruntime"], strict=True):
        assert ours.shape == theirs.shape
        shares.append((ours == theirs).mean())
    assert min(shares) > 0.99
    assert np.median(shares) == 1.0


CLOSED_IN_ORDER = """
import ctypes, signal, sys
from algm_trt.engines.sample import SAMPLE_MODEL
from algm_trt.runtime.engine import open_engine
from algm_trt.runtime.engine_options import EngineOptions

def signal_stack():
    raw = (ctypes.c_size_t * 3)()
    ctypes.CDLL(None).sigaltstack(None, raw)
    return list(raw)

handled = []
signal.signal(signal.SIGINT, lambda number, frame: handled.append(number))
before = signal_stack()
engines = [open_engine(SAMPLE_MODEL, EngineOptions(backend="openvino")) for _ in range(2)]
for engine in engines:
    engine.close()
    assert signal_stack() == before
    signal.raise_signal(signal.SIGINT)
print(len(handled))
"""


def test_ctrl_c_is_handled_after_models_were_closed_in_order() -> None:
    """OpenVINO alone would leave the thread a freed stack to handle signals on: a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", CLOSED_IN_ORDER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
