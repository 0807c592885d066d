"""Float16 against float32 on ONNX Runtime: the same pictures through both graphs, compared before anything is built.

Both run on the CPU with the function bodies, so this judges what float16 does to weights, activations and merging
decisions; it does not run TensorRT's kernels. `fit_float16` compares with every rounding of an engine in place
(`algm_trt.engines.rounding`) and takes the cheapest conversion that passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from algm_trt.engines.precision import REFINEMENTS, float16_tensors, to_float16
from algm_trt.engines.rounding import with_roundings
from algm_trt.plugins.errors import AlgmError, MissingDependencyError, VerificationError
from algm_trt.plugins.spec import FLOAT16_MAX
from algm_trt.runtime.backends.onnxruntime_engine import cpu_session
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.check_pictures import Picture

LABELS_GATE: Final = 0.995
TOKENS_GATE: Final = 0.01

_RANGE_PREFIX: Final = "range of "


@dataclass(frozen=True)
class PictureAgreement:
    """One picture in both precisions.

    Attributes:
        name: of the picture.
        tokens: float32's tokens [before, after local, after global merging].
        tokens_fp16: float16's.
        labels_equal: share of pixels with equal labels.
    """

    name: str
    tokens: tuple[int, ...]
    tokens_fp16: tuple[int, ...]
    labels_equal: float

    @property
    def tokens_difference(self) -> float:
        """Largest relative difference of a token count."""
        return max(abs(half - full) / full for full, half in zip(self.tokens, self.tokens_fp16, strict=True))


@dataclass(frozen=True)
class Agreement:
    """All pictures, and the verdict: labels over all pixels together, token counts on the average picture.

    A single picture may sit on a near tie, where any rounding flips a merging decision; it is in the table.

    Attributes:
        pictures: at least one.
        largest_activation: name and size of the largest activation that float16 has to hold.
        refinements: names of `algm_trt.engines.precision.REFINEMENTS` that the float16 model has in float32.
    """

    pictures: tuple[PictureAgreement, ...]
    largest_activation: tuple[str, float]
    refinements: tuple[str, ...] = ()

    @property
    def labels_equal(self) -> float:
        """Share of pixels with equal labels."""
        return float(np.mean([picture.labels_equal for picture in self.pictures]))

    @property
    def tokens_difference(self) -> float:
        """Mean over the pictures of the largest relative difference of a token count."""
        return float(np.mean([picture.tokens_difference for picture in self.pictures]))

    @property
    def passed(self) -> bool:
        """Whether the float16 model may stand for the float32 one."""
        return self.labels_equal >= LABELS_GATE and self.tokens_difference <= TOKENS_GATE

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"labels_equal": self.labels_equal, "tokens_difference": self.tokens_difference}

    def table(self) -> str:
        """For people."""
        lines = [f"{'picture':<28} {'tokens fp32':>18} {'tokens fp16':>18} {'labels equal':>12}"]
        for p in self.pictures:
            counts = [">".join(map(str, tokens)) for tokens in (p.tokens, p.tokens_fp16)]
            lines.append(f"{p.name[-28:]:<28} {counts[0]:>18} {counts[1]:>18} {p.labels_equal:>12.4%}")
        if self.refinements:
            lines.append(f"in float32 because this network needs it: {', '.join(self.refinements)}")
        return "\n".join(lines)


def fit_float16(
    full: onnx.ModelProto, card: ModelCard, pictures: Sequence[Picture]
) -> tuple[onnx.ModelProto, Agreement]:
    """The float16 model with the fewest refinements that passes; the most refined one if none does.

    Args:
        full: the float32 model with function bodies.
        card: its model card.
        pictures: of the model's input size, at least one.

    Returns:
        The float16 model, and its comparison with the float32 one, all roundings of an engine in place.

    Raises:
        PrecisionError: a weight is beyond float16.
        VerificationError, MissingDependencyError, AlgmError: as `Reference.of`.
    """
    reference = Reference.of(full, card, pictures)
    most = len(REFINEMENTS) if card.merge is not None else 0
    for count in range(most + 1):
        half = to_float16(full, count)
        names = tuple(island.name for island in REFINEMENTS[:count])
        agreement = replace(reference.compare(with_roundings(half).SerializeToString()), refinements=names)
        if agreement.passed:
            break
    return half, agreement


@dataclass(frozen=True)
class Reference:
    """The float32 model on pictures, which float16 models are compared with.

    Attributes:
        card: of the model.
        pictures: of the model's input size.
        outputs: of each picture by name, without logits and token map, and with the ranges of `with_ranges`.
        largest_activation: as in `Agreement`.
    """

    card: ModelCard
    pictures: Sequence[Picture]
    outputs: Sequence[Mapping[str, NDArray[Any]]]
    largest_activation: tuple[str, float]

    @classmethod
    def of(cls, full: onnx.ModelProto, card: ModelCard, pictures: Sequence[Picture]) -> Reference:
        """Run the float32 model.

        Args:
            full: the model with function bodies.
            card: its model card.
            pictures: of the model's input size, at least one.

        Raises:
            VerificationError: an activation is not finite, or beyond float16, on one of the pictures; the message
                names it.
            MissingDependencyError: no onnxruntime.
            AlgmError: ONNX Runtime cannot run the model.
        """
        outputs = _run(with_ranges(full, float16_tensors(full)), card, pictures)
        largest = _largest(outputs)
        if broken := [name for name, size in largest.items() if not np.isfinite(size)]:
            raise VerificationError(
                f"in float32 itself {len(broken)} tensors are not finite, the first is {broken[0]}: the weights are "
                "broken, or onnxruntime is older than 1.27, which loses the spread of tokens with a large mean: "
                "pip install --upgrade onnxruntime"
            )
        if not all(size <= FLOAT16_MAX for size in largest.values()):
            beyond = {name: size for name, size in largest.items() if not size <= FLOAT16_MAX}
            named = ", ".join(f"{name} reaches {size:.3g}" for name, size in list(beyond.items())[:5])
            more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
            raise VerificationError(f"activations beyond float16 ({FLOAT16_MAX:g}): {named}{more}; build with --fp32")
        return cls(card, pictures, outputs, max(largest.items(), key=lambda item: item[1]))

    def compare(self, half: bytes) -> Agreement:
        """Run a float16 model, serialised, on the same pictures.

        Returns:
            The comparison; `passed` is the verdict.

        Raises:
            AlgmError: ONNX Runtime cannot run the model.
        """
        outputs = _run(half, self.card, self.pictures)
        checks = tuple(
            PictureAgreement(
                name=name,
                tokens=tuple(full_output["token_counts"][0].tolist()),
                tokens_fp16=tuple(half_output["token_counts"][0].tolist()),
                labels_equal=float(np.mean(full_output["labels"] == half_output["labels"])),
            )
            for (name, _), full_output, half_output in zip(self.pictures, self.outputs, outputs, strict=True)
        )
        return Agreement(checks, self.largest_activation)


def with_ranges(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """The model, serialised, with the smallest and largest value of each tensor as extra outputs, scalars."""
    ranges = onnx.ModelProto()
    for name in tensors:
        for op_type in ("ReduceMin", "ReduceMax"):
            output = f"{_RANGE_PREFIX}{name}/{op_type}"
            ranges.graph.node.append(helper.make_node(op_type, [name], [output], name=output, keepdims=0))
            ranges.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    # Protocol buffers that follow each other are one, with the elements of both: cheaper than a changed copy.
    both: bytes = model.SerializeToString() + ranges.SerializeToString()
    return both


def _largest(outputs: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, float]:
    """Per tensor the largest absolute value over all pictures; what is not a number counts as infinite."""
    largest: dict[str, float] = {}
    for output in outputs:
        for name, value in output.items():
            if name.startswith(_RANGE_PREFIX):
                tensor = name.removeprefix(_RANGE_PREFIX).rsplit("/", 1)[0]
                size = abs(float(value))
                largest[tensor] = max(largest.get(tensor, 0.0), size if np.isfinite(size) else np.inf)
    return largest


def _run(model: bytes, card: ModelCard, pictures: Sequence[Picture]) -> list[dict[str, NDArray[Any]]]:
    """Outputs by name of every picture but the logits, one picture at a time, of a serialised model."""
    try:
        session = cpu_session(model)
        names = [value.name for value in session.get_outputs() if value.name not in ("logits", "token_map")]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in _feeds(card, pictures)]
    except MissingDependencyError:
        raise
    except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
        text = " ".join(str(error).split())
        raise AlgmError(f"ONNX Runtime cannot run the model: {text}") from error


def _feeds(card: ModelCard, pictures: Sequence[Picture]) -> Iterator[dict[str, NDArray[Any]]]:
    for _, pixels in pictures:
        feed: dict[str, NDArray[Any]] = {"images": pixels[None]}
        if card.merge is not None:
            feed["threshold"] = np.array(card.merge.threshold, np.float32)
        yield feed
