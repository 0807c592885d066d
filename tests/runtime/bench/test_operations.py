"""Operations per window: against what PyTorch counts while it runs the network, and the paper's dense figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.fake_engine import make_card
from torch.utils.flop_counter import FlopCounterMode

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.exporter.vit import Attention
from algm_trt.runtime.bench.operations import Operations, operations_of
from algm_trt.runtime.card import MergeSettings, ModelCard

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def card_of(config: SegmenterConfig, merge: MergeSettings | None, size: tuple[int, int]) -> ModelCard:
    card = make_card(size=size, patch_size=config.patch_size, classes=config.n_cls)
    return replace(card, architecture=config.describe(), merge=merge, extra_tokens=config.extra_tokens)


def counted(config: SegmenterConfig, merge: MergeSettings | None, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Token counts of three pictures, and the operations per picture that PyTorch counts while it runs them.

    PyTorch counts the products of matrices by itself; those of attention are added from the tokens that each layer
    really had, since it does not look into an operator of ours.
    """
    torch.manual_seed(0)
    model = Segmenter(config, merge).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    inside = 0

    def attended(layer: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor | None, int], _: object) -> None:
        nonlocal inside
        assert isinstance(layer, Attention)
        x, cu_seqlens, _ = inputs
        lengths = [x.shape[1]] * len(x) if cu_seqlens is None else cu_seqlens.diff().tolist()
        inside += sum(2 * length**2 * x.shape[-1] for length in lengths)

    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.register_forward_hook(attended)
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 3, 4), size, mode="bilinear")
    images = torch.cat([smooth, torch.randn(1, 3, *size)])
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        counts = model(images).token_counts.numpy()
    products = sum(count for op, count in counter.get_flop_counts()["Global"].items() if op is not ATTENTION)
    return counts, (products / 2 + inside) / len(images)


CONFIG = SegmenterConfig((32, 32), 8, 32, 6, 2, 128, 11)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (CONFIG, None),
        (CONFIG, (2,)),
        (CONFIG, (1, 5)),
        (CONFIG, (3, 6)),
        (replace(CONFIG, d_ff=80), (1, 4)),
        (replace(CONFIG, decoder="linear", decoder_layers=0), None),
        (replace(CONFIG, decoder="linear", decoder_layers=0), (1, 3)),
        (replace(CONFIG, decoder_layers=1, distilled=True), None),
        (replace(CONFIG, decoder_layers=1), (1, 3, 5)),
    ],
    ids=lambda value: value.describe() if isinstance(value, SegmenterConfig) else str(value),
)
@pytest.mark.parametrize("size", [(32, 32), (28, 64)])
def test_operations_are_those_that_pytorch_counts(
    config: SegmenterConfig, layers: tuple[int, ...] | None, size: tuple[int, int]
) -> None:
    merge = MergeSettings(layers, (2, 2), 0.2) if layers else None
    counts, expected = counted(config, merge, size)
    found = operations_of(card_of(config, merge, size), counts)
    assert found is not None
    assert found.exact == (layers is None or len(layers) <= 2)
    if found.exact:
        assert found.giga == pytest.approx(expected / 1e9, rel=1e-9)
    else:
        assert expected / 1e9 < found.giga < 1.5 * expected / 1e9
    if layers:
        assert (counts[:, 1] < counts[:, 0]).any()
        assert len(layers) == 1 or (counts[:, 2] < counts[:, 1]).all()


@pytest.mark.parametrize(("width", "published"), [(192, 12.8), (384, 38.6), (768, 130)])
def test_dense_figures_of_the_paper(width: int, published: float) -> None:
    """It counts norms and the resizing of scores to pixels too; on 512 x 512 pixels and 150 classes."""
    config = SegmenterConfig((512, 512), 16, width, 12, width // 64, 4 * width, 150)
    card = card_of(config, None, (512, 512))
    found = operations_of(card, np.array([[1025, 1025, 1025]], np.int32))
    assert found is not None
    assert published * 0.98 < found.giga < published * 1.005


def test_a_card_that_does_not_say_what_the_model_is() -> None:
    endless = "ViT d64 h1 L99999999999 /8, mask_transformer x1"
    for card in (make_card(), replace(make_card(), architecture=endless)):
        assert operations_of(card, np.array([[17, 9, 5]], np.int32)) is None


def test_how_operations_are_written() -> None:
    assert Operations(26.31, exact=True).text == "26.3"
    assert Operations(1.234, exact=False).text == "<= 1.23"
    assert Operations(1.5, exact=False).to_dict() == {"per_window": 1.5, "exact": False}
