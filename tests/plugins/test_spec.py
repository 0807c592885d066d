"""The contract agrees with itself and with everything that is written against it."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from helpers.cases import CASES, function_of

from algm_trt.plugins import reference, spec

ALL = list(spec.OPS.values())


def _names(items: tuple[spec.Tensor, ...] | tuple[spec.Attribute, ...]) -> list[str]:
    return [item.name for item in items]


def test_operator_names_are_unmistakable() -> None:
    assert list(spec.OPS) == [op.name for op in ALL]
    assert all(name.startswith("Algm") for name in spec.OPS)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_names_are_unique_within_an_operator(op: spec.OpSpec) -> None:
    for names in (_names(op.inputs), _names(op.outputs), _names(op.attributes)):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_types_and_bounds(op: spec.OpSpec) -> None:
    assert {tensor.dtype for tensor in (*op.inputs, *op.outputs)} <= {"x", "float32", "int32"}
    for attribute in op.attributes:
        assert attribute.kind in ("int", "ints", "float")
        assert attribute.minimum <= attribute.maximum
        assert (attribute.kind == "ints") == (attribute.length > 1)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_size_tensors_are_scalars(op: spec.OpSpec) -> None:
    assert [index for index, tensor in enumerate(op.outputs) if tensor.name == "count"] == list(op.size_outputs)
    for index in op.size_outputs:
        assert op.outputs[index].shape == ()
        assert op.outputs[index].dtype == "int32"


def test_the_contract_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.LABELS.name = "Other"  # type: ignore[misc]


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_reference_takes_the_inputs_and_the_attributes_that_matter(op: spec.OpSpec) -> None:
    # `max_tokens` bounds memory, hints tune: neither changes a result.
    wanted = [a.name for a in op.attributes if not a.hint and a.name != "max_tokens"]
    parameters = list(inspect.signature(function_of(reference, op)).parameters)
    assert parameters[: len(op.inputs)] == _names(op.inputs)
    assert sorted(parameters[len(op.inputs) :]) == sorted(wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_respect_the_contract(case) -> None:  # type: ignore[no-untyped-def]
    inputs = case.inputs()
    assert len(inputs) == len(case.op.inputs)
    dimensions: dict[str, int] = {}
    for tensor, value in zip(case.op.inputs, inputs, strict=True):
        assert value.dtype == (inputs[0].dtype if tensor.dtype == "x" else tensor.dtype), tensor.name
        assert value.ndim == len(tensor.shape), tensor.name
        for name, extent in zip(tensor.shape, value.shape, strict=True):
            assert dimensions.setdefault(name, extent) == extent, f"{tensor.name}: {name}"
    for attribute in case.op.attributes:
        if not attribute.hint:
            given = case.attributes[attribute.name]
            values = given if isinstance(given, tuple) else (given,)
            assert len(values) == attribute.length
            assert all(attribute.minimum <= value <= attribute.maximum for value in values)
