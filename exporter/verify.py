"""Compare an exported model with PyTorch on pictures: numbers, not "it ran".

A picture on which PyTorch itself merges differently when its input moves by as much as the precision rounds is a near
tie: its decisions are rounding. Such pictures are shown and do not decide by themselves. With float16, of which they
say something, they count in the share of equal labels of all pictures together.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from algm_trt.exporter.segmenter import Segmenter, SegmenterOutput, full_size_logits, normalise
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.check_pictures import check_pictures

NOISE_TRIALS: Final = 3
_ARM: Final = ("aarch64", "arm64")
"""64-bit Arm, as Linux and macOS call it."""


@dataclass(frozen=True)
class Gate:
    """What a picture must reach, and what may excuse it.

    Attributes:
        logits: largest |difference| of a logit.
        labels: least share of equal labels.
        tokens: largest relative difference of a token count.
        noise: of the normalised pixels: a picture whose merging it changes is a near tie.
        together: least share of equal labels over all pictures, near ties included.
    """

    logits: float
    labels: float
    tokens: float
    noise: float
    together: float


# float16 carries 11 bits: its logits are compared by the labels that they give. Bytes carry less, and no picture is
# excused: what is measured is the rounding itself.
GATES: Final = {
    "fp32": Gate(1e-3, 0.9995, 0.0, 1e-6, 0.0),
    "fp16": Gate(float("inf"), 0.995, 0.01, 2.0**-11, 0.995),
    "int8": Gate(float("inf"), 0.95, 0.03, 0.0, 0.98),
}


@dataclass(frozen=True)
class PictureCheck:
    """One picture, PyTorch against ONNX Runtime.

    Attributes:
        name: of the picture.
        tokens: PyTorch's tokens [before, after local, after global].
        tokens_onnx: ONNX Runtime's.
        logits_difference: largest |difference| of the logits.
        labels_equal: share of pixels with equal labels.
        near_tie: whether the picture failed and its merging hangs on rounding; those that pass are not asked.
        passed: whether the picture reaches the gate; a near tie does not.
    """

    name: str
    tokens: tuple[int, ...]
    tokens_onnx: tuple[int, ...]
    logits_difference: float
    labels_equal: float
    near_tie: bool
    passed: bool


@dataclass(frozen=True)
class Verification:
    """All pictures, and the verdict.

    It passes if at least one picture is no near tie, all such pictures pass, and the mean share of equal labels over
    all pictures reaches `gate.together`.

    Attributes:
        gate: what was asked of the pictures.
        pictures: in the order in which they were compared.
        drawn: whether they are drawn scenes, not pictures of the user.
    """

    gate: Gate
    pictures: tuple[PictureCheck, ...]
    drawn: bool

    @property
    def passed(self) -> bool:
        """Whether the model may be trusted."""
        return not self.complaint

    @property
    def complaint(self) -> str:
        """Why the model may not be trusted; "" if it may."""
        decided = [picture for picture in self.pictures if not picture.near_tie]
        if not decided:
            return "every picture is a near tie, so that none decides: give others with --verify-images DIR"
        failed = sum(not picture.passed for picture in decided)
        if failed:
            return f"ONNX Runtime and PyTorch disagree on {failed} of {len(self.pictures)} pictures"
        together = float(np.mean([picture.labels_equal for picture in self.pictures]))
        if together < self.gate.together:
            return f"{together:.2%} of the labels of all pictures are equal, at least {self.gate.together:.1%} must be"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        data = asdict(self) | {"passed": self.passed}
        data["gate"] = {key: value for key, value in data["gate"].items() if np.isfinite(value)}
        return data

    def table(self) -> str:
        """For people."""
        lines = [f"{'picture':<28} {'tokens':>18} {'onnx':>18} {'max |dlogit|':>12} {'labels equal':>12}  verdict"]
        for p in self.pictures:
            verdict = "ok" if p.passed else "near tie" if p.near_tie else "FAILED"
            tokens, tokens_onnx = (">".join(map(str, counts)) for counts in (p.tokens, p.tokens_onnx))
            lines.append(
                f"{p.name[-28:]:<28} {tokens:>18} {tokens_onnx:>18} {p.logits_difference:>12.1e} "
                f"{p.labels_equal:>12.4%}  {verdict}"
            )
        if any(p.near_tie for p in self.pictures):
            lines.append("near tie: noise as small as a rounding changes what merges; it does not decide by itself")
        if self.gate is GATES["fp16"] and platform.machine() in _ARM:
            lines.append(
                "ONNX Runtime for Arm sums float16 numbers in float16, less exactly than a GPU: more is equal where it "
                "runs the file on an x86-64 CPU"
            )
        return "\n".join(lines)


def verify(path: Path, model: Segmenter, card: ModelCard, folder: str | Path | None) -> Verification:
    """Run both on the same pictures.

    Args:
        path: the ONNX file.
        model: the network it was made of, float32.
        card: the file's model card.
        folder: pictures to take, the first few that decode; None draws scenes.

    Raises:
        UsageError: the folder has no picture that can be read.
        EngineError: ONNX Runtime cannot run the model.
    """
    engine = OnnxRuntimeEngine(path, device="cpu", own_labels=True)
    gate = GATES[card.precision]
    checks = [_check(name, picture, engine, model, card, gate) for name, picture in check_pictures(folder, card)]
    engine.close()
    return Verification(gate, tuple(checks), drawn=folder is None)


def _check(
    name: str, picture: NDArray[np.uint8], engine: OnnxRuntimeEngine, model: Segmenter, card: ModelCard, gate: Gate
) -> PictureCheck:
    found = engine.run(picture[None])
    pixels = normalise(torch.from_numpy(picture[None]), model.config.normalization)
    expected = _run(model, pixels)
    labels = full_size_logits(expected.logits, card.patch_size, card.size).argmax(dim=1).numpy()
    difference = float(np.abs(found.logits - expected.logits.numpy()).max())
    equal = float(np.mean(found.labels == labels))
    counts, counts_onnx = expected.token_counts.numpy()[0], found.token_counts[0]
    passed = bool(
        difference <= gate.logits
        and equal >= gate.labels
        and np.all(np.abs(counts - counts_onnx) <= gate.tokens * counts)
    )
    return PictureCheck(
        name=name,
        tokens=tuple(counts.tolist()),
        tokens_onnx=tuple(counts_onnx.tolist()),
        logits_difference=difference,
        labels_equal=equal,
        near_tie=not passed and hangs_on(gate.noise, model, pixels, expected),
        passed=passed,
    )


@torch.no_grad()
def _run(model: Segmenter, pixels: torch.Tensor) -> SegmenterOutput:
    output: SegmenterOutput = model(pixels)
    return output


def hangs_on(noise: float, model: Segmenter, pixels: torch.Tensor, expected: SegmenterOutput) -> bool:
    """Whether noise of this size on the pixels (1, 3, H, W) changes which tokens merge, in one of a few trials."""
    if model.merge is None or noise == 0:
        return False
    generator = torch.Generator().manual_seed(0)
    for _ in range(NOISE_TRIALS):
        moved = pixels + noise * torch.randn(pixels.shape, generator=generator)
        if not torch.equal(_run(model, moved).token_map, expected.token_map):
            return True
    return False
