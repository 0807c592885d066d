"""Training through the merges: gradients against explicit matrices, a loss that falls, and the trained sample."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algm_trt.exporter import ops
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise
from algm_trt.exporter.torch_engine import TorchEngine
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.evaluation.metrics import Scores, confusion
from algm_trt.runtime.scenes import CLASSES, draw_scene
from algm_trt.runtime.segmenter import Segmenter as Runner

CONFIG = SegmenterConfig(
    image_size=(64, 64),
    patch_size=8,
    d_model=32,
    n_layers=3,
    n_heads=2,
    d_ff=64,
    n_cls=len(CLASSES),
    decoder_layers=1,
)
MERGE = MergeSettings(layers=(1, 2), window=(2, 2), threshold=0.8)
HELD_OUT = range(3_000_000, 3_000_006)


def network(merge: MergeSettings | None, seed: int = 0) -> Segmenter:
    """A small network in training mode with random weights."""
    torch.manual_seed(seed)
    model = Segmenter(CONFIG, merge).train()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Normalised pictures (B, 3, 64, 64) and their labels (B, 64, 64)."""
    scenes = [draw_scene(64, 64, seed) for seed in range(count)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    return normalise(images, CONFIG.normalization), torch.from_numpy(np.stack([s.labels for s in scenes])).long()


def loss_of(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    logits = full_size_logits(model(images).logits, CONFIG.patch_size, CONFIG.image_size)
    return F.cross_entropy(logits, labels)


def gradients(model: Segmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    loss_of(model, images, labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patchwork(images: int, grid: int, channels: int) -> Tensor:
    """Tokens (B, 1 + grid * grid, C) of which the windows of the left half are even, so that these merge."""
    tokens = random(images, grid, grid, channels)
    even = tokens[:, ::2, : grid // 2 : 2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    tokens[:, :, : grid // 2] = even + 0.05 * tokens[:, :, : grid // 2]
    return torch.cat([random(images, 1, channels, seed=1), tokens.flatten(1, 2)], dim=1)


def averages(new: Tensor, weights: Tensor) -> Tensor:
    """The matrix that takes old tokens to the weighted means of those that share a new index."""
    matrix = torch.zeros(int(new.max()) + 1, len(new)).index_put((new, torch.arange(len(new))), weights)
    return matrix / matrix.sum(dim=1, keepdim=True)


def test_local_merge_passes_the_gradient_of_its_means() -> None:
    x = patchwork(2, 8, 5).requires_grad_()
    y, sizes, cu_seqlens, token_map, _ = ops.local_merge(x, torch.tensor(0.8), [8, 8], [2, 2], 1)
    given = random(*y.shape, seed=2)
    y.backward(given)
    assert 4 in sizes
    assert 1 in sizes[1:]
    assert x.grad is not None
    for image, (start, stop) in enumerate(pairwise(cu_seqlens.tolist())):
        new = torch.cat([torch.zeros(1, dtype=torch.long), token_map[image].long()])
        expected = averages(new, torch.ones(len(new))).T @ given[start:stop]
        torch.testing.assert_close(x.grad[image], expected)


def test_global_merge_passes_the_gradient_of_its_weighted_means() -> None:
    """The map of old tokens to new ones is read off a token map in which each old token is its own patch."""
    lengths, channels = [17, 30], 8
    cu_seqlens = torch.tensor([0, 17, 47], dtype=torch.int32)
    token_map = torch.stack([torch.arange(30) % length for length in lengths]).int()
    sizes = torch.randint(1, 5, (47,), generator=torch.Generator().manual_seed(3)).int()
    x = random(47, channels).requires_grad_()
    y, _, new_starts, new_map, _ = ops.global_merge(x, sizes, cu_seqlens, token_map, 2, 1, 30)
    given = random(*y.shape, seed=4)
    y.backward(given)
    assert len(y) < 47
    assert x.grad is not None
    for image, length in enumerate(lengths):
        old = slice(int(cu_seqlens[image]), int(cu_seqlens[image + 1]))
        new = slice(int(new_starts[image]), int(new_starts[image + 1]))
        matrix = averages(new_map[image, :length].long(), sizes[old].float())
        torch.testing.assert_close(x.grad[old], matrix.T @ given[new])


def test_packed_attention_passes_the_gradient_of_plain_softmax() -> None:
    lengths, heads, channels = [5, 1, 12], 2, 8
    cu_seqlens = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    qkv = random(sum(lengths), 3 * channels).requires_grad_()
    given = random(sum(lengths), channels, seed=5)
    ops.packed_attention(qkv, cu_seqlens, heads, 12).backward(given)

    plain = qkv.detach().clone().requires_grad_()
    parts = []
    for image in plain.split(lengths):
        q, k, v = image.reshape(len(image), 3, heads, -1).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) * (channels / heads) ** -0.5).softmax(dim=-1)
        parts.append((weights @ v).transpose(0, 1).flatten(1))
    torch.cat(parts).backward(given)
    torch.testing.assert_close(qkv.grad, plain.grad)


def test_append_tokens_passes_gradients_to_both_inputs() -> None:
    """Of the images every token but the dropped ones once; of the class embeddings the sum over the images."""
    x, tokens = random(9, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    y, cu_seqlens = ops.append_tokens(x, torch.tensor([0, 5, 9], dtype=torch.int32), tokens, 1)
    given = random(*y.shape, seed=2)
    y.backward(given)
    assert cu_seqlens.tolist() == [0, 7, 13]
    assert x.grad is not None
    assert x.grad[[0, 5]].abs().max() == 0
    torch.testing.assert_close(x.grad[[1, 2, 3, 4, 6, 7, 8]], given[[0, 1, 2, 3, 7, 8, 9]])
    torch.testing.assert_close(tokens.grad, given[4:7] + given[10:13])


def test_unmerge_passes_gradients_of_both_outputs() -> None:
    """A token gets the sum over its patches, an appended one its own."""
    x = random(7, 4).requires_grad_()
    token_map = torch.tensor([[1, 2, 2, 1], [1, 1, 1, 1]], dtype=torch.int32)
    grid, appended = ops.unmerge(x, torch.tensor([0, 4, 7], dtype=torch.int32), token_map, 2, 1)
    on_grid, on_appended = random(*grid.shape, seed=1), random(*appended.shape, seed=2)
    torch.autograd.backward([grid, appended], [on_grid, on_appended])
    expected = torch.stack(
        [
            on_grid[0, 0] + on_grid[0, 3],
            on_grid[0, 1] + on_grid[0, 2],
            *on_appended[0],
            on_grid[1].sum(0),
            *on_appended[1],
        ]
    )
    torch.testing.assert_close(x.grad, expected)


def test_without_a_merge_gradients_are_those_of_the_dense_network() -> None:
    """A threshold that no window reaches: the packed path computes what the dense one does."""
    images, labels = pictures(3)
    nothing = MergeSettings(layers=(2,), window=(2, 2), threshold=1.5)
    packed, dense = (gradients(network(merge), images, labels) for merge in (nothing, None))
    for name, gradient in dense.items():
        if gradient is None:
            assert packed[name] is None, name
            continue
        # Relative to the parameter's largest gradient: sums over patches in another order.
        torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()) + 1e-8)


def test_gradients_reach_every_parameter() -> None:
    images, labels = pictures(3)
    model = network(MERGE)
    counts = model(images).token_counts
    assert (counts[:, 0] > counts[:, 1]).all()
    assert (counts[:, 1] > counts[:, 2]).all()
    for name, gradient in gradients(model, images, labels).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


def test_gradients_are_repeatable_to_the_bit() -> None:
    images, labels = pictures(2)
    first, second = (gradients(network(MERGE), images, labels) for _ in range(2))
    for name, gradient in first.items():
        assert (gradient is None and second[name] is None) or torch.equal(gradient, second[name]), name


def test_a_few_steps_learn_one_picture() -> None:
    images, labels = pictures(1)
    model = network(MERGE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        loss = loss_of(model, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_sample_checkpoint_is_small_and_describes_itself(sample_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(sample_checkpoint)
    assert (sample_checkpoint / "checkpoint.pth").stat().st_size <= 4_000_000
    assert checkpoint.dataset == "drawn_scenes"
    assert checkpoint.merge is not None
    assert len(checkpoint.merge.layers) == 2
    assert checkpoint.config.n_cls == len(CLASSES)
    assert all(value.dtype == torch.float32 for value in checkpoint.state.values())
    # Without variant.yml the heads are the width divided by 64: the sample must not be an exception.
    assert checkpoint.config.n_heads == max(1, checkpoint.config.d_model // 64)


def test_sample_checkpoint_merges_and_is_right(sample_checkpoint: Path) -> None:
    """On scenes that are neither in training nor in metrics.json: 90 % of the pixels, 30 % of the tokens merged."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    kept = []
    with Runner(TorchEngine(sample_checkpoint, device="cpu")) as runner:
        for seed in HELD_OUT:
            scene = draw_scene(256, 320, seed)
            result = runner(scene.image)
            counts += confusion(scene.labels.astype(np.uint16), result.labels, len(CLASSES))
            kept.append(result.tokens_kept)
    assert Scores(counts).pixel_accuracy >= 0.9
    assert np.mean(kept) <= 0.7


def test_autocast_trains_through_the_same_merges() -> None:
    """Similarities are computed as without autocast, in both passes."""
    images, labels = pictures(4)
    model = network(MERGE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
        loss = F.cross_entropy(full_size_logits(output.logits.float(), CONFIG.patch_size, CONFIG.image_size), labels)
    loss.backward()
    assert (output.token_counts[:, 2] < output.token_counts[:, 0]).all()
    plain = gradients(network(MERGE), images, labels)
    for name, parameter in model.named_parameters():
        if plain[name] is not None:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
