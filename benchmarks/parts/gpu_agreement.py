"""How far the PyTorch model on a GPU is from itself in float32 on the CPU: logits, token counts, labels.

The CPU runs the plain operators, the GPU the kernels. Used by `gpu_model.py`.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from algm_trt.exporter import ops
from algm_trt.exporter.segmenter import Segmenter, SegmenterOutput, full_size_logits, normalise


@dataclass(frozen=True)
class Agreement:
    """One run compared with float32 on the CPU.

    Attributes:
        model: which network.
        run: which type and operators.
        pictures: how many were compared.
        logit_error: Frobenius norm of the difference over that of the reference.
        logit_worst: largest difference of a logit.
        counts_reference: mean tokens after each merge, by the reference.
        counts_difference: mean of the relative differences of an image's token counts after the last merge.
        labels_equal: share of pixels with the same label.
        label_kernel_equal: share of pixels where the label kernel says what PyTorch says of the same logits.
        same_bits_again: whether a second run gave the same bits.
        passed: whether the gates hold; None where there are none.
    """

    model: str
    run: str
    pictures: int
    logit_error: float
    logit_worst: float
    counts_reference: list[float]
    counts_difference: float
    labels_equal: float
    label_kernel_equal: float
    same_bits_again: bool
    passed: bool | None


@torch.inference_mode()
def compare(
    name: str, model: Segmenter, images: Tensor, threshold: float | None, device: str, gated: bool
) -> list[dict[str, Any]]:
    """Run a float32 model of the CPU on the device in float32 and float16, and compare.

    Args:
        name: of the model, for people.
        model: on the CPU, float32; stays so.
        images: (B, H, W, 3) uint8 on the CPU.
        threshold: of the local merge; None for that of the model.
        device: "cuda".
        gated: whether float16 must give 99.5 % of the labels and token counts within 1 %. Float32 always must: there
            the same decisions are expected but for similarities within rounding of a threshold.
    """
    pixels = normalise(images, model.config.normalization)
    expected = model(pixels, threshold)
    rows = []
    for run, dtype, must in (("float32", torch.float32, True), ("float16", torch.float16, gated)):
        other = copy.deepcopy(model).to(device, dtype)
        found = other(pixels.to(device, dtype), threshold)
        again = other(pixels.to(device, dtype), threshold)
        same = torch.equal(found.logits, again.logits) and torch.equal(found.token_map, again.token_map)
        rows.append(_row(name, run, expected, found, model.config.patch_size, same, must))
        print(
            "{model:12} {run:8} logits {logit_error:.2e}, labels {labels_equal:.4%}, counts {counts_difference:.3%}, "
            "passed {passed}".format(**rows[-1])
        )
    return rows


def _row(
    name: str, run: str, expected: SegmenterOutput, found: SegmenterOutput, patch: int, same: bool, gated: bool
) -> dict[str, Any]:
    wanted, logits = expected.logits.double(), found.logits.cpu().double()
    counts, others = expected.token_counts.double(), found.token_counts.cpu().double()
    equal, kernel = _labels_equal(expected.logits, found.logits, patch)
    difference = float(((others - counts).abs() / counts)[:, 2].mean())
    finite = bool(torch.isfinite(found.logits).all())
    holds = finite and same and equal >= 0.995 and kernel >= 0.999 and difference <= 0.01
    row = Agreement(
        model=name,
        run=run,
        pictures=len(wanted),
        logit_error=float((logits - wanted).norm() / wanted.norm()),
        logit_worst=float((logits - wanted).abs().max()),
        counts_reference=[round(float(value), 1) for value in counts.mean(dim=0)],
        counts_difference=round(difference, 6),
        labels_equal=round(equal, 6),
        label_kernel_equal=round(kernel, 6),
        same_bits_again=same,
        passed=holds if gated else None,
    )
    return asdict(row)


def _labels_equal(expected: Tensor, found: Tensor, patch: int) -> tuple[float, float]:
    """Shares of equal labels: found against expected, and the label kernel against PyTorch; picture by picture."""
    size = (expected.shape[2] * patch, expected.shape[3] * patch)
    equal, kernel = [], []
    for wanted, logits in zip(expected.split(1), found.split(1), strict=True):
        truth = full_size_logits(wanted, patch, size).argmax(dim=1)
        plain = full_size_logits(logits.float(), patch, size).argmax(dim=1)
        ours = ops.labels(logits.permute(0, 2, 3, 1), list(size))
        equal.append(float((plain.cpu() == truth).double().mean()))
        kernel.append(float((plain == ours).double().mean()))
    return sum(equal) / len(equal), sum(kernel) / len(kernel)
