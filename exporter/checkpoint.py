"""Read checkpoints as the official ALGM and Segmenter code writes them: `checkpoint.pth` + `variant.yml`.

Weights are loaded with `weights_only=True`, YAML with a safe loader that knows one more tag (`!!python/tuple`, which
official files carry): neither can run code.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from algm_trt.exporter.config import ConfigError, SegmenterConfig
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.card import MergeSettings, ModelCardError

# The official patch's own defaults, and the layers that the paper uses.
DEFAULT_LAYERS = (1, 5)
DEFAULT_WINDOW = (2, 2)
DEFAULT_THRESHOLD = 0.88
HEAD_WIDTH = 64

# A zip archive, as torch.save writes today, or a pickle, as it once did.
FILE_HEADS = (b"PK", b"\x80")

# Prefixes of the keys of a network that was wrapped when it was saved, in either order.
WRAPPERS = ("module.", "_orig_mod.")

State = dict[str, torch.Tensor]


class CheckpointError(AlgmError):
    """A checkpoint that cannot be read or does not fit the architecture."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: of the weights.
        sha256: of the weights file.
        config: architecture.
        state: weights, keys as upstream.
        merge: merge settings it was trained with; None: it was not, or nothing says so.
        dataset: name of the data set, or "".
        crop: height and width of the training crop in pixels.
        stride: step of the sliding window in pixels, as the official evaluation chooses it.
        notes: what was inferred rather than read, one sentence each.
        described: whether a variant.yml says how it was trained.
    """

    path: Path
    sha256: str
    config: SegmenterConfig
    state: State
    merge: MergeSettings | None
    dataset: str
    crop: tuple[int, int]
    stride: int
    notes: tuple[str, ...] = ()
    described: bool = True


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint and find out its architecture.

    Args:
        path: the `.pth` file, or the folder with `checkpoint.pth`. A `variant.yml` beside the weights describes the
            architecture; without it the architecture is inferred from the weights, and `notes` say so.

    Raises:
        CheckpointError: the files are missing, damaged, hold code, or do not fit each other.
    """
    weights = _weights_file(Path(path))
    state = _read_state(weights)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    variant_file = weights.parent / "variant.yml"
    try:
        if variant_file.is_file():
            variant = _read_variant(variant_file)
            return _checkpoint_from_variant(weights, state, shapes, variant)
        return _checkpoint_from_weights(weights, state, shapes)
    except ConfigError as error:
        raise CheckpointError(f"{weights}: {error}") from error


def default_stride(crop: int, dataset: str) -> int:
    """Step of the sliding window that the official evaluation uses: crop - 32, and 512 on Cityscapes."""
    stride = 512 if dataset == "cityscapes" else crop - 32
    return min(stride, crop) if stride > 0 else crop


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        found = path / "checkpoint.pth"
        if not found.is_file():
            raise CheckpointError(f"{path}: the folder has no checkpoint.pth; name the .pth file itself")
        return found
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path


def _read_state(path: Path) -> State:
    """The weights of a file, under upstream's keys."""
    _check_head(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # refused below, or harmless
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler fail in any way: assertions, struct errors, ...
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise CheckpointError(
                f"{path}: the file holds more than tensors (it names {code.group(1)}), and loading it could run code; "
                "save only the weights, torch.save({'model': model.state_dict()}, path), and export that file"
            ) from error
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: a TorchScript program; export the checkpoint that it was made from, or its weights: "
                "torch.save({'model': torch.jit.load(path).state_dict()}, 'checkpoint.pth')"
            ) from error
        raise CheckpointError(
            f"{path}: not a complete PyTorch checkpoint ({_first_sentence(error)}); copy or download it again"
        ) from error
    state = data.get("model", data) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise CheckpointError(
            f"{path}: no weights found; expected a dictionary with the key 'model', as upstream writes"
        )
    return _without_wrappers({str(key): value for key, value in state.items()})


