"""Read checkpoints as the official ALGM and Segmenter code writes them: `checkpoint.pth` + `variant.yml`.

Weights are loaded with `weights_only=True`, and YAML as `algm_trt.exporter.variant` does: neither can run code.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from algm_trt.exporter.config import HEAD_WIDTH, ConfigError, SegmenterConfig, default_normalization
from algm_trt.exporter.variant import read_variant
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import MergeSettings, ModelCardError
from algm_trt.runtime.files import sha256_of

# A zip archive, as torch.save writes today, or a pickle, as it once did.
FILE_HEADS = (b"PK", b"\x80")

DISTILLATION_TOKEN = "encoder.dist_token"

# Prefixes of weights that official checkpoints carry from the backbone, and that compute nothing in a Segmenter.
CLASSIFICATION_HEADS = ("encoder.head.", "encoder.head_dist.")

# Prefixes of the keys of a network that was wrapped when it was saved, in either order.
WRAPPERS = ("module.", "_orig_mod.")

MOST_NAMED = 5

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
        state: weights, keys as upstream, without the classification heads, which a Segmenter does not use.
        merge: merge settings it was trained with; None: it was not, or nothing says so.
        dataset: name of the data set, or "".
        crop: height and width of the training crop in pixels.
        short_side: pixels that pictures' short side has in the official evaluation; None: nothing says so.
        window_stride: step of windows in pixels that the training evaluated with; None: nothing says so.
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
    short_side: int | None = None
    window_stride: int | None = None
    notes: tuple[str, ...] = ()
    described: bool = True


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint and find out its architecture.

    Args:
        path: the `.pth` file, or the folder with `checkpoint.pth`. A `variant.yml` beside the weights describes the
            architecture; without it the architecture is inferred from the weights, and `notes` say so.

    Raises:
        UsageError: there is no such file or folder.
        CheckpointError: the files are incomplete, damaged, hold code, or do not fit each other.
    """
    weights = _weights_file(Path(path))
    state = _read_state(weights)
    if weights.with_name("variant.yml").is_file():
        return _checkpoint_with_variant(weights, state)
    return _checkpoint_from_weights(weights, state)


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        found = path / "checkpoint.pth"
        if not found.is_file():
            raise CheckpointError(f"{path}: the folder has no checkpoint.pth; name the .pth file itself")
        return found
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder; name checkpoint.pth, or the folder that it lies in")
    return path


def _read_state(path: Path) -> State:
    """The weights of a file, under upstream's keys, without those of the unused classification heads."""
    _check_head(path)
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # refused below, or harmless
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler fail in any way: assertions, struct errors, ...
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise CheckpointError(
                f"{path}: the file holds more than tensors (it names {code.group(1)}), and loading it could run code; "
                "if you trust it, make a file of its weights alone and export that: "
                f"torch.save({{'model': torch.load({str(path)!r}, weights_only=False)['model']}}, 'weights.pth')"
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
            f"{path}: no weights found; expected a dictionary of tensors under the key 'model', as upstream writes, "
            f"found {_content(data)}"
        )
    state = _without_wrappers({str(key): value for key, value in state.items()})
    state = {key: value for key, value in state.items() if not key.startswith(CLASSIFICATION_HEADS)}
    if odd := [key for key, value in state.items() if not _is_plain(value)]:
        raise CheckpointError(
            f"{path}: weights that are not dense floating-point numbers, quantised or sparse ones for instance: "
            f"{first_few(odd)}; export the checkpoint that they were made from"
        )
    return state


def _is_plain(value: torch.Tensor) -> bool:
    """Whether it is a dense tensor of real numbers that are there."""
    dense = value.layout == torch.strided and not value.is_nested
    return dense and value.is_floating_point() and not value.is_meta


def _content(data: object) -> str:
    """What a file without weights holds, in a few words."""
    if not isinstance(data, Mapping):
        return f"a {type(data).__name__}"
    if "model" in data:
        return "something else there"
    return f"the keys {first_few([repr(key) for key in data])}" if data else "an empty one"


def first_few(items: Sequence[str]) -> str:
    """Items for a message: the first five, and how many more there are."""
    rest = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(items[:MOST_NAMED]) + rest


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


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it holds: torch.save does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # an older format, or damaged: PyTorch says how
        return
    if unpacked > path.stat().st_size:
        raise CheckpointError(f"{path}: a compressed archive; save the weights once more with torch.save")


def _first_sentence(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0]


def _checkpoint_with_variant(weights: Path, state: State) -> Checkpoint:
    file = weights.with_name("variant.yml")
    try:
        variant = read_variant(file, distilled=DISTILLATION_TOKEN in state)
    except (ConfigError, ModelCardError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    return Checkpoint(
        path=weights,
        sha256=sha256_of(weights),
        config=variant.config,
        state=state,
        merge=variant.merge,
        dataset=variant.dataset,
        crop=variant.crop,
        short_side=variant.short_side,
        window_stride=variant.window_stride,
        notes=variant.notes,
    )


def _checkpoint_from_weights(weights: Path, state: State) -> Checkpoint:
    try:
        config = infer_config({key: tuple(value.shape) for key, value in state.items()})
    except ConfigError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    note = f"no variant.yml beside {weights.name}: inferred from the weights {config.describe()}"
    details = (
        f"{note}, crop {config.image_size[0]}x{config.image_size[1]}, normalization '{config.normalization}', "
        f"attention heads: {config.n_heads} (width / {HEAD_WIDTH})"
    )
    return Checkpoint(
        path=weights,
        sha256=sha256_of(weights),
        config=config,
        state=state,
        merge=None,
        dataset="",
        crop=config.image_size,
        notes=(details,),
        described=False,
    )


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> SegmenterConfig:
    """Architecture from the shapes of the weights; heads are the width divided by 64, the image is square.

    Raises:
        ConfigError: these are not the weights of a Segmenter, its grid is not square, or no network has these shapes.
    """
    try:
        d_model, _, patch, _ = shapes["encoder.patch_embed.proj.weight"]
        positions = shapes["encoder.pos_embed"][1]
        distilled = DISTILLATION_TOKEN in shapes
        side = math.isqrt(positions - 1 - distilled)
        masks = "decoder.cls_emb" in shapes
        n_cls = shapes["decoder.cls_emb"][1] if masks else shapes["decoder.head.weight"][0]
        d_ff = shapes["encoder.blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(f"not a Segmenter checkpoint, {_missing(error)}") from error
    if side * side != positions - 1 - distilled:
        raise ConfigError(
            f"{positions} positional embeddings do not make a square grid; put the variant.yml beside the file"
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
        distilled=distilled,
        normalization=default_normalization(distilled),
        decoder="mask_transformer" if masks else "linear",
        decoder_layers=_depth(shapes, "decoder") if masks else 0,
        decoder_heads=heads,
    )


def _depth(shapes: Mapping[str, tuple[int, ...]], part: str) -> int:
    matches = (re.match(rf"{part}\.blocks\.(\d+)\.", key) for key in shapes)
    return len({match.group(1) for match in matches if match})


def _missing(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else f"a value is not as expected ({error})"
