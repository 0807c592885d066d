"""Windows of pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.windows import canvas_image, crop, plan_slide

Windows = NDArray[np.uint8]


def windows_of(image: NDArray[np.uint8], card: ModelCard) -> Windows:
    """Windows (n, H, W, 3) of a picture as algm-infer cuts them."""
    plan = plan_slide((image.shape[0], image.shape[1]), card.size, card.stride)
    canvas = canvas_image(image, plan)
    return np.stack([crop(canvas, plan, index) for index in range(len(plan))])
