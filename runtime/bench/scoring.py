"""The mean IoU of every model at every threshold, as algm-eval finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench.models import Contender
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions, evaluate
from algm_trt.runtime.evaluation.figures import Evaluation
from algm_trt.runtime.evaluation.multiscale import Protocol
from algm_trt.runtime.evaluation.sets import EvaluationSet, spread
from algm_trt.runtime.model_argument import model_title
from algm_trt.runtime.pipeline_options import PipelineOptions


@dataclass(frozen=True)
class ScoredSet:
    """What the mean IoU is over.

    Attributes:
        dataset: name of the data set.
        split: part of it, or "".
        pictures: number of pictures that were to be scored.
        available: number of pictures of the split.
        ignored: stored values of the label files that do not count, ascending.
    """

    dataset: str
    split: str
    pictures: int
    available: int
    ignored: tuple[int, ...]

    @classmethod
    def of(cls, data: EvaluationSet, limit: int | None) -> ScoredSet:
        """What a limit leaves of a data set."""
        count, ignored = len(data.samples), tuple(sorted(data.coding.ignored))
        return cls(data.dataset, data.split, min(count, limit or count), count, ignored)

    @property
    def described(self) -> str:
        """In words, for people, such as "camvid test, 3 of 203 pictures"."""
        count = f"{self.pictures}" if self.pictures == self.available else f"{self.pictures} of {self.available}"
        return f"{self.dataset}{f' {self.split}' if self.split else ''}, {count} pictures"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "pictures": self.pictures,
            "available": self.available,
            "ignored": list(self.ignored),
        }


class Scoring:
    """The scores of a run, one model and threshold after the other.

    Attributes:
        found: by name and threshold of the model; those that are complete.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        sets: Mapping[str, EvaluationSet],
        pipelines: Mapping[str, PipelineOptions],
        limit: int | None,
    ):
        """Prepare.

        Args:
            contenders: the models.
            sets: pictures with ground truth by name of the model; models without are not scored.
            pipelines: how pictures go through each model, and the size that they are shown at.
            limit: score this many pictures from all over the set; None scores all.

        Raises:
            UsageError: a model has not as many classes as its data set.
        """
        for contender in contenders:
            data, classes = sets.get(contender.name), len(contender.card.classes)
            if data is not None and data.coding.classes != classes:
                raise UsageError(
                    f"{contender.name} has {classes} classes, but {data.dataset} has {data.coding.classes}"
                )
        self.found: dict[tuple[str, float | None], Evaluation] = {}
        self._contenders = contenders
        self._sets = {
            name: replace(data, samples=tuple(spread(data.samples, limit or len(data.samples))))
            for name, data in sets.items()
        }
        self._pipelines = pipelines

    def run(self, thresholds: Sequence[float], *, max_pixels: int, quiet: bool) -> None:
        """Score all models; an interruption leaves in `found` what was complete.

        Args:
            thresholds: as asked for, see `ModelCard.thresholds`.
            max_pixels: larger pictures are refused.
            quiet: no progress bar.

        Raises:
            AlgmError: not one picture could be scored.
            KeyboardInterrupt: Ctrl-C came.
        """
        for contender in self._contenders:
            data = self._sets.get(contender.name)
            if data is None:
                continue
            pipeline = self._pipelines[contender.name]
            protocol = Protocol(short_side=pipeline.short_side or None, max_ratio=pipeline.max_ratio)
            for threshold in contender.card.thresholds(thresholds):
                chosen = replace(pipeline, threshold=threshold, batch_size=1)
                options = EvaluationOptions(protocol, chosen, max_pixels=max_pixels, quiet=quiet)
                title = model_title(contender.name, threshold)
                self.found[contender.name, threshold] = evaluate(contender.job_engine, data, options, title=title)
