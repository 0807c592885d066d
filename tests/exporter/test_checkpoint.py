"""Reading checkpoints: the official format, what is inferred without variant.yml, and every way a file can be wrong."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.checkpoints import unused_heads
from helpers.models import TINY, random_segmenter

from algm_trt.exporter.checkpoint import CheckpointError, load_checkpoint
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.model_card import default_stride
from algm_trt.exporter.segmenter import segmenter_from_checkpoint
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import MergeSettings

State = dict[str, torch.Tensor]

MASKS = SegmenterConfig(image_size=(32, 32), patch_size=8, d_model=64, n_layers=2, n_heads=1, d_ff=256, n_cls=5)
LINEAR = SegmenterConfig(
    image_size=(64, 64),
    patch_size=16,
    d_model=128,
    n_layers=3,
    n_heads=2,
    d_ff=512,
    n_cls=7,
    decoder="linear",
    decoder_layers=0,
    decoder_heads=2,
)
DISTILLED = SegmenterConfig(
    image_size=(64, 64),
    patch_size=32,
    d_model=64,
    n_layers=1,
    n_heads=1,
    d_ff=256,
    n_cls=4,
    distilled=True,
    normalization="deit",
    decoder_layers=1,
)
CONFIGS = (MASKS, LINEAR, DISTILLED)


def variant_of(config: SegmenterConfig, **dataset: Any) -> dict[str, Any]:
    """A variant.yml as official training writes it, tuples included."""
    decoder: dict[str, Any] = {"name": config.decoder, "n_cls": config.n_cls}
    if config.decoder == "mask_transformer":
        decoder |= {"n_layers": config.decoder_layers, "drop_path_rate": 0.0, "dropout": 0.1}
    data = {"dataset": "ade20k", "crop_size": config.image_size[0], "normalization": config.normalization}
    return {
        "version": "normal",
        "dataset_kwargs": data | {"patch_type": "pure"} | dataset,
        "net_kwargs": {
            "backbone": "vit_tiny_patch16_384",
            "d_model": config.d_model,
            "decoder": decoder,
            "distilled": config.distilled,
            "drop_path_rate": 0.1,
            "dropout": 0.0,
            "image_size": config.image_size,
            "n_cls": config.n_cls,
            "n_heads": config.n_heads,
            "n_layers": config.n_layers,
            "normalization": config.normalization,
            "patch_size": config.patch_size,
        },
    }


def write(folder: Path, data: Any, variant: Any = None) -> Path:
    """A folder with a checkpoint and, if given, variant.yml.

    Args:
        folder: which.
        data: an architecture, whose weights are random, or anything else as it is.
        variant: text as it is, anything else dumped with Python's tags.
    """
    torch.save({"model": state_of(data)} if isinstance(data, SegmenterConfig) else data, folder / "checkpoint.pth")
    if variant is not None:
        text = variant if isinstance(variant, str) else yaml.dump(variant)
        (folder / "variant.yml").write_text(text)
    return folder


def state_of(config: SegmenterConfig) -> State:
    return dict(random_segmenter(config).state_dict())


def failure(path: Path) -> str:
    """The message with which loading fails: one line that names the file."""
    with pytest.raises(AlgmError) as caught:
        segmenter_from_checkpoint(load_checkpoint(path), None)
    message = str(caught.value)
    assert isinstance(caught.value, CheckpointError)
    assert caught.value.exit_code == 1
    assert str(path) in message
    assert "\n" not in message
    return message


class TestOfficialFormat:
    @pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.describe())
    @pytest.mark.parametrize("by_file", [False, True])
    def test_a_folder_and_its_file_give_the_same_checkpoint(
        self, tmp_path: Path, config: SegmenterConfig, by_file: bool
    ) -> None:
        state = state_of(config)
        write(
            tmp_path, {"model": state, "optimizer": {"step": 3}, "epoch": 7, "n_cls": config.n_cls}, variant_of(config)
        )
        assert "!!python/tuple" in (tmp_path / "variant.yml").read_text()
        checkpoint = load_checkpoint(tmp_path / "checkpoint.pth" if by_file else str(tmp_path))
        read = checkpoint.config
        for name in ("image_size", "patch_size", "d_model", "n_layers", "n_heads", "d_ff", "n_cls"):
            assert getattr(read, name) == getattr(config, name), name
        for name in ("distilled", "normalization", "decoder", "decoder_layers", "decoder_heads"):
            assert getattr(read, name) == getattr(config, name), name
        assert checkpoint.path == tmp_path / "checkpoint.pth"
        assert len(checkpoint.sha256) == 64
        assert checkpoint.merge is None
        assert checkpoint.dataset == "ade20k"
        assert checkpoint.crop == config.image_size
        assert (checkpoint.short_side, checkpoint.window_stride) == (None, None)
        assert checkpoint.notes == ()
        model = segmenter_from_checkpoint(checkpoint, None)
        assert not model.training
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_how_pictures_were_shown(self, tmp_path: Path) -> None:
        variant = variant_of(MASKS)
        variant["dataset_kwargs"]["image_size"] = 512
        variant["inference_kwargs"] = {"im_size": 512, "window_size": 512, "window_stride": 320}
        write(tmp_path, {"model": state_of(MASKS)}, variant)
        checkpoint = load_checkpoint(tmp_path)
        assert (checkpoint.short_side, checkpoint.window_stride) == (512, 320)

    def test_weights_without_the_dictionary_around_them(self, tmp_path: Path) -> None:
        segmenter_from_checkpoint(load_checkpoint(write(tmp_path, state_of(MASKS), variant_of(MASKS))), None)

    def test_merge_settings_are_read_from_variant_yml(self, tmp_path: Path) -> None:
        settings = {
            "patch_type": "algm",
            "selected_layers": (1, 2),
            "merging_window_size": (2, 4),
            "threshold": 0.75,
            "crop_size": 64,
        }
        checkpoint = load_checkpoint(write(tmp_path, MASKS, variant_of(MASKS, **settings)))
        assert checkpoint.merge == MergeSettings((1, 2), (2, 4), 0.75)
        assert checkpoint.crop == (64, 64)
        assert default_stride(min(checkpoint.crop), checkpoint.dataset) == 32

    def test_windows_of_a_crop_that_is_not_square_step_by_its_shorter_side(self, tmp_path: Path) -> None:
        checkpoint = load_checkpoint(write(tmp_path, MASKS, variant_of(MASKS, crop_size=(128, 64))))
        assert checkpoint.crop == (128, 64)
        assert default_stride(min(checkpoint.crop), checkpoint.dataset) == 32

    def test_algm_settings_that_were_left_to_the_official_defaults(self, tmp_path: Path) -> None:
        settings = {"patch_type": "algm", "selected_layers": None, "merging_window_size": None, "threshold": None}
        write(tmp_path, MASKS, variant_of(MASKS, **settings))
        assert load_checkpoint(tmp_path).merge == MergeSettings((1, 5), (2, 2), 0.88)

    @pytest.mark.parametrize("layers", [[], ()], ids=str)
    def test_algm_with_no_layer_to_merge_in_is_dense(self, tmp_path: Path, layers: Any) -> None:
        write(tmp_path, MASKS, variant_of(MASKS, patch_type="algm", selected_layers=layers))
        assert load_checkpoint(tmp_path).merge is None

    def test_a_threshold_of_zero_is_a_threshold(self, tmp_path: Path) -> None:
        settings = {"patch_type": "algm", "selected_layers": [1], "merging_window_size": 2, "threshold": 0}
        write(tmp_path, MASKS, variant_of(MASKS, **settings))
        assert load_checkpoint(tmp_path).merge == MergeSettings((1,), (2, 2), 0.0)

    def test_settings_of_a_model_that_was_not_trained_with_algm_are_not_taken(self, tmp_path: Path) -> None:
        settings = {"patch_type": "pure", "selected_layers": (1, 2), "threshold": 0.9}
        assert load_checkpoint(write(tmp_path, MASKS, variant_of(MASKS, **settings))).merge is None

    @pytest.mark.parametrize(
        ("crop", "dataset", "stride"),
        [(512, "ade20k", 480), (768, "cityscapes", 512), (480, "cityscapes", 480), (32, "", 32), (33, "", 1)],
    )
    def test_default_stride_is_the_official_one(self, crop: int, dataset: str, stride: int) -> None:
        assert default_stride(crop, dataset) == stride


class TestDefaults:
    """What variant.yml does not say is taken as the official code or the weights have it, and each is noted."""

    @pytest.mark.parametrize(
        ("section", "key", "default"),
        [
            ("dataset_kwargs", "crop_size", "(32, 32)"),
            ("dataset_kwargs", "selected_layers", "(1, 5)"),
            ("dataset_kwargs", "merging_window_size", "(2, 2)"),
            ("dataset_kwargs", "threshold", "0.88"),
            ("decoder", "n_layers", "2"),
        ],
    )
    @pytest.mark.parametrize("null", [False, True])
    def test_a_default_is_noted(self, tmp_path: Path, section: str, key: str, default: str, null: bool) -> None:
        merge = {"selected_layers": (1, 5), "merging_window_size": (2, 2), "threshold": 0.88}
        variant = variant_of(MASKS, patch_type="algm", **merge)
        entries = variant["net_kwargs"]["decoder"] if section == "decoder" else variant[section]
        whole = load_checkpoint(write(tmp_path, MASKS, variant))
        del entries[key]
        if null:
            entries[key] = None
        less = load_checkpoint(write(tmp_path, MASKS, variant))
        assert whole.notes == ()
        assert less.notes == (f"variant.yml has no {key} in {section}: {default} is taken",)
        assert (less.config, less.merge, less.crop) == (whole.config, whole.merge, whole.crop)

    @pytest.mark.parametrize("config", [MASKS, DISTILLED], ids=["vit", "deit"])
    def test_normalization_is_the_same_with_and_without_variant(self, tmp_path: Path, config: SegmenterConfig) -> None:
        variant = variant_of(config, normalization=None)
        del variant["net_kwargs"]["normalization"]
        described = load_checkpoint(write(tmp_path, config, variant))
        (tmp_path / "variant.yml").unlink()
        inferred = load_checkpoint(tmp_path)
        assert described.config.normalization == inferred.config.normalization == config.normalization
        assert described.notes == (
            f"variant.yml has no normalization in net_kwargs: '{config.normalization}' is taken",
        )
        assert f"normalization '{config.normalization}'" in inferred.notes[0]

    @pytest.mark.parametrize("config", [MASKS, DISTILLED], ids=["vit", "deit"])
    def test_the_distillation_token_is_read_from_the_weights(self, tmp_path: Path, config: SegmenterConfig) -> None:
        """Official settings of some networks without one do not mention it."""
        variant = variant_of(config)
        del variant["net_kwargs"]["distilled"]
        checkpoint = load_checkpoint(write(tmp_path, config, variant))
        assert checkpoint.config.distilled == config.distilled
        assert checkpoint.notes == ()
        segmenter_from_checkpoint(checkpoint, None)


class TestWithoutVariant:
    @pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.describe())
    def test_architecture_comes_from_the_weights_and_that_is_said(
        self, tmp_path: Path, config: SegmenterConfig
    ) -> None:
        checkpoint = load_checkpoint(write(tmp_path, config))
        assert checkpoint.config == config
        (note,) = checkpoint.notes
        assert "no variant.yml" in note
        assert config.describe() in note
        assert "heads" in note
        segmenter_from_checkpoint(checkpoint, MergeSettings((1,), (2, 2), 0.5))

    def test_a_file_of_any_name(self, tmp_path: Path) -> None:
        path = tmp_path / "weights of mine.bin"
        torch.save(state_of(MASKS), path)
        assert load_checkpoint(path).path == path

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    @pytest.mark.parametrize("variant", [None, variant_of(MASKS)], ids=["inferred", "variant"])
    def test_network_that_was_wrapped_when_it_was_saved(self, tmp_path: Path, prefix: str, variant: Any) -> None:
        state = state_of(MASKS)
        write(tmp_path, {"model": {f"{prefix}{key}": value for key, value in state.items()}}, variant)
        loaded = load_checkpoint(tmp_path)
        assert loaded.state.keys() == state.keys()
        segmenter_from_checkpoint(loaded, None)

    def test_weights_of_something_else(self, tmp_path: Path) -> None:
        message = failure(write(tmp_path, {"model": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}))
        assert "not a Segmenter checkpoint" in message
        assert "encoder.patch_embed.proj.weight" in message

    def test_a_grid_that_is_not_square_cannot_be_inferred(self, tmp_path: Path) -> None:
        state = state_of(MASKS)
        state["encoder.pos_embed"] = state["encoder.pos_embed"][:, :12]
        write(tmp_path, {"model": state})
        assert "do not make a square grid; put the variant.yml beside the file" in failure(tmp_path)


class TestDamagedFiles:
    def test_a_path_that_is_not_there_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nowhere\.pth: there is no such file or folder; name checkpoint\.pth"):
            load_checkpoint(tmp_path / "nowhere.pth")

    def test_a_file_that_the_system_does_not_read(self) -> None:
        assert "/proc/self/mem: cannot be read (Input/output error)" in failure(Path("/proc/self/mem"))

    def test_folder_without_a_checkpoint(self, tmp_path: Path) -> None:
        assert "no checkpoint.pth" in failure(tmp_path)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99, 0.999999])
    def test_a_truncated_file_asks_for_another_copy(self, tmp_path: Path, share: float) -> None:
        path = write(tmp_path, MASKS, variant_of(MASKS)) / "checkpoint.pth"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "copy or download it again" in failure(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"just a text\n",
            b"<html>404</html>",
            b"version https://git-lfs",
            b"\x00" * 1000,
            b"PK\x03\x04",
            bytes(range(256)) * 40,
            b"\x80\x02",
        ],
        ids=["text", "html", "git lfs", "zeros", "zip head", "bytes", "pickle head"],
    )
    def test_other_files_are_named_as_such(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "checkpoint.pth"
        path.write_bytes(content)
        message = failure(path)
        assert "PyTorch checkpoint" in message
        assert "copy or download it again" in message
        assert len(message) < 250

    @pytest.mark.filterwarnings("error::UserWarning", "ignore::DeprecationWarning")
    def test_a_torchscript_program_is_named_as_such(self, tmp_path: Path) -> None:
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "checkpoint.pth")
        assert "a TorchScript program; export the checkpoint that it was made from" in failure(tmp_path)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_flipped_bytes_never_escape_as_other_errors(self, tmp_path: Path, legacy: bool) -> None:
        """Damage anywhere in the structure ends in our message, or goes unseen because it hit a number."""
        path = tmp_path / "checkpoint.pth"
        torch.save({"model": {"weight": torch.zeros(4)}}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        random = np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(whole)
            for position in random.integers(0, len(whole), random.integers(1, 4)):
                damaged[position] = random.integers(0, 256)
            path.write_bytes(damaged)
            failure(path)

    def test_a_folder_called_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint.pth").mkdir()
        assert "no checkpoint.pth" in failure(tmp_path)

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            ({}, "an empty one"),
            ({"model": {}}, "something else there"),
            ({"model": 3}, "something else there"),
            ([1, 2], "a list"),
            (torch.zeros(2), "a Tensor"),
            ({"model": {"a": 1}}, "something else there"),
            ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "the keys 'state_dict', 'epoch'"),
            (dict.fromkeys(range(9), 0), "the keys 0, 1, 2, 3, 4 and 4 more"),
        ],
        ids=str,
    )
    def test_a_file_without_weights_says_so(self, tmp_path: Path, data: Any, found: str) -> None:
        message = failure(write(tmp_path, data))
        assert "no weights found" in message
        assert message.endswith(f"as upstream writes, found {found}")

    @pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
    def test_weights_of_another_kind_are_named(self, tmp_path: Path) -> None:
        state, key = state_of(MASKS), "encoder.blocks.0.mlp.fc1.weight"
        weights = state[key]
        scale, zeros = torch.ones(len(weights)), torch.zeros(len(weights), dtype=torch.int64)
        others = [
            weights.to_sparse(),
            weights.to(torch.complex64),
            weights.to(torch.int8),
            weights.to("meta"),
            torch.quantize_per_channel(weights, scale, zeros, 0, torch.qint8),
        ]
        for other in others:
            message = failure(write(tmp_path, {"model": state | {key: other}}))
            assert f"not dense floating-point numbers, quantised or sparse ones for instance: {key};" in message

    def test_an_archive_that_unpacks_to_more_than_it_holds(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"model": state_of(MASKS) | {"encoder.head.weight": torch.zeros(10**6)}})
        packed = path / "checkpoint.pth"
        with zipfile.ZipFile(packed) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        assert "a compressed archive; save the weights once more with torch.save" in failure(path)

    @pytest.mark.parametrize("index", ["99999999", "9" * 5000], ids=len)
    @pytest.mark.parametrize("part", ["encoder", "decoder"])
    def test_a_layer_number_without_the_layers_before_it(self, tmp_path: Path, part: str, index: str) -> None:
        message = failure(write(tmp_path, {"model": state_of(MASKS) | {f"{part}.blocks.{index}.x": torch.zeros(1)}}))
        assert "missing keys" in message

    def test_weights_for_a_picture_without_a_patch(self, tmp_path: Path) -> None:
        message = failure(write(tmp_path, {"model": state_of(MASKS) | {"encoder.pos_embed": torch.zeros(1, 1, 64)}}))
        assert "the image size (0, 0) does not lie in 1..65536 pixels" in message

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_weights_that_are_not_finite(self, tmp_path: Path, value: float, dtype: torch.dtype) -> None:
        state = {key: weight.to(dtype) for key, weight in state_of(MASKS).items()}
        state["encoder.blocks.1.mlp.fc1.bias"][3] = value
        message = failure(write(tmp_path, {"model": state}, variant_of(MASKS)))
        assert "not a number" in message
        assert "encoder.blocks.1.mlp.fc1.bias" in message

    @pytest.mark.parametrize("config", [MASKS, DISTILLED], ids=["vit", "deit"])
    @pytest.mark.parametrize("described", [False, True])
    @pytest.mark.parametrize("wrapper", ["", "module."])
    @pytest.mark.parametrize("classes", [None, 10, 1000, 21843])
    def test_classification_head_may_be_anything_and_may_be_missing(
        self, tmp_path: Path, config: SegmenterConfig, described: bool, wrapper: str, classes: int | None
    ) -> None:
        state = state_of(config)
        heads = unused_heads(config, classes) if classes else {}
        whole = {
            f"{wrapper}{key}": value * torch.nan if key in heads else value for key, value in (state | heads).items()
        }
        checkpoint = load_checkpoint(write(tmp_path, {"model": whole}, variant_of(config) if described else None))
        assert checkpoint.state.keys() == state.keys()
        loaded = segmenter_from_checkpoint(checkpoint, None).state_dict()
        assert all(torch.equal(value, state[name]) for name, value in loaded.items())


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.trace}'",)


class TestCodeInFiles:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_code_in_a_pickle_is_refused_and_never_runs(self, tmp_path: Path, legacy: bool) -> None:
        trace = tmp_path / "trace"
        path = tmp_path / "checkpoint.pth"
        data = {"model": state_of(MASKS), "extra": Evil(trace)}
        torch.save(data, path, _use_new_zipfile_serialization=not legacy)
        message = failure(path)
        assert "could run code" in message
        assert "system" in message
        assert not trace.exists()

    def test_other_objects_in_a_file_that_one_trusts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The cure in the message is a line that works."""
        message = failure(write(tmp_path, {"model": state_of(MASKS), "settings": Path("somewhere")}, variant_of(MASKS)))
        cure = message.partition("if you trust it, make a file of its weights alone and export that: ")[2]
        assert cure.startswith("torch.save({'model': torch.load(")
        monkeypatch.chdir(tmp_path)
        exec(cure, {"torch": torch})
        segmenter_from_checkpoint(load_checkpoint(tmp_path / "weights.pth"), None)

    def test_bare_pickle_with_code(self, tmp_path: Path) -> None:
        trace = tmp_path / "trace"
        path = tmp_path / "checkpoint.pth"
        path.write_bytes(pickle.dumps(Evil(trace)))
        failure(path)
        assert not trace.exists()

    @pytest.mark.parametrize(
        "tag",
        [
            "!!python/object/apply:os.system ['touch TRACE']",
            "!!python/object/new:os.system ['touch TRACE']",
            "!!python/name:os.system",
            "!!python/module:os",
        ],
    )
    def test_code_in_variant_yml_is_refused_and_never_runs(self, tmp_path: Path, tag: str) -> None:
        trace = tmp_path / "trace"
        text = f"net_kwargs:\n  d_model: {tag.replace('TRACE', str(trace))}\n"
        write(tmp_path, MASKS, text)
        with pytest.raises(CheckpointError, match=r"variant\.yml"):
            load_checkpoint(tmp_path)
        assert not trace.exists()


