"""Models without their labels: what is left is a whole model with the same scores, and labels are made of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.compare import assert_same_bits, label_margins
from helpers.pictures import drawn_scene

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.plugins import spec
from algm_trt.runtime.backends.onnx_model import SCORES
from algm_trt.runtime.backends.onnx_scores import without_labels
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine

MODELS = {
    "merged": ExportOptions(verify=False),
    "dense": ExportOptions(merge=False, verify=False),
    "float16": ExportOptions(precision="fp16", verify=False),
    "padded": ExportOptions(size=(187, 190), verify=False),
}
# Below this difference of the two best classes, two roundings of the interpolation may choose differently.
LABEL_MARGIN = 1e-5


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "model.onnx"
    return export_onnx(sample_checkpoint, path, MODELS[request.param]).path


def test_labels_and_what_only_they_need_are_left_out(model: Path) -> None:
    scores = without_labels(model)
    assert scores is not None
    whole, left = onnx.load(model), onnx.load_model_from_string(scores)
    onnx.checker.check_model(left, full_check=True)
    assert [value.name for value in left.graph.output] == list(SCORES)
    assert spec.LABELS.name not in {node.op_type for node in left.graph.node}
    names = [node.name for node in left.graph.node]
    assert names == [node.name for node in whole.graph.node if not node.name.startswith("labels/")]
    for kept in ("functions", "metadata_props", "opset_import"):
        assert getattr(left, kept) == getattr(whole, kept)
    for kept in ("input", "initializer"):
        assert getattr(left.graph, kept) == getattr(whole.graph, kept)


def test_scores_are_those_of_the_whole_file_and_labels_too(model: Path) -> None:
    engine, whole = OnnxRuntimeEngine(model, device="cpu"), OnnxRuntimeEngine(model, device="cpu", own_labels=True)
    assert engine.card == whole.card
    height, width = engine.card.size
    images = np.stack([drawn_scene(height, width, seed) for seed in range(3)])
    found, expected = engine.run(images), whole.run(images)
    for name in SCORES:
        assert_same_bits(getattr(found, name), getattr(expected, name), name)
    assert found.labels.shape == (3, height, width)
    assert found.labels.dtype == expected.labels.dtype
    padded = tuple(side * engine.card.patch_size for side in engine.card.grid)
    margins = label_margins(expected.logits.transpose(0, 2, 3, 1), padded)[:, :height, :width]
    differs = found.labels != expected.labels
    assert margins[differs].max(initial=0) < LABEL_MARGIN
    assert found.labels is found.labels, "they are made once"


def test_what_only_a_branch_reads_is_kept(tmp_path: Path) -> None:
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    vector = partial(value, elem_type=onnx.TensorProto.FLOAT, shape=[2])
    inner = onnx.helper.make_graph([node("Neg", ["outer"], ["negative"])], "inner", [], [vector("negative")])
    nested = node("If", ["flag"], ["deep"], then_branch=inner, else_branch=inner)
    branch = onnx.helper.make_graph([nested], "branch", [], [vector("deep")])
    nodes = [
        node("Abs", ["x"], ["outer"], name="read in the inner branch"),
        node("Exp", ["x"], ["grown"], name="read by the labels"),
        node("Round", ["grown"], ["labels"], name="labels"),
        node("If", ["flag"], ["logits"], name="if", then_branch=branch, else_branch=branch),
    ]
    flag = value("flag", onnx.TensorProto.BOOL, [])
    graph = onnx.helper.make_graph(nodes, "g", [vector("x"), flag], [vector("logits"), vector("labels")])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    left = onnx.load_model_from_string(without_labels(tmp_path / "model.onnx") or b"")
    onnx.checker.check_model(left, full_check=True)
    assert [node.name for node in left.graph.node] == ["read in the inner branch", "if"]


def spoilt(content: bytes, random: np.random.Generator) -> bytes:
    """The content cut short, or with some bytes changed, most of them near its begin."""
    changed = np.frombuffer(content, np.uint8)[: random.integers(1, len(content) + 1)].copy()
    places = (random.random(5) ** 8 * len(changed)).astype(int)
    changed[places] = random.integers(0, 256, 5)
    return changed.tobytes()


def test_files_without_labels_are_left_to_the_library(sample_model: Path, tmp_path: Path) -> None:
    content = sample_model.read_bytes()
    for name, data in {"empty": b"", "text": b"no model", "cut": content[: len(content) // 2]}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert without_labels(path) is None, name
    random = np.random.default_rng(0)
    for _ in range(200):
        path.write_bytes(spoilt(content, random))
        without_labels(path)  # whatever comes of it, it is no error here
    scores = tmp_path / "scores.onnx"
    scores.write_bytes(without_labels(sample_model) or b"")
    assert without_labels(scores) is None
    with pytest.raises(FileNotFoundError):
        without_labels(tmp_path / "missing.onnx")
