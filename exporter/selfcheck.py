"""Rung L0 of the ladder: the PyTorch operators against the NumPy reference, on the CPU."""

from __future__ import annotations

import torch

from algm_trt.exporter import ops
from algm_trt.plugins import spec
from algm_trt.plugins.cases import Case, make_cases

_OPERATORS = {
    spec.LOCAL_MERGE.name: ops.local_merge,
    spec.GLOBAL_MERGE.name: ops.global_merge,
    spec.PACKED_ATTENTION.name: ops.packed_attention,
    spec.APPEND_TOKENS.name: ops.append_tokens,
    spec.UNMERGE.name: ops.unmerge,
    spec.LABELS.name: ops.labels,
}


def check_operators() -> tuple[int, list[str]]:
    """Run every case.

    Returns:
        How many cases there are, and what is wrong, one line per case that differs.
    """
    cases = make_cases()
    complaints = [case.complaint([tensor.numpy() for tensor in run(case)]) for case in cases]
    return len(cases), [text for text in complaints if text is not None]


def run(case: Case) -> tuple[torch.Tensor, ...]:
    """Outputs of the PyTorch operator in float32."""
    inputs = [torch.from_numpy(value.copy()) for value in case.inputs]
    outputs = _OPERATORS[case.op.name](*inputs, **case.attributes)
    return outputs if isinstance(outputs, tuple) else (outputs,)