class TestWrongVariant:
    @pytest.mark.parametrize(
        "text",
        [
            "net_kwargs: {",
            "\t- a\n b",
            "",
            "just text",
            "- 1\n- 2",
            "net_kwargs: 3",
            "other: {}",
            "\x00\x01",
            "!!python/tuple 3",
            "a: 2001-13-01",
            "a: !!int ''",
            "a: !!bool x",
            "a: " + "1" * 5000,
            "[" * 10_000,
            "a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]",
            "a: &a {b: 1}\nc: &c {<<: *a, d: {}}\ne: {<<: *c}",
        ],
        ids=lambda text: text[:12],
    )
    def test_a_damaged_variant_yml_is_named(self, tmp_path: Path, text: str) -> None:
        assert "variant.yml" in failure(write(tmp_path, MASKS, text))

    def test_a_binary_variant_yml_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, MASKS, "x")
        (tmp_path / "variant.yml").write_bytes(b"\xff\xfe\x00\xd8")
        assert "variant.yml" in failure(tmp_path)

    @pytest.mark.parametrize("key", ["d_model", "n_layers", "n_heads", "n_cls", "patch_size", "image_size", "decoder"])
    def test_a_missing_entry_is_named(self, tmp_path: Path, key: str) -> None:
        variant = variant_of(MASKS)
        del variant["net_kwargs"][key]
        message = failure(write(tmp_path, MASKS, variant))
        assert ("decoder has no name" if key == "decoder" else f"net_kwargs has no {key}") in message

    @pytest.mark.parametrize(
        ("section", "key", "value", "complaint"),
        [
            ("net_kwargs", "d_model", "wide", "d_model is 'wide', expected a whole number"),
            ("net_kwargs", "image_size", "large", "image_size is 'large', expected one or two whole numbers from 1 on"),
            ("net_kwargs", "n_layers", None, "net_kwargs has no n_layers"),
            ("net_kwargs", "image_size", [1, 2, 3], "image_size is [1, 2, 3], expected one or two whole numbers"),
            ("net_kwargs", "n_cls", [], "n_cls is [], expected a whole number"),
            ("net_kwargs", "patch_size", [16, 16], "patch_size is [16, 16], expected a whole number"),
            ("net_kwargs", "n_heads", float("inf"), "n_heads is inf, expected a whole number"),
            ("net_kwargs", "backbone", ["a"], "backbone is ['a'], expected a text"),
            ("net_kwargs", "decoder", "linear", "decoder is 'linear', expected a section"),
            ("net_kwargs", "decoder", "mask_transformer", "decoder is 'mask_transformer', expected a section"),
            ("dataset_kwargs", "crop_size", "128", "crop_size is '128', expected one or two whole numbers from 1 on"),
            ("dataset_kwargs", "crop_size", 0, "crop_size is 0, expected one or two whole numbers from 1 on"),
            ("dataset_kwargs", "selected_layers", "all", "selected_layers is 'all', expected a list of whole numbers"),
            ("dataset_kwargs", "selected_layers", "12", "selected_layers is '12', expected a list of whole numbers"),
            ("dataset_kwargs", "merging_window_size", "2x2", "merging_window_size is '2x2', expected one or two"),
            ("dataset_kwargs", "threshold", "high", "threshold is 'high', expected a number"),
        ],
    )
    def test_entry_of_another_kind(self, tmp_path: Path, section: str, key: str, value: Any, complaint: str) -> None:
        variant = variant_of(MASKS, patch_type="algm")
        variant[section][key] = value
        assert f"variant.yml: {complaint}" in failure(write(tmp_path, MASKS, variant))

    @pytest.mark.parametrize(
        ("part", "key", "value", "word"),
        [
            ("decoder", "name", "deeplab_dec", "deeplab_dec"),
            ("net_kwargs", "n_heads", 3, "heads"),
            ("net_kwargs", "n_layers", 0, "n_layers"),
            ("net_kwargs", "image_size", [30, 32], "patch size"),
            ("net_kwargs", "normalization", "other", "other"),
            ("net_kwargs", "n_layers", 10**9, "at most 1024"),
            ("net_kwargs", "d_model", 10**9, "at most 65536"),
            ("net_kwargs", "n_cls", 10**30, "at most 65535"),
            ("net_kwargs", "image_size", 8 * 10**6, "does not lie in 1..65536 pixels"),
            ("decoder", "n_layers", 10**9, "at most 1024 layers"),
            ("decoder", "n_layers", -1, "at most 1024 layers"),
        ],
    )
    def test_architectures_that_cannot_be(self, tmp_path: Path, part: str, key: str, value: Any, word: str) -> None:
        variant = variant_of(MASKS, normalization=None)
        (variant["net_kwargs"]["decoder"] if part == "decoder" else variant[part])[key] = value
        message = failure(write(tmp_path, MASKS, variant))
        assert "variant.yml: " in message
        assert word in message

    def test_width_that_the_heads_of_the_mask_decoder_do_not_divide(self, tmp_path: Path) -> None:
        write(tmp_path, MASKS, variant_of(replace(MASKS, d_model=200, decoder_heads=1)))
        assert "200 is not a multiple of the 3 heads" in failure(tmp_path)

    @pytest.mark.parametrize(
        "settings",
        [{"selected_layers": [5, 1]}, {"merging_window_size": [1, 1]}, {"threshold": float("nan")}],
        ids=str,
    )
    def test_merge_settings_that_cannot_be(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        assert "variant.yml: " in failure(write(tmp_path, MASKS, variant_of(MASKS, patch_type="algm", **settings)))

    @pytest.mark.parametrize("key", ["net_kwargs", "dataset_kwargs"])
    def test_sections_of_another_kind(self, tmp_path: Path, key: str) -> None:
        variant = variant_of(MASKS)
        variant[key] = ["a", "b"]
        assert "variant.yml" in failure(write(tmp_path, MASKS, variant))


class TestStrictLoading:
    """All differences at once, under the names of the weights."""

    def test_missing_keys(self, tmp_path: Path) -> None:
        state = state_of(MASKS)
        del state["decoder.cls_emb"], state["encoder.norm.bias"]
        message = failure(write(tmp_path, {"model": state}, variant_of(MASKS)))
        assert "missing keys: decoder.cls_emb, encoder.norm.bias" in message

    def test_unexpected_keys(self, tmp_path: Path) -> None:
        state = state_of(MASKS) | {f"extra.{index}": torch.zeros(1) for index in range(9)}
        message = failure(write(tmp_path, {"model": state}, variant_of(MASKS)))
        assert "unexpected keys: extra.0, extra.1, extra.2, extra.3, extra.4 and 4 more" in message

    def test_wrong_shapes(self, tmp_path: Path) -> None:
        state = state_of(MASKS)
        state["decoder.cls_emb"] = torch.zeros(1, 6, 64)
        message = failure(write(tmp_path, {"model": state}, variant_of(MASKS)))
        assert "decoder.cls_emb is (1, 6, 64), expected (1, 5, 64)" in message

    @pytest.mark.parametrize("layers", [1, 3])
    def test_variant_of_another_depth(self, tmp_path: Path, layers: int) -> None:
        variant = variant_of(MASKS)
        variant["net_kwargs"]["n_layers"] = layers
        message = failure(write(tmp_path, MASKS, variant))
        assert f"L{layers}" in message
        assert "variant.yml belongs to this checkpoint" in message

    def test_a_variant_that_is_not_there_is_not_blamed(self, tmp_path: Path) -> None:
        state = state_of(MASKS)
        del state["encoder.norm.bias"]
        message = failure(write(tmp_path, {"model": state}))
        assert message.endswith("missing keys: encoder.norm.bias")

    def test_all_mismatches_are_reported_together(self, tmp_path: Path) -> None:
        message = failure(write(tmp_path, TINY, variant_of(LINEAR)))
        assert all(part in message for part in ("missing keys", "unexpected keys", "wrong shapes"))
