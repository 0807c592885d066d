"""The benchmarks are scripts beside each other: their folder has to be on the path for a test to import one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import drawn_scene
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "examples"))

SIZE = (90, 120)


@pytest.fixture(scope="session")
def drawn_camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in CamVid's folders, with labels in stripes of 11 classes and a frame that is void."""
    root = tmp_path_factory.mktemp("camvid")
    for split, count in (("train", 5), ("test", 3)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            name = f"{split}_{index:03d}"
            Image.fromarray(drawn_scene(*SIZE, seed=index)).save(root / "images" / split / f"{name}.png")
            labels = np.tile(np.arange(SIZE[1]) // 11, (SIZE[0], 1)).astype(np.uint8)
            labels[:3] = 11
            Image.fromarray(labels).save(root / "labels" / split / f"{name}.png")
    return root
