"""What a model reached on a data set: its scores, the pictures that they are of, tokens and speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.evaluation.boundary import BoundaryScores
from algm_trt.runtime.evaluation.metrics import Scores


@dataclass(frozen=True)
class Failure:
    """A picture that could not be scored.

    Attributes:
        name: of the picture.
        kind: "label" (its ground truth), or "picture" (its file or the model's run on it).
        error: what is wrong.
    """

    name: str
    kind: str
    error: str


@dataclass(frozen=True, eq=False)
class ScoredPicture:
    """What is kept of one picture.

    Attributes:
        index: its place in the data set.
        pixels: with ground truth.
        mean_iou: of this picture alone, over the classes that occur in it or in its prediction; NaN without any.
        windows: that the model ran on.
        tokens: summed over these windows: before merging, after the local merge, after the last global one.
        areas: (K, 3) int32 as `metrics.areas_of` gives them; None where those of all pictures would be too many.
    """

    index: int
    pixels: int
    mean_iou: float
    windows: int
    tokens: tuple[int, int, int]
    areas: NDArray[np.int32] | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model at one threshold reached.

    Attributes:
        scores: of all pictures that could be scored.
        boundary: their boundary scores, of counts that are summed over the pictures.
        boundary_of_pictures: mean over the pictures of the mean F-score of each, as Csurka et al. have it; NaN if none
            has a boundary.
        pictures: number of pictures scored.
        failures: the others.
        scored: what is kept of each of the pictures, in the order of the data set.
        windows: windows that the model ran on for the scored pictures.
        tokens: summed over these windows: before merging, after the local merge, after the last global one.
        seconds: wall time of the whole run.
        model_seconds: time during which the model has work.
    """

    scores: Scores
    boundary: BoundaryScores
    boundary_of_pictures: float
    pictures: int
    failures: tuple[Failure, ...]
    scored: tuple[ScoredPicture, ...]
    windows: int
    tokens: tuple[int, int, int]
    seconds: float
    model_seconds: float

    @property
    def tokens_kept(self) -> float:
        """Share of the tokens that are left after all merges."""
        return self.tokens[2] / self.tokens[0] if self.tokens[0] else math.nan

    @property
    def images_per_second(self) -> float:
        """Scored pictures per second of wall time: decoding, model, labels and scores."""
        return self.pictures / self.seconds if self.seconds else math.nan

    @property
    def images_per_model_second(self) -> float:
        """Scored pictures per second inside the model, all windows of a picture counted."""
        return self.pictures / self.model_seconds if self.model_seconds else math.nan

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """For JSON; scores in 0..1, null where a class has none; equal names of classes are told apart by the id."""
        names = distinct_names(classes)
        per_class = zip(names, self.scores.iou, self.scores.accuracy, self.boundary.f_score, strict=True)
        return {
            "mean_iou": json_number(self.scores.mean_iou),
            "pixel_accuracy": json_number(self.scores.pixel_accuracy),
            "mean_accuracy": json_number(self.scores.mean_accuracy),
            "classes_in_mean": int(np.count_nonzero(~np.isnan(self.scores.iou))),
            "boundary_f_score": json_number(self.boundary.mean_f_score),
            "boundary_f_score_mean_of_pictures": json_number(self.boundary_of_pictures),
            "tokens_kept": json_number(self.tokens_kept),
            "tokens_per_window": [total / self.windows for total in self.tokens] if self.windows else None,
            "pictures": self.pictures,
            "failures": [asdict(failure) for failure in self.failures],
            "pixels": self.scores.pixels,
            "windows": self.windows,
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "images_per_second": json_number(self.images_per_second),
            "images_per_model_second": json_number(self.images_per_model_second),
            "per_class": {
                name: {
                    "iou": json_number(iou),
                    "accuracy": json_number(accuracy),
                    "boundary_f_score": json_number(outline),
                }
                for name, iou, accuracy, outline in per_class
            },
        }


def distinct_names(classes: Sequence[str]) -> list[str]:
    """Names of classes for a mapping: those that several have are told apart by the id."""
    return [name if classes.count(name) == 1 else f"{name} (class {k})" for k, name in enumerate(classes)]


def json_number(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)
