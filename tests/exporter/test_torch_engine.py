"""A checkpoint as an engine, alone and with the official batch-coupled merging."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import write_checkpoint
from helpers.models import TINY, TWO, random_segmenter
from PIL import Image

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.coupled import DenseTokens, coupled_forward, global_merge, local_merge
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise
from algm_trt.exporter.torch_engine import TorchEngine
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.engine import EngineError, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.multiscale import View
from algm_trt.runtime.pipeline import Item, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions

MERGE = MergeSettings(layers=(1, 3, 4), window=(2, 2), threshold=0.6)


def pictures(count: int, size: tuple[int, int]) -> np.ndarray:
    """Smooth pictures, each smoother than the one before, (B, H, W, 3) uint8."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        small = random.integers(0, 256, (3 + 2 * number, 3 + 2 * number, 3), np.uint8)
        found.append(np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)))
    return np.stack(found)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint with random weights, as upstream writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(folder, random_segmenter(TINY), TWO)


def test_engine_gives_what_the_export_gives(checkpoint: Path, tmp_path: Path) -> None:
    path = export_onnx(checkpoint, tmp_path / "model.onnx", ExportOptions(verify=False)).path
    engine, onnx = TorchEngine(checkpoint, device="cpu"), open_engine(path, EngineOptions(device="cpu"))
    images = pictures(3, engine.card.size)
    for threshold in (None, 0.8):
        found, expected = engine.run(images, threshold), onnx.run(images, threshold)
        assert np.array_equal(found.token_counts, expected.token_counts)
        assert np.array_equal(found.token_map, expected.token_map)
        assert np.allclose(found.logits, expected.logits, atol=1e-3)
        assert found.labels.shape == expected.labels.shape
        assert np.mean(found.labels == expected.labels) > 0.9995
    assert engine.card == onnx.card


@pytest.mark.parametrize("classes", [256, 257])
def test_labels_have_the_type_of_the_export(classes: int, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, random_segmenter(replace(TINY, n_cls=classes)))
    path = export_onnx(folder, options=ExportOptions(verify=False)).path
    engine, onnx = TorchEngine(folder, device="cpu"), open_engine(path, EngineOptions(device="cpu"))
    images = pictures(1, engine.card.size)
    assert engine.run(images).labels.dtype == onnx.run(images).labels.dtype
    assert "PyTorch" in engine.description


def test_dense_engine(checkpoint: Path) -> None:
    engine = TorchEngine(checkpoint / "checkpoint.pth", device="cpu", merge=False, threads=torch.get_num_threads())
    output = engine.run(pictures(1, engine.card.size))
    assert engine.card.merge is None
    assert (output.token_counts == output.token_counts[0, 0]).all()
    with pytest.raises(UsageError, match="takes no threshold"):
        engine.run(pictures(1, engine.card.size), 0.5)
    engine.close()


def test_a_closed_engine_says_so(checkpoint: Path) -> None:
    engine = TorchEngine(checkpoint, device="cpu")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.run(pictures(1, engine.card.size))


