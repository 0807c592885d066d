"""The whole network: images to logits on the patch grid, dense or with per-image token merging."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algm_trt.exporter.checkpoint import Checkpoint, CheckpointError, first_few
from algm_trt.exporter.config import NORMALIZATIONS, SegmenterConfig
from algm_trt.exporter.decoder import LinearDecoder, MaskTransformer
from algm_trt.exporter.vit import Tokens, VisionTransformer
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import MergeSettings


@dataclass(frozen=True)
class SegmenterOutput:
    """What the network says about a batch.

    Attributes:
        logits: (B, K, h, w) class scores on the patch grid.
        token_counts: (B, 3) int32 tokens of each image: before merging, after the local, after the last global merge.
        token_map: (B, h, w) int32 token of each patch, counted with the extra tokens.
    """

    logits: Tensor
    token_counts: Tensor
    token_map: Tensor


class Segmenter(nn.Module):
    """Segmenter with ALGM. With `merge=None` it is the dense network, and identical to upstream's.

    Attributes:
        config: architecture.
        merge: merge settings, or None.
        encoder: images to tokens.
        decoder: tokens to class scores.

    Raises:
        UsageError: a merge layer that the encoder does not have.
    """

    def __init__(self, config: SegmenterConfig, merge: MergeSettings | None = None) -> None:
        super().__init__()
        if merge is not None and merge.layers[-1] > config.n_layers:
            raise UsageError(
                f"merge layer {merge.layers[-1]} is beyond the encoder's {config.n_layers} layers: "
                "choose others with --merge-layers, or correct selected_layers in variant.yml"
            )
        self.config = config
        self.merge = merge
        self.encoder = VisionTransformer(config)
        self.decoder = LinearDecoder(config) if config.decoder == "linear" else MaskTransformer(config)

    def forward(self, images: Tensor, threshold: float | Tensor | None = None) -> SegmenterOutput:
        """Segment normalised images.

        Args:
            images: (B, 3, H, W) normalised as `config.normalization`; sides that are not a multiple of the patch
                size are padded with zeros, as upstream does.
            threshold: similarity at which windows merge; default: that of `merge`.

        Returns:
            Logits in the type of the weights; with merging the window has to divide the patch grid, as
            `algm_trt.exporter.options.check_grid` tells in words.
        """
        images = pad_to_patches(images, self.config.patch_size)
        height, width = (side // self.config.patch_size for side in images.shape[2:])
        if threshold is None:
            threshold = self.merge.threshold if self.merge else 0.0
        limit = torch.as_tensor(threshold, dtype=torch.float32, device=images.device)
        tokens: Tokens = self.encoder(images, self.merge, limit)
        logits = self.decoder(tokens).reshape(len(images), height, width, -1).permute(0, 3, 1, 2)
        counts, token_map = self._telemetry(tokens, len(images), height * width)
        return SegmenterOutput(logits, counts, token_map.reshape(len(images), height, width))

    def _telemetry(self, tokens: Tokens, batch: int, patches: int) -> tuple[Tensor, Tensor]:
        extra = self.config.extra_tokens
        full = tokens.x.new_full((batch,), extra + patches, dtype=torch.int32)
        packing = tokens.packing
        if packing is None:
            every = torch.arange(extra, extra + patches, dtype=torch.int32, device=tokens.x.device)
            return full[:, None].repeat(1, 3), every.repeat(batch, 1)
        return torch.stack([full, packing.lengths[0], packing.lengths[-1]], dim=1), packing.token_map


def segmenter_from_checkpoint(checkpoint: Checkpoint, merge: MergeSettings | None) -> Segmenter:
    """Build the network and load the weights strictly, in evaluation mode.

    Raises:
        CheckpointError: keys are missing or unexpected, shapes differ, or weights are not finite.
    """
    with torch.device("meta"):  # takes no memory: the file may describe a network of any size
        model = Segmenter(checkpoint.config, merge)
    expected = model.state_dict()
    missing = sorted(expected.keys() - checkpoint.state.keys())
    unexpected = sorted(checkpoint.state.keys() - expected.keys())
    wrong = [
        f"{key} is {tuple(checkpoint.state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in checkpoint.state and checkpoint.state[key].shape != value.shape
    ]
    problems = [
        f"{title}: {first_few(items)}"
        for title, items in (("missing keys", missing), ("unexpected keys", unexpected), ("wrong shapes", wrong))
        if items
    ]
    if problems:
        advice = ". Check that variant.yml belongs to this checkpoint." if checkpoint.described else ""
        raise CheckpointError(
            f"{checkpoint.path}: the weights do not fit {checkpoint.config.describe()} with {checkpoint.config.n_cls} "
            f"classes; {'; '.join(problems)}{advice}"
        )
    broken = [key for key, value in checkpoint.state.items() if not value.float().isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{checkpoint.path}: weights that are infinite or not a number, training diverged or the file is damaged: "
            f"{first_few(broken)}"
        )
    model.to_empty(device="cpu").load_state_dict(checkpoint.state, strict=True)
    return model.eval()


def normalise(images: Tensor, normalization: str) -> Tensor:
    """uint8 pictures (B, H, W, 3) RGB to the network's input (B, 3, H, W) float32."""
    mean, std = (images.new_tensor(values, dtype=torch.float32) for values in NORMALIZATIONS[normalization])
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def pad_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Pad (B, 3, H, W) at the bottom and right with zeros to multiples of the patch size."""
    bottom, right = (-images.shape[2]) % patch_size, (-images.shape[3]) % patch_size
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def full_size_logits(logits: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """Patch logits (B, K, h, w) to pixels (B, K, H, W): bilinear to the padded size, then cropped, as upstream."""
    padded = (logits.shape[2] * patch_size, logits.shape[3] * patch_size)
    full = F.interpolate(logits, size=padded, mode="bilinear")
    return full[:, :, : size[0], : size[1]]
