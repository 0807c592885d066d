"""Token merging as the official code batches it: all images of a batch merge the same number of tokens.

Only for reproducing published figures. An image's result depends on the others in its batch: the local merge takes the
smallest count of the batch; the global merge takes the batch's mean of the means plus the batch's mean of the standard
deviations over the layer as threshold, and again the smallest count. In both the most similar merge first. With one
image per batch the result is that of `Segmenter` itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from algm_trt.exporter.segmenter import Segmenter, SegmenterOutput, pad_to_patches
from algm_trt.exporter.vit import Tokens
from algm_trt.plugins.errors import UsageError


@dataclass(frozen=True)
class DenseTokens:
    """Tokens of a batch whose images all have the same number of them.

    Attributes:
        x: (B, N, C).
        sizes: (B, N) patches per token.
        token_map: (B, N0) token of each patch, counted with the extra tokens.
    """

    x: Tensor
    sizes: Tensor
    token_map: Tensor


@torch.no_grad()
def coupled_forward(model: Segmenter, images: Tensor, threshold: float | None = None) -> SegmenterOutput:
    """Run a model with batch-coupled merging.

    Args:
        model: with merge settings.
        images: (B, 3, H, W) normalised, as `Segmenter.forward` takes them.
        threshold: similarity of the local merge; default: that of the merge settings.

    Raises:
        UsageError: the model does not merge.
    """
    merge = model.merge
    if merge is None:
        raise UsageError("a dense model has nothing to couple: windows of a batch do not see each other")
    limit = merge.threshold if threshold is None else threshold
    patch, extra, encoder = model.config.patch_size, model.config.extra_tokens, model.encoder
    images = pad_to_patches(images, patch)
    batch, grid = len(images), (images.shape[2] // patch, images.shape[3] // patch)
    x = encoder.embed(images, grid)
    every = torch.arange(extra, x.shape[1], device=x.device).expand(batch, -1)
    t = DenseTokens(x, x.new_ones(x.shape[:2]), every)
    counts = [x.shape[1]]
    for layer, block in enumerate(encoder.blocks, start=1):
        t = DenseTokens(block.attend(t.x), t.sizes, t.token_map)
        if layer in merge.layers:
            first = layer == merge.layers[0]
            t = local_merge(t, limit, grid, merge.window, extra) if first else global_merge(t, layer, extra)
            counts.append(t.x.shape[1])
        t = DenseTokens(block.feed(t.x), t.sizes, t.token_map)
    scores = model.decoder(Tokens(encoder.norm(t.x)))
    scores = scores.gather(1, (t.token_map - extra)[:, :, None].expand(-1, -1, scores.shape[2]))
    logits = scores.reshape(batch, *grid, -1).permute(0, 3, 1, 2)
    token_counts = torch.tensor([counts[0], counts[1], counts[-1]], dtype=torch.int32).repeat(batch, 1)
    return SegmenterOutput(logits, token_counts, t.token_map.int().reshape(batch, *grid))


def local_merge(
    t: DenseTokens, threshold: float, grid: tuple[int, int], window: tuple[int, int], extra: int
) -> DenseTokens:
    """Merge the most similar windows, in each image as many as the image with the fewest above the threshold has."""
    batch, _, channels = t.x.shape
    (height, width), (tall, wide) = grid, window
    members = tall * wide
    shape = batch, height // tall, tall, width // wide, wide
    tokens = t.x[:, extra:]
    total = F.normalize(tokens, dim=-1).reshape(*shape, channels).sum(dim=(2, 4))
    similarity = ((total.square().sum(-1) - members) / (members * (members - 1))).flatten(1)
    count = int((similarity >= threshold).sum(dim=1).min())
    rank = similarity.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    code = rank.reshape(batch, shape[1], 1, shape[3], 1).expand(shape).reshape(batch, -1)
    single = code >= count
    new = torch.where(single, count + single.cumsum(1) - 1, code)
    return _combined(t, new + extra, extra + count + int(single[0].sum()), extra)


def global_merge(t: DenseTokens, layer: int, extra: int) -> DenseTokens:
    """Merge the most similar pairs, in each image as many as the image with the fewest above the batch's threshold."""
    batch, length, _ = t.x.shape
    units = F.normalize(t.x, dim=-1)
    a, b = units[:, 2::2], units[:, 1::2][:, extra - 1 :]
    if a.shape[1] < 1 or b.shape[1] < 1:
        return t
    best, choice = (a @ b.transpose(1, 2)).max(dim=2)
    # One candidate has no standard deviation: it does not merge, but changes its place.
    limit = best.mean(dim=1).mean() + best.std(dim=1).mean() / layer if a.shape[1] > 1 else torch.inf
    count = int((best >= limit).sum(dim=1).min())
    chosen = best.argsort(dim=1, descending=True, stable=True)[:, :count]
    source = 2 * chosen + 2
    destination = 2 * (choice.gather(1, chosen) + extra - 1) + 1

    everyone = torch.arange(length, device=t.x.device)
    even = (everyone % 2 == 0) & (everyone >= extra)
    odd = (everyone % 2 == 1) & (everyone >= extra)
    stays = even.repeat(batch, 1).scatter(1, source, False)
    position = torch.where(everyone < extra, everyone, 0).repeat(batch, 1)
    position = torch.where(stays, extra - 1 + stays.cumsum(1), position)
    position = torch.where(odd, extra - 1 + int(stays[0].sum()) + odd.cumsum(0), position)
    position = position.scatter(1, source, position.gather(1, destination))
    return _combined(t, position[:, extra:], length - count, extra)


def _combined(t: DenseTokens, new: Tensor, length: int, extra: int) -> DenseTokens:
    """Give every token behind the extra ones its new place, (B, N - extra), and average those that share one."""
    front = torch.arange(extra, device=new.device).expand(len(new), -1)
    place = torch.cat([front, new], dim=1)
    sizes = t.sizes.new_zeros(len(new), length).scatter_add(1, place, t.sizes)
    where = place[:, :, None].expand_as(t.x)
    summed = t.x.new_zeros(len(new), length, t.x.shape[2]).scatter_add(1, where, t.x * t.sizes[:, :, None])
    return DenseTokens(summed / sizes[:, :, None], sizes, place.gather(1, t.token_map))