def test_engine_refuses_what_makes_no_sense(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to couple"):
        TorchEngine(checkpoint, device="cpu", merge=False, coupled=True)
    with pytest.raises(UsageError, match="unknown device"):
        TorchEngine(checkpoint, device="tpu")
    with pytest.raises(UsageError, match="no such file"):
        TorchEngine(tmp_path / "missing.pth", device="cpu")


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("decoder", ["mask_transformer", "linear"])
def test_coupled_with_one_image_is_the_network_itself(distilled: bool, decoder: str) -> None:
    config = replace(TINY, distilled=distilled, decoder=decoder, decoder_layers=2 if decoder != "linear" else 0)
    model = random_segmenter(config, MERGE)
    for image in pictures(3, (128, 128)):
        pixels = normalise(torch.from_numpy(image[None]), config.normalization)
        for threshold in (None, -1.0, 0.8, 2.0):
            with torch.no_grad():
                expected = model(pixels, threshold)
            found = coupled_forward(model, pixels, threshold)
            assert torch.equal(found.token_counts, expected.token_counts)
            assert torch.equal(found.token_map, expected.token_map)
            assert torch.allclose(found.logits, expected.logits, atol=1e-4)


def test_coupled_counts_are_the_smallest_of_the_batch() -> None:
    model = random_segmenter(TINY, replace(MERGE, layers=(1,)))
    pixels = normalise(torch.from_numpy(pictures(4, (128, 128))), TINY.normalization)
    with torch.no_grad():
        alone = model(pixels, 0.7).token_counts
    coupled = coupled_forward(model, pixels, 0.7).token_counts
    assert len(set(alone[:, 1].tolist())) > 1
    assert (coupled[:, 1] == alone[:, 1].max()).all()


def test_coupled_merge_of_few_tokens_and_of_none() -> None:
    x = torch.randn(2, 4, 8)
    t = DenseTokens(x, torch.ones(2, 4), torch.arange(1, 4).repeat(2, 1))
    kept = global_merge(t, 5, 1)  # one source has no spread: it stays, but sources come before destinations
    assert torch.equal(kept.x, x[:, [0, 2, 1, 3]])
    assert kept.token_map.tolist() == [[2, 1, 3]] * 2
    pair = DenseTokens(x[:, :2], torch.ones(2, 2), torch.ones(2, 1, dtype=torch.int64))
    assert torch.equal(global_merge(pair, 5, 1).x, pair.x)
    grid = DenseTokens(torch.randn(2, 5, 8), torch.ones(2, 5), torch.arange(1, 5).repeat(2, 1))
    kept = local_merge(grid, 2.0, (2, 2), (2, 2), 1)
    assert torch.equal(kept.x, grid.x)
    merged = local_merge(grid, -1.0, (2, 2), (2, 2), 1)
    assert torch.allclose(merged.x[:, 1], grid.x[:, 1:].mean(dim=1), atol=1e-6)
    assert merged.sizes.tolist() == [[1, 4], [1, 4]]


def test_coupled_needs_merging() -> None:
    with pytest.raises(UsageError, match="nothing to couple"):
        coupled_forward(random_segmenter(TINY), torch.zeros(1, 3, 128, 128))


def golden(shared: Path, case: str) -> tuple[dict, TorchEngine]:
    meta = json.loads((shared / "golden" / "cases" / case / "meta.json").read_text())
    engine = TorchEngine(shared / "golden" / "models" / meta["model"], device="cpu", coupled=True)
    merge = MergeSettings(tuple(meta["selected_layers"]), tuple(meta["merging_window_size"]), float(meta["threshold"]))
    assert engine._model is not None
    model = Segmenter(engine._model.config, merge)
    model.load_state_dict(engine._model.state_dict())
    engine._model = model.eval()
    engine.card = replace(engine.card, merge=merge, size=(512, 512), stride=meta.get("window_stride", 480))
    return meta, engine


@pytest.mark.shared
def test_golden_batch_of_four(shared: Path) -> None:
    meta, engine = golden(shared, "c09_batch4_512")
    folder = shared / "golden"
    images = np.stack([np.asarray(Image.open(folder / "images" / f"{name}.png")) for name in meta["images"]])
    output = engine.run(images)
    local, last = (merge["tokens_out"] for merge in meta["algm"]["merges"])
    assert output.token_counts.tolist() == [[1025, local, last]] * 4
    with np.load(folder / "cases" / meta["case"] / "arrays.npz") as arrays:
        assert np.abs(output.logits - arrays["algm_masks"]).max() < 1e-3
    full = full_size_logits(torch.from_numpy(output.logits), 16, (512, 512)).argmax(dim=1).numpy()
    for number in range(4):
        expected = np.asarray(Image.open(folder / "cases" / meta["case"] / f"algm_{number}.png"))
        assert np.mean(full[number] == expected) >= 0.9995
        assert np.mean(output.labels[number] == expected) >= 0.9995


@pytest.mark.shared
def test_golden_sliding_windows_in_batches_of_four(shared: Path) -> None:
    meta, engine = golden(shared, "c08_sliding_768x1138")
    folder = shared / "golden"
    picture = np.asarray(Image.open(folder / "images" / f"{meta['images'][0]}.png"))
    height, width = meta["ori_shape"]
    item = Item("moto", load=lambda: View().image(picture), size=lambda: picture.shape[:2])
    options = PipelineOptions(batch_size=4, short_side=0)  # the picture as it is
    (outcome,) = run_pipeline(engine, options, [item], lambda _, inferred: inferred)
    assert outcome.value is not None, outcome.error
    counts = [merge["tokens_out"] for merge in meta["algm_bs4"]["merges"]]
    assert outcome.value.token_counts[:, 1:].tolist() == [counts[:2]] * 4 + [counts[2:]] * 2
    labels = outcome.value.scores.field().at((height, width)).labels()
    expected = np.asarray(Image.open(folder / "cases" / meta["case"] / "algm_bs4.png"))
    assert np.mean(labels == expected) >= 0.999
