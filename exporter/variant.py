"""Read `variant.yml`, in which official training writes how a network was made and trained.

The YAML loader is a safe one that knows one more tag, `!!python/tuple`, which official files carry: it cannot run code.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from algm_trt.exporter.config import HEAD_WIDTH, ConfigError, SegmenterConfig, default_normalization
from algm_trt.runtime.card import MergeSettings

T = TypeVar("T")

# The official patch's own window and threshold, and the layers that the paper uses.
DEFAULT_MERGE: Final = MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.88)
DEFAULT_DECODER_LAYERS: Final = 2


@dataclass(frozen=True)
class Variant:
    """What a variant.yml says.

    Attributes:
        config: architecture.
        merge: merge settings of the training; None: it did not merge.
        dataset: name of the data set, or "".
        crop: height and width of the training crop in pixels.
        short_side: pixels that pictures' short side had in training and has in the official evaluation; None: unsaid.
        window_stride: step of windows in pixels that the training evaluated with; None: unsaid.
        notes: a sentence for each default that was taken where the file says nothing.
    """

    config: SegmenterConfig
    merge: MergeSettings | None
    dataset: str
    crop: tuple[int, int]
    short_side: int | None
    window_stride: int | None
    notes: tuple[str, ...]


def read_variant(path: Path, *, distilled: bool) -> Variant:
    """Read a file.

    Args:
        path: of the file.
        distilled: whether the weights have a distillation token, for files that say nothing of it.

    Raises:
        ConfigError: not a variant.yml, or an entry that is missing or cannot be; the message names it, not the file.
        ModelCardError: merge settings that cannot be.
    """
    notes: list[str] = []
    whole = _Section("variant.yml", _load(path), notes)
    net, data, inference = map(whole.section, ("net_kwargs", "dataset_kwargs", "inference_kwargs"))
    decoder = net.section("decoder")
    name = decoder.entry("name", _text)
    name = "linear" if "linear" in name else name
    d_model = net.entry("d_model", int)
    distilled = net.entry("distilled", bool) if net.has("distilled") else distilled
    normalized = data if data.has("normalization") else net
    config = SegmenterConfig(
        image_size=net.entry("image_size", _pair),
        patch_size=net.entry("patch_size", int),
        d_model=d_model,
        n_layers=net.entry("n_layers", int),
        n_heads=net.entry("n_heads", int),
        d_ff=4 * d_model,
        n_cls=net.entry("n_cls", int),
        distilled=distilled,
        normalization=normalized.entry_or("normalization", _text, default_normalization(distilled)),
        decoder=name,
        decoder_layers=decoder.entry_or("n_layers", int, DEFAULT_DECODER_LAYERS) if name == "mask_transformer" else 0,
        decoder_heads=max(1, d_model // HEAD_WIDTH),
        backbone=net.entry("backbone", _text) if net.has("backbone") else "",
    )
    return Variant(
        config=config,
        merge=_merge_settings(data),
        dataset=data.entry("dataset", _text) if data.has("dataset") else "",
        crop=data.entry_or("crop_size", _pair, config.image_size),
        short_side=min(data.entry("image_size", _pair)) if data.has("image_size") else None,
        window_stride=inference.entry("window_stride", int) if inference.has("window_stride") else None,
        notes=tuple(notes),
    )


def _merge_settings(data: _Section) -> MergeSettings | None:
    """Those of dataset_kwargs; None for a model trained without ALGM or with no layer to merge in."""
    if data.entries.get("patch_type") != "algm" or data.entries.get("selected_layers") in ([], ()):
        return None
    return MergeSettings(
        layers=data.entry_or("selected_layers", _layers, DEFAULT_MERGE.layers),
        window=data.entry_or("merging_window_size", _pair, DEFAULT_MERGE.window),
        threshold=data.entry_or("threshold", float, DEFAULT_MERGE.threshold),
    )


@dataclass(frozen=True)
class _Section:
    """The entries of one section; one that is null counts as missing.

    Attributes:
        name: of the section.
        entries: as YAML gives them.
        notes: takes a sentence for each default.
    """

    name: str
    entries: Mapping[str, Any]
    notes: list[str]

    def has(self, key: str) -> bool:
        """Whether there is such an entry."""
        return self.entries.get(key) is not None

    def entry(self, key: str, convert: Callable[[Any], T]) -> T:
        """An entry as what it should be.

        Raises:
            ConfigError: it is missing, or something else.
        """
        if not self.has(key):
            raise ConfigError(f"{self.name} has no {key}")
        value = self.entries[key]
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{key} is {reprlib.repr(value)}, expected {_EXPECTED[convert]}") from error

    def entry_or(self, key: str, convert: Callable[[Any], T], default: T) -> T:
        """An entry, or a default and a note of that.

        Raises:
            ConfigError: it is something else.
        """
        if self.has(key):
            return self.entry(key, convert)
        self.notes.append(f"variant.yml has no {key} in {self.name}: {default!r} is taken")
        return default

    def section(self, key: str) -> _Section:
        """A section of this one, empty if it is missing.

        Raises:
            ConfigError: it is something else.
        """
        return _Section(key, self.entry(key, _mapping) if self.has(key) else {}, self.notes)


def _text(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        raise TypeError
    return str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


def _pair(value: Any) -> tuple[int, int]:
    """One number for both, or two."""
    if isinstance(value, str):
        raise TypeError
    first, second = (value, value) if isinstance(value, int) else value
    pair = int(first), int(second)
    if min(pair) < 1:
        raise ValueError
    return pair


def _layers(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):  # "15" would be the layers 1 and 5
        raise TypeError
    return tuple(int(layer) for layer in value)


# What `convert` takes, in words.
_EXPECTED: Final[Mapping[Callable[[Any], Any], str]] = {
    int: "a whole number",
    float: "a number",
    _text: "a text",
    _pair: "one or two whole numbers from 1 on",
    _layers: "a list of whole numbers",
    _mapping: "a section",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML plus tuples, less aliases of anything nested, of which a small file can make a value without end."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and isinstance(node, yaml.CollectionNode) and not _is_flat(node):
            raise yaml.composer.ComposerError(None, None, "found an alias of a nested value", node.start_mark)
        return node


def _is_flat(node: yaml.CollectionNode) -> bool:
    """Whether a sequence or a mapping holds single values only."""
    inner = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
    return all(isinstance(part, yaml.ScalarNode) for part in inner)


def _construct_tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a sequence for !!python/tuple", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)


def _load(path: Path) -> dict[str, Any]:
    try:
        variant = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except Exception as error:  # the loader's readers of numbers and dates raise errors of many types
        reason = " ".join(str(error).split())
        raise ConfigError(f"not a variant.yml as upstream writes it ({reason})") from error
    if not isinstance(variant, dict) or not isinstance(variant.get("net_kwargs"), dict):
        raise ConfigError("has no net_kwargs; remove the file to infer the architecture from the weights")
    return variant
