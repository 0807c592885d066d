"""The cases of the self-test: clear decisions, every operator, and complaints about every kind of difference."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.compare import CLEAR, global_margin, label_margins, local_margin

from algm_trt.plugins import spec
from algm_trt.plugins.cases import Case, make_cases

CASES = make_cases()
TYPES = ("float32", "float16")


def test_every_operator_has_a_case_and_names_are_unique() -> None:
    assert {case.op.name for case in CASES} == set(spec.OPS)
    assert len({case.name for case in CASES}) == len(CASES)


def test_cases_are_the_same_every_time() -> None:
    for case, again in zip(CASES, make_cases(), strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(case.inputs, again.inputs, strict=True))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decisions_are_clear(case: Case, dtype: str) -> None:
    inputs, attributes = case.inputs_as(dtype), case.attributes
    if case.op is spec.LOCAL_MERGE:
        x, threshold = inputs
        margin = local_margin(x, float(threshold), attributes["grid"], attributes["window"], attributes["extra_tokens"])
        assert margin > 100 * CLEAR
    if case.op is spec.GLOBAL_MERGE:
        assert global_margin(inputs[0], inputs[2], attributes["layer"], attributes["extra_tokens"]) > 100 * CLEAR
    if case.op is spec.LABELS:
        margins = label_margins(inputs[0], attributes["size"])
        assert ((margins == 0) | (margins > CLEAR)).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_merges_merge_some_tokens_and_keep_others(case: Case) -> None:
    if case.op.size_outputs:
        rows = int(np.prod(case.inputs[0].shape[:-1]))
        assert 0.5 * rows < case.expected()[0].shape[0] < rows


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_complaints(case: Case, dtype: str) -> None:
    right = case.expected(dtype)
    assert case.complaint(right, dtype) is None
    assert case.complaint(right[:-1], dtype) == f"{case.name}: {len(right) - 1} outputs, expected {len(right)}"
    for index, tensor in enumerate(case.op.outputs[: case.outputs]):
        wrong = [value.copy() for value in right]
        wrong[index].flat[0] += 1
        assert case.complaint(wrong, dtype) == f"{case.name}: 1 of {right[index].size} values of {tensor.name} differ"
        wrong[index] = right[index][..., None]
        assert f"{tensor.name} is" in (case.complaint(wrong, dtype) or "")


def test_a_value_that_is_no_number_is_a_difference() -> None:
    case = next(case for case in CASES if case.op is spec.PACKED_ATTENTION)
    wrong = case.expected()[0].copy()
    wrong[0, 0] = np.nan
    assert case.complaint([wrong]) == f"{case.name}: 1 of {wrong.size} values of y differ"