def _without_wrappers(state: State) -> State:
    """The weights under the network's own keys where all have the prefix of DataParallel or torch.compile."""
    for prefix in WRAPPERS * 2:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_head(path: Path) -> None:
    """Refuse what is no checkpoint at all: web pages, Git LFS pointers, empty downloads."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not head.startswith(FILE_HEADS):
        found = f"it begins with {head!r}" if head else "it is empty"
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, {found}; copy or download it again")


def _first_sentence(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0]


class _VariantLoader(yaml.SafeLoader):
    """Safe YAML plus tuples."""


def _construct_tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a sequence for !!python/tuple", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


_VariantLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)


def _read_variant(path: Path) -> dict[str, Any]:
    try:
        variant = yaml.load(path.read_text(encoding="utf-8"), Loader=_VariantLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a variant.yml as upstream writes it ({reason})") from error
    if not isinstance(variant, dict) or not isinstance(variant.get("net_kwargs"), dict):
        raise CheckpointError(f"{path}: has no net_kwargs; remove the file to infer the architecture from the weights")
    return variant


def _checkpoint_from_variant(
    weights: Path, state: State, shapes: Mapping[str, tuple[int, ...]], variant: Mapping[str, Any]
) -> Checkpoint:
    net: dict[str, Any] = variant["net_kwargs"]
    data: dict[str, Any] = variant.get("dataset_kwargs") or {}
    decoder: dict[str, Any] = net.get("decoder") or {}
    try:
        name = "linear" if "linear" in str(decoder["name"]) else str(decoder["name"])
        d_model = int(net["d_model"])
        config = SegmenterConfig(
            image_size=_pair(net["image_size"]),
            patch_size=int(net["patch_size"]),
            d_model=d_model,
            n_layers=int(net["n_layers"]),
            n_heads=int(net["n_heads"]),
            d_ff=4 * d_model,
            n_cls=int(net["n_cls"]),
            head_classes=shapes.get("encoder.head.weight", (1000,))[0],
            distilled=bool(net.get("distilled", False)),
            normalization=str(data.get("normalization") or net.get("normalization") or "vit"),
            decoder=name,
            decoder_layers=int(decoder.get("n_layers", 2)) if name == "mask_transformer" else 0,
            decoder_heads=max(1, d_model // HEAD_WIDTH),
            backbone=str(net.get("backbone", "")),
        )
        crop = _pair(data.get("crop_size") or config.image_size)
        merge = _merge_settings(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{weights.parent / 'variant.yml'}: {_missing(error)}") from error
    except (ConfigError, ModelCardError) as error:
        raise CheckpointError(f"{weights.parent / 'variant.yml'}: {error}") from error
    dataset = str(data.get("dataset") or "")
    return Checkpoint(
        path=weights,
        sha256=_sha256(weights),
        config=config,
        state=state,
        merge=merge,
        dataset=dataset,
        crop=crop,
        stride=default_stride(min(crop), dataset),
    )


def _checkpoint_from_weights(weights: Path, state: State, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    config = infer_config(weights, shapes)
    note = f"no variant.yml beside {weights.name}: inferred from the weights {config.describe()}"
    details = (
        f"{note}, crop {config.image_size[0]}x{config.image_size[1]}, normalization '{config.normalization}', "
        f"{config.n_heads} heads (width / {HEAD_WIDTH})"
    )
    return Checkpoint(
        path=weights,
        sha256=_sha256(weights),
        config=config,
        state=state,
        merge=None,
        dataset="",
        crop=config.image_size,
        stride=default_stride(min(config.image_size), ""),
        notes=(details,),
        described=False,
    )


def infer_config(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> SegmenterConfig:
    """Architecture from the shapes of the weights; heads are the width divided by 64, the image is square.

    Raises:
        CheckpointError: these are not the weights of a Segmenter, or its grid is not square.
        ConfigError: no network has these shapes.
    """
    try:
        d_model, _, patch, _ = shapes["encoder.patch_embed.proj.weight"]
        positions = shapes["encoder.pos_embed"][1]
        distilled = "encoder.dist_token" in shapes
        side = math.isqrt(positions - 1 - distilled)
        masks = "decoder.cls_emb" in shapes
        n_cls = shapes["decoder.cls_emb"][1] if masks else shapes["decoder.head.weight"][0]
        d_ff = shapes["encoder.blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: not a Segmenter checkpoint, {_missing(error)}") from error
    if side * side != positions - 1 - distilled:
        raise CheckpointError(
            f"{path}: {positions} positional embeddings do not make a square grid; put the variant.yml beside the file"
        )
    heads = max(1, d_model // HEAD_WIDTH)
    return SegmenterConfig(
        image_size=(side * patch, side * patch),
        patch_size=patch,
        d_model=d_model,
        n_layers=_depth(shapes, "encoder"),
        n_heads=heads,
        d_ff=d_ff,
        n_cls=n_cls,
        head_classes=shapes.get("encoder.head.weight", (1000,))[0],
        distilled=distilled,
        normalization="deit" if distilled else "vit",
        decoder="mask_transformer" if masks else "linear",
        decoder_layers=_depth(shapes, "decoder") if masks else 0,
        decoder_heads=heads,
    )


def _depth(shapes: Mapping[str, tuple[int, ...]], part: str) -> int:
    indices = (re.match(rf"{part}\.blocks\.(\d+)\.", key) for key in shapes)
    return max((int(match.group(1)) + 1 for match in indices if match), default=0)


def _merge_settings(data: Mapping[str, Any]) -> MergeSettings | None:
    """Merge settings from dataset_kwargs; None for a model trained without ALGM or with no layer to merge in."""
    layers = data.get("selected_layers")
    if data.get("patch_type") != "algm" or layers in ([], ()):
        return None
    threshold = data.get("threshold")
    return MergeSettings(
        layers=tuple(int(layer) for layer in layers or DEFAULT_LAYERS),
        window=_pair(data.get("merging_window_size") or DEFAULT_WINDOW),
        threshold=DEFAULT_THRESHOLD if threshold is None else float(threshold),
    )


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


def _missing(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else f"a value is not as expected ({error})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
