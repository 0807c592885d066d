"""Whether OpenCV is whole: its packages write into one folder, and removing one of two takes the code of both."""

from __future__ import annotations

import cv2

from algm_trt.plugins.errors import MissingDependencyError


def check_opencv() -> None:
    """Check that the module has functions: without this every picture would fail by itself.

    Raises:
        MissingDependencyError: it has none.
    """
    if not hasattr(cv2, "resize"):
        raise MissingDependencyError(
            "cv2 has no functions, as where one of two OpenCV packages was removed: "
            "pip install --force-reinstall opencv-python-headless"
        )
