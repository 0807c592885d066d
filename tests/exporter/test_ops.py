"""Rung L0: the torch operators against the NumPy reference, and as torch sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import (
    CASES,
    OpCase,
    append_case,
    attention_case,
    function_of,
    global_case,
    labels_case,
    local_case,
    reference_outputs,
    unmerge_case,
)
from helpers.compare import assert_outputs_match, label_margins
from torch import Tensor

from algm_trt.exporter import ops
from algm_trt.plugins import spec

# One small case per operator for the checks of torch's own machinery.
SMALL = (
    local_case("small", batch=2, grid=(4, 4), channels=8),
    global_case("small", [9, 14], channels=8),
    attention_case("small", [5, 3], depth=4),
    append_case("small", [5, 3], 4, 1),
    unmerge_case("small", [8, 9], 16, 4, 1),
    labels_case("small", 2, (3, 4), 5, (12, 16)),
)
DIFFERENTIABLE = [case for case in SMALL if case.op is not spec.LABELS]


def torch_arguments(case: OpCase) -> tuple[Any, ...]:
    """Inputs as tensors and attributes, matched to the operator's schema by name."""
    tensors = {t.name: torch.from_numpy(np.array(v)) for t, v in zip(case.op.inputs, case.inputs(), strict=True)}
    attributes = {name: list(value) if isinstance(value, tuple) else value for name, value in case.attributes.items()}
    given = tensors | attributes
    return tuple(given[argument.name] for argument in function_of(ops, case.op)._opoverload._schema.arguments)


@pytest.mark.parametrize("op", list(spec.OPS.values()), ids=lambda op: op.name)
def test_schema_has_the_names_of_the_contract(op: spec.OpSpec) -> None:
    schema = function_of(ops, op)._opoverload._schema
    wanted = [t.name for t in op.inputs] + [a.name for a in op.attributes if not a.hint]
    assert sorted(argument.name for argument in schema.arguments) == sorted(wanted)
    assert [argument.name for argument in schema.arguments][: len(op.inputs)] == [t.name for t in op.inputs]
    assert len(schema.returns) == len(op.outputs)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_agrees_with_the_reference(case: OpCase) -> None:
    inputs = case.inputs()
    result = function_of(ops, case.op)(*torch_arguments(case))
    outputs = [result] if isinstance(result, Tensor) else list(result)
    actual = [output.numpy() for output in outputs[: case.output_count]]
    expected = reference_outputs(case, inputs)
    if case.op is spec.LABELS:
        unclear = (label_margins(inputs[0], case.attributes["size"]) < 1e-6) & (not _exact(case))
        expected = (np.where(unclear, actual[0], expected[0]),)
    assert_outputs_match(case.op, actual, expected, case.magnifies)


def _exact(case: OpCase) -> bool:
    """Whole-number logits at a power of two times the grid: interpolation has no rounding, ties are ties."""
    return case.name in ("ties", "all equal")


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("check", ["test_schema", "test_faketensor", "test_autograd_registration"])
def test_operators_pass_the_checks_of_torch(case: OpCase, check: str) -> None:
    torch.library.opcheck(function_of(ops, case.op), torch_arguments(case), test_utils=check)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradient_is_that_of_the_plain_function(case: OpCase) -> None:
    """Finite differences of a weighted sum of the first output, along a random direction."""
    arguments = list(torch_arguments(case))
    first = arguments[0].double().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    operator = function_of(ops, case.op)

    def objective(x: Tensor) -> Tensor:
        given = [
            x,
            *(a.double() if isinstance(a, Tensor) and a.ndim and a.is_floating_point() else a for a in arguments[1:]),
        ]
        result = operator(*given)
        y = result if isinstance(result, Tensor) else result[0]
        weights = torch.randn(y.shape, generator=generator.manual_seed(1), dtype=torch.double)
        return (y * weights).sum()

    objective(first).backward()
    direction = torch.randn(first.shape, generator=generator.manual_seed(2), dtype=torch.double)
    # Merges compute in float32 inside, so the step is large and the comparison coarse.
    step = 1e-2
    with torch.no_grad():
        slope = (objective(first + step * direction) - objective(first - step * direction)) / (2 * step)
    assert first.grad is not None
    assert float((first.grad * direction).sum()) == pytest.approx(float(slope), rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_float16_keeps_its_type(case: OpCase) -> None:
    arguments = [
        a.half() if isinstance(a, Tensor) and a.ndim > 1 and a.is_floating_point() else a for a in torch_arguments(case)
    ]
    result = function_of(ops, case.op)(*arguments)
    y = result if isinstance(result, Tensor) else result[0]
    assert y.dtype == torch.float16
