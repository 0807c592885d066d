"""Architecture of a Segmenter and the normalisations it may expect, as checkpoints describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.spec import MAX_CLASSES

# Mean and standard deviation per channel in 0..255, by the name that variant.yml uses. Upstream scales the ImageNet
# values of "deit" to 0..255 and rounds them to two decimals, in training and in evaluation; with 0.485 and 0.229
# unrounded the logits of the golden case c07 differ by 1.0e-3, with these by 1.2e-5.
NORMALIZATIONS: Final[dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]] = {
    "vit": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "deit": ((123.68, 116.28, 103.53), (58.4, 57.12, 57.38)),
}
DECODERS: Final = ("mask_transformer", "linear")

# Far beyond any network that there is; files may say anything.
_LARGEST_SIDE: Final = 2**16
_LARGEST: Final = {
    "patch_size": 2**16,
    "d_model": 2**16,
    "n_layers": 2**10,
    "n_heads": 2**10,
    "d_ff": 2**18,
    "n_cls": MAX_CLASSES,
}

# Channels of a head in every ViT and DeiT, and in upstream's mask decoder.
HEAD_WIDTH: Final = 64


class ConfigError(AlgmError):
    """An architecture or a setting that is not possible."""


def default_normalization(distilled: bool) -> str:
    """A key of `NORMALIZATIONS` for a network that comes without one: the distilled ones are DeiT's."""
    return "deit" if distilled else "vit"


@dataclass(frozen=True)
class SegmenterConfig:
    """A plain Vision Transformer with one of Segmenter's decoders.

    Attributes:
        image_size: height and width in pixels that the positional embeddings were made for.
        patch_size: side of a patch in pixels.
        d_model: width of encoder and decoder.
        n_layers: encoder blocks.
        n_heads: heads of the encoder's attention.
        d_ff: width of the feed-forward layers.
        n_cls: classes of the segmentation.
        distilled: whether there is a distillation token behind the class token.
        normalization: a key of `NORMALIZATIONS`.
        decoder: one of `DECODERS`.
        decoder_layers: blocks of the mask decoder; 0 for the linear one.
        decoder_heads: heads of the mask decoder's attention.
        backbone: name of the backbone, for people.
    """

    image_size: tuple[int, int]
    patch_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_cls: int
    distilled: bool = False
    normalization: str = "vit"
    decoder: str = "mask_transformer"
    decoder_layers: int = 2
    decoder_heads: int = 1
    backbone: str = ""

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATIONS:
            raise ConfigError(f"unknown normalization '{self.normalization}': expected {' or '.join(NORMALIZATIONS)}")
        if self.decoder not in DECODERS:
            raise ConfigError(f"unknown decoder '{self.decoder}': expected {' or '.join(DECODERS)}")
        for name, largest in _LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ConfigError(f"{name} must be at least 1 and at most {largest}, got {getattr(self, name)}")
        if not 0 <= self.decoder_layers <= _LARGEST["n_layers"]:
            raise ConfigError(f"a decoder has at most {_LARGEST['n_layers']} layers, got {self.decoder_layers}")
        if self.d_model % self.n_heads:
            raise ConfigError(f"the width {self.d_model} is not a multiple of its {self.n_heads} heads")
        if self.decoder == "mask_transformer" and self.d_model % self.decoder_heads:
            raise ConfigError(
                f"the width {self.d_model} is not a multiple of the {self.decoder_heads} heads of its mask decoder"
            )
        if not 1 <= min(self.image_size) <= max(self.image_size) <= _LARGEST_SIDE:
            raise ConfigError(f"the image size {self.image_size} does not lie in 1..{_LARGEST_SIDE} pixels")
        if any(side % self.patch_size for side in self.image_size):
            raise ConfigError(f"the image size {self.image_size} is not a multiple of the patch size {self.patch_size}")

    @property
    def extra_tokens(self) -> int:
        """Tokens in front of the patches."""
        return 2 if self.distilled else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patch grid that the positional embeddings were made for."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    def describe(self) -> str:
        """One line for people, which `algm_trt.runtime.bench.operations` reads as well."""
        decoder = f"{self.decoder} x{self.decoder_layers}" if self.decoder_layers else self.decoder
        kind = "DeiT distilled" if self.distilled else "ViT"
        hidden = "" if self.d_ff == 4 * self.d_model else f" ff{self.d_ff}"
        return f"{kind} d{self.d_model} h{self.n_heads} L{self.n_layers}{hidden} /{self.patch_size}, {decoder}"
