"""How pictures go through a model: windows or whole, in which batches, by how many threads."""

from __future__ import annotations

from dataclasses import dataclass

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.checks import finite_threshold, whole_number
from algm_trt.runtime.cores import usable_cores
from algm_trt.runtime.limits import MAX_WORKERS, MODES
from algm_trt.runtime.opencv import check_opencv
from algm_trt.runtime.windows import WindowPlan, plan_slide, plan_whole


@dataclass(frozen=True)
class PipelineOptions:
    """How pictures go through the model.

    Attributes:
        mode: "slide" (windows of the model's size over the picture) or "whole" (the picture resized to that size).
        stride: step of the windows in pixels; None takes the model card's.
        threshold: similarity at or above which a window of tokens merges; None takes the model card's.
        batch_size: windows that the model gets at a time. algm-infer takes what a plan was optimised for; here it is 1.
        workers: threads that read, and as many that finish; None takes the number of cores, at most MAX_WORKERS.
        short_side: pixels that a picture's short side is resized to before windows are cut; None takes the model
            card's, 0 takes pictures as they are. Labels have the size of the picture all the same.
        max_ratio: the long side becomes at most this times `short_side`; None: no limit.
    """

    mode: str = "slide"
    stride: int | None = None
    threshold: float | None = None
    batch_size: int = 1
    workers: int | None = None
    short_side: int | None = None
    max_ratio: float | None = None

    def __post_init__(self) -> None:
        check_opencv()
        object.__setattr__(self, "batch_size", whole_number("batch size", self.batch_size))
        for field in ("stride", "workers", "short_side"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, whole_number(field.replace("_", " "), value))
        if self.threshold is not None:
            object.__setattr__(self, "threshold", finite_threshold(self.threshold))
        if self.mode not in MODES:
            raise UsageError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode == "whole" and self.stride is not None:
            raise UsageError("a stride makes sense in mode slide only")
        if self.mode == "whole" and self.short_side:
            raise UsageError("a short side makes sense in mode slide only")
        if self.short_side is not None and self.short_side < 0:
            raise UsageError(f"the short side must not be negative, got {self.short_side}")
        ratio = self.max_ratio
        if ratio is not None and (not self.short_side or not isinstance(ratio, int | float) or not ratio >= 1):
            raise UsageError(f"a largest ratio goes with a short side and is a number from 1 on, got {ratio!r}")
        if self.batch_size < 1:
            raise UsageError(f"batch size must be at least 1, got {self.batch_size}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers must be at least 1, got {self.workers}")

    @property
    def threads(self) -> int:
        """Number of threads that read, and of those that finish."""
        return self.workers or min(MAX_WORKERS, usable_cores())

    def check_against(self, card: ModelCard) -> None:
        """Compare with what the model can do.

        Raises:
            UsageError: a stride beyond the window, or a threshold for a model without merging.
        """
        if self.stride is not None and not 1 <= self.stride <= min(card.size):
            raise UsageError(f"stride must be between 1 and the window's {min(card.size)} pixels, got {self.stride}")
        if self.threshold is not None and card.merge is None:
            raise UsageError("this model was exported without merging: a threshold has no effect on it")

    def shown_side(self, card: ModelCard) -> int | None:
        """Pixels that the short side of pictures is resized to for a model; None where they are taken as they are."""
        if self.mode == "whole":
            return None
        return card.short_side if self.short_side is None else self.short_side or None

    def plan(self, source: tuple[int, int], card: ModelCard) -> WindowPlan:
        """Windows for a picture of `source` = (height, width) pixels."""
        if self.mode == "whole":
            return plan_whole(source, card.size)
        return plan_slide(source, card.size, self.stride or card.stride, self.shown_side(card), self.max_ratio)
