"""Draw the sample pictures and their labels: `python examples/draw_pictures.py`.

Writes `pictures/NAME.jpg` and `labels/NAME.png` (palette PNG of class ids) beside this file. The seeds are none of
those that `train_sample.py` trains on.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from algm_trt.runtime.scenes import PALETTE, draw_scene

# Name: height, width, seed.
PICTURES = {
    "lake": (480, 640, 2_000_042),
    "village": (360, 500, 2_000_007),
    "panorama": (256, 768, 2_000_003),
    "small": (200, 160, 2_000_020),
}


def main() -> None:
    """Draw all of them."""
    here = Path(__file__).parent
    for name, (height, width, seed) in PICTURES.items():
        scene = draw_scene(height, width, seed)
        labels = Image.fromarray(scene.labels)
        labels.putpalette([value for colour in PALETTE for value in colour])
        (here / "pictures").mkdir(exist_ok=True)
        (here / "labels").mkdir(exist_ok=True)
        Image.fromarray(scene.image).save(here / "pictures" / f"{name}.jpg", quality=92)
        labels.save(here / "labels" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
