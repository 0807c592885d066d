"""How an evaluation shows a picture to the model: short side, scales and flip, and the mean of what the views say.

The steps are those of the official evaluation. mmsegmentation resizes the picture, keeping its proportions, until its
short side or its long side is what is asked for; then the windows are cut as in `windows.py`, which enlarges a picture
that is smaller than the window a second time. Each view's logits are brought to the size of the picture as it is on
disk and become probabilities there; the label is the class of the highest mean probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.field import LogitField, label_dtype
from algm_trt.runtime.windows import resized_image, shown_size

_BAND_VALUES = 2**22  # float32 probabilities held at a time


@dataclass(frozen=True)
class View:
    """One way of showing a picture.

    Attributes:
        scale: factor on the short side.
        flipped: left and right exchanged.
        short_side: pixels that the short side is resized to at scale 1; None: it stays as it is.
        max_ratio: the long side is at most this times `short_side`; None: no limit.
    """

    scale: float = 1.0
    flipped: bool = False
    short_side: int | None = None
    max_ratio: float | None = None

    def size(self, source: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what is shown of a picture of `source` = (height, width) pixels."""
        return shown_size(source, self.short_side, self.max_ratio, self.scale)

    def image(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Show a picture (H, W, 3) uint8; itself if nothing is to be done."""
        shown = resized_image(picture, self.size((picture.shape[0], picture.shape[1])))
        return np.ascontiguousarray(shown[:, ::-1]) if self.flipped else shown


@dataclass(frozen=True)
class Protocol:
    """How every picture of an evaluation is shown.

    Attributes:
        short_side: pixels that the short side is resized to; None: pictures are taken as they are.
        max_ratio: the long side is at most this times `short_side`; None: no limit.
        scales: factors on the short side.
        flip: also show each scale with left and right exchanged.
    """

    short_side: int | None = None
    max_ratio: float | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise UsageError(f"the short side must have at least 1 pixel, got {self.short_side}")
        if not self.scales or any(not 0 < scale <= 16 for scale in self.scales):
            raise UsageError(f"scales must be numbers above 0 and at most 16, got {self.scales}")
        if len(set(self.scales)) < len(self.scales):
            raise UsageError(f"a scale is given twice: {self.scales}")

    @property
    def views(self) -> tuple[View, ...]:
        """The views of a picture, scale by scale."""
        flips = (False, True) if self.flip else (False,)
        return tuple(View(scale, flip, self.short_side, self.max_ratio) for scale in self.scales for flip in flips)


def labels_of_views(views: Sequence[View], fields: Sequence[LogitField]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Class of the highest mean probability at each pixel: (H, W), uint8 up to 256 classes, else uint16.

    Full-size probabilities exist for a band of rows at a time.

    Args:
        views: of one picture.
        fields: their logits, all of one source size.
    """
    if len(fields) == 1 and not views[0].flipped:
        return fields[0].labels()
    height, width = fields[0].plan.source
    classes = fields[0].rows(0, 0).shape[2]
    labels: NDArray[Any] = np.empty((height, width), label_dtype(classes))
    step = max(1, _BAND_VALUES // (width * classes))
    for start in range(0, height, step):
        stop = min(height, start + step)
        total = np.zeros((stop - start, width, classes), np.float32)
        for view, field in zip(views, fields, strict=True):
            band = field.probabilities(start, stop)
            total += band[:, ::-1] if view.flipped else band
        labels[start:stop] = total.argmax(axis=2)
    return labels
