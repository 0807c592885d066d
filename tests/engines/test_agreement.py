"""Float16 against float32 on ONNX Runtime: the gates, refinements, overflow found on pictures, pictures of a folder."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from helpers.engines import compare_precisions, model_that_float16_ruins, tiny_model, with_initializer
from helpers.models import LINEAR

from algm_trt.engines.agreement import (
    Agreement,
    PictureAgreement,
    fit_float16,
    with_ranges,
)
from algm_trt.engines.precision import float16_tensors, to_float16
from algm_trt.engines.source import card_of, read_model
from algm_trt.plugins.errors import AlgmError, VerificationError
from algm_trt.runtime.check_pictures import check_pictures


def compare(model: onnx.ModelProto, half: onnx.ModelProto | None = None) -> Agreement:
    card = card_of(model)
    assert card is not None
    return compare_precisions(model, half or to_float16(model), card, check_pictures(None, card))


def fit(model: onnx.ModelProto) -> Agreement:
    card = card_of(model)
    assert card is not None
    return fit_float16(model, card, check_pictures(None, card))[1]


def test_float16_keeps_the_labels() -> None:
    agreement = compare(tiny_model(LINEAR))
    assert agreement.passed
    assert agreement.labels_equal >= 0.995
    assert agreement.tokens_difference <= 0.01
    assert len(agreement.pictures) == 4
    assert "drawn scene 0" in agreement.table()
    assert agreement.to_dict()["labels_equal"] == agreement.labels_equal


def test_lost_digits_fail_the_gate() -> None:
    agreement = compare(model_that_float16_ruins())
    assert not agreement.passed
    assert agreement.labels_equal < 0.9


def test_no_refinement_where_none_is_needed() -> None:
    agreement = fit(tiny_model(LINEAR))
    assert agreement.passed
    assert agreement.refinements == ()
    assert "in float32" not in agreement.table()


def test_sharp_attention_is_refined_until_the_labels_hold() -> None:
    model = with_initializer(tiny_model(LINEAR), "encoder.blocks.0.attn.qkv.weight_t", 16)
    agreement = fit(model)
    assert agreement.passed
    assert agreement.refinements == ("merged stream", "before the first merge")
    assert agreement.table().endswith("because this network needs it: merged stream, before the first merge")


def test_what_no_refinement_saves_fails_the_gate() -> None:
    agreement = fit(model_that_float16_ruins())
    assert not agreement.passed
    assert len(agreement.refinements) == 2


def test_dense_networks_are_compared_once() -> None:
    agreement = fit(model_that_float16_ruins(merge=None))
    assert not agreement.passed
    assert agreement.refinements == ()


def test_a_model_agrees_with_itself() -> None:
    model = tiny_model()
    agreement = compare(model, model)
    assert agreement.labels_equal == 1
    assert agreement.tokens_difference == 0


@pytest.mark.parametrize(("labels", "tokens", "passes"), [(0.995, 99, True), (0.9949, 100, False), (1.0, 98, False)])
def test_gates_are_99_5_percent_of_labels_and_1_percent_of_tokens(labels: float, tokens: int, passes: bool) -> None:
    picture = PictureAgreement("p", (100, 100, 100), (100, 100, tokens), labels)
    assert Agreement((picture,), ("x", 1.0)).passed is passes


def test_activations_beyond_float16_are_named() -> None:
    # Two weights that fit, and whose product does not.
    model = with_initializer(tiny_model(LINEAR), "encoder.blocks.1.mlp.fc1.weight_t", 3e3)
    model = with_initializer(model, "encoder.blocks.1.mlp.fc2.weight_t", 3e3)
    with pytest.raises(VerificationError, match=r"activations beyond float16 .*encoder\.blocks\.1\.mlp.* reaches"):
        compare(model)


def test_values_that_are_not_finite_in_float32_are_not_said_to_be_too_large_for_float16() -> None:
    model = with_initializer(tiny_model(LINEAR), "encoder.blocks.1.mlp.fc1.weight_t", 1e30)
    model = with_initializer(model, "encoder.blocks.1.mlp.fc2.weight_t", 1e30)
    first = r"in float32 itself \d+ tensors are not finite, the first is encoder\.blocks\.1\.mlp\.fc2/matmul: "
    with pytest.raises(VerificationError, match=first):
        compare(model, half=tiny_model(LINEAR))


def test_largest_activation_is_that_of_the_tensor() -> None:
    model = tiny_model(LINEAR)
    name, size = compare(model).largest_activation
    assert name in float16_tensors(model)
    watched = onnx.load_model_from_string(with_ranges(model, [name]))
    assert [value.name for value in watched.graph.output][-2:] == [
        f"range of {name}/ReduceMin",
        f"range of {name}/ReduceMax",
    ]
    assert 1 < size < 1000


def test_model_that_cannot_run_is_one_line() -> None:
    model = tiny_model(LINEAR)
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[4].op_type = "NoSuchOperator"
    with pytest.raises(AlgmError, match="ONNX Runtime cannot run the model") as caught:
        compare(model, broken)
    assert "\n" not in str(caught.value)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["sample_model", "dense_sample_model"])
def test_trained_sample_passes_on_its_pictures(
    kind: str, request: pytest.FixtureRequest, sample_pictures: Path
) -> None:
    source = read_model(request.getfixturevalue(kind))
    pictures = check_pictures(None, source.card) + check_pictures(sample_pictures, source.card)
    half, agreement = fit_float16(source.proto, source.card, pictures)
    assert agreement.passed, agreement.table()
    assert agreement.refinements == ()
    assert compare_precisions(source.proto, half, source.card, pictures).passed
    print(agreement.table())
