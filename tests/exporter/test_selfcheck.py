"""Rung L0 of the self-test: it passes here, and notices an operator that is wrong."""

from __future__ import annotations

import pytest
import torch

from algm_trt.exporter import selfcheck
from algm_trt.plugins import spec
from algm_trt.plugins.cases import make_cases


def test_operators_equal_the_reference() -> None:
    assert selfcheck.check_operators() == (len(make_cases()), [])


@pytest.mark.parametrize("name", list(spec.OPS))
def test_a_wrong_operator_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = selfcheck._OPERATORS[name]

    def wrong(*inputs: torch.Tensor, **attributes: object) -> tuple[torch.Tensor, ...]:
        outputs = right(*inputs, **attributes)
        first, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        return (first + 1, *others)

    monkeypatch.setitem(selfcheck._OPERATORS, name, wrong)
    count, complaints = selfcheck.check_operators()
    named = [case.name for case in make_cases() if case.op.name == name]
    assert [text.split(":")[0] for text in complaints] == named
    assert count == len(make_cases())
