"""Networks with weights as they are before training: speed depends on how many tokens merge, not on what was learnt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import torch

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.runtime.card import MergeSettings

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
SAMPLE: Final = EXAMPLES / "sample"
"""The trained checkpoint that the project ships."""
SIZE: Final = 512
CLASSES: Final = 150
# Width, heads, layers. "tiny" is for trying a script out.
BACKBONES = {"vit_tiny": (192, 3, 12), "vit_small": (384, 6, 12), "vit_base": (768, 12, 12), "tiny": (64, 1, 6)}
MERGE = MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.9)


def random_config(backbone: str, size: int) -> SegmenterConfig:
    """Segmenter /16 with a mask decoder of two layers, as the official configurations have it."""
    width, heads, layers = BACKBONES[backbone]
    return SegmenterConfig(
        image_size=(size, size),
        patch_size=16,
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        d_ff=4 * width,
        n_cls=CLASSES,
        decoder_heads=heads,
        backbone=backbone,
    )


def random_segmenter(config: SegmenterConfig, merge: MergeSettings | None) -> Segmenter:
    """The same weights whenever the configuration is the same, merging or not."""
    torch.manual_seed(0)
    model = Segmenter(config, merge).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.proj_patch", "decoder.proj_classes")):
            torch.nn.init.normal_(parameter, std=config.d_model**-0.5)
        elif parameter.dim() > 1:
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    return model


def random_checkpoint(config: SegmenterConfig, folder: Path) -> Path:
    """That network, merging by `MERGE`, in a folder as official training writes it."""
    sys.path.append(str(EXAMPLES))
    from official_format import Training, write_checkpoint  # needs yaml, which a GPU machine may lack

    crop = config.image_size[0]
    training = Training(dataset="none", crop=crop, short_side=crop, batch_size=1, log_dir="random")
    return write_checkpoint(folder, random_segmenter(config, MERGE), MERGE, training)
