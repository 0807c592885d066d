"""A model as the measuring commands take it: a file and what runs it in one argument, `openvino-bf16:model.onnx`.

The file is an exported model, or a checkpoint, which the exporter's adapter runs in PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Final

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.engine import CHECKPOINT_SUFFIXES, Engine, open_engine
from algm_trt.runtime.engine_options import BACKENDS, CPU_PRECISIONS, DEVICES, EngineOptions
from algm_trt.runtime.files import sha256_of

# The one place where the runtime reaches for PyTorch: by name, when a checkpoint is measured, and never before.
CHECKPOINT_ADAPTER: Final = "algm_trt.exporter.torch_engine"
DENSE: Final = ":dense"
COUPLED: Final = ":coupled"

_NAMED_DEVICES = [name for name in DEVICES if name != "auto"]
_PREFIX = re.compile(
    rf"(?P<backend>{'|'.join(BACKENDS)})"
    rf"(?:-(?P<device>{'|'.join(_NAMED_DEVICES)}))?"
    rf"(?:-(?P<precision>{'|'.join(CPU_PRECISIONS)}))?"
    r":(?P<model>.+)"
)


@dataclass(frozen=True)
class ModelArgument:
    """One model of the command line.

    Attributes:
        text: as it was given.
        model: path without the prefix; a checkpoint may end in ":dense" or ":coupled".
        options: what runs it, and where.
    """

    text: str
    model: str
    options: EngineOptions

    @classmethod
    def parse(cls, text: str, options: EngineOptions) -> ModelArgument:
        """Read `[BACKEND[-DEVICE][-PRECISION]:]MODEL`.

        Args:
            text: the argument. A file whose name begins like a prefix is named with a folder, as in ./openvino:x.onnx.
            options: of models without a prefix; a prefix takes nothing but threads and streams from them.

        Raises:
            UsageError: a prefix that contradicts itself, one before a checkpoint, or ":coupled" behind what is none.
        """
        if text.endswith(COUPLED) and not is_checkpoint(text):
            raise UsageError(f"{text}: {COUPLED} is for checkpoints: exported models decide per image")
        match = _PREFIX.fullmatch(text)
        if match is None:
            return cls(text, text, options)
        if is_checkpoint(match["model"]):
            raise UsageError(f"{text}: a checkpoint runs in PyTorch; leave out {match['backend']}")
        chosen = replace(
            options,
            backend=match["backend"],
            device=match["device"] or "auto",
            cpu_precision=match["precision"] or "fp32",
        )
        return cls(text, match["model"], chosen)

    @property
    def file(self) -> Path:
        """The file of the model or of the checkpoint."""
        path = Path(self.model.removesuffix(COUPLED).removesuffix(DENSE))
        return path / "checkpoint.pth" if path.is_dir() else path

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal.

        Raises:
            OSError: it cannot be read.
        """
        return sha256_of(self.file)

    @property
    def is_coupled(self) -> bool:
        """Whether windows of a batch are to merge equally many tokens, as in the official code."""
        return self.model.endswith(COUPLED)

    @property
    def short(self) -> str:
        """As given, without folders."""
        prefix = self.text.removesuffix(self.model)
        return prefix + (Path(self.model).name or self.model)

    def open(self, *, window_batch_coupled: bool = False) -> Engine:
        """Open the model.

        Args:
            window_batch_coupled: as if ":coupled" stood behind it.

        Raises:
            AlgmError: it cannot be opened; the message says why.
        """
        coupled = window_batch_coupled or self.is_coupled
        return open_model(self.model.removesuffix(COUPLED), self.options, window_batch_coupled=coupled)


def short_names(arguments: Sequence[ModelArgument]) -> list[str]:
    """The models without their folders, where those differ; otherwise as they were given."""
    names = [argument.short for argument in arguments]
    return names if len(set(names)) == len(names) else [argument.text for argument in arguments]


def model_title(name: str, threshold: float | None) -> str:
    """Name of a model, and the threshold that it merges at; None for a dense model."""
    return name if threshold is None else f"{name} @ {threshold:g}"


def is_checkpoint(model: str) -> bool:
    """Whether a model, with ":dense" or ":coupled" or without, is a PyTorch checkpoint: by its suffix, or a folder."""
    path = Path(model.removesuffix(COUPLED).removesuffix(DENSE))
    return path.suffix.lower() in CHECKPOINT_SUFFIXES or path.is_dir()


def open_model(model: str, options: EngineOptions | None = None, *, window_batch_coupled: bool = False) -> Engine:
    """Open a model file, or a checkpoint (which may end in ":dense" for its network without merging).

    Args:
        model: path, with ":dense" or without.
        options: what runs it; a checkpoint takes device and threads only.
        window_batch_coupled: checkpoints only: windows of a batch merge equally many tokens.

    Raises:
        AlgmError: it cannot be opened; the message says why.
    """
    options = options or EngineOptions()
    if model.endswith(COUPLED):
        raise UsageError(f"{model}: {COUPLED} is for algm-eval, whose batches hold windows of one picture")
    if not is_checkpoint(model):
        if model.endswith(DENSE):
            raise UsageError(f"{model}: {DENSE} is for checkpoints; export the dense model with algm-export --no-merge")
        return open_engine(model, options)
    try:
        adapter = import_module(CHECKPOINT_ADAPTER)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{error.name} is not installed, which a checkpoint needs: pip install 'algm-trt[export]'"
        ) from error
    engine: Engine = adapter.TorchEngine(
        model.removesuffix(DENSE),
        device=options.device,
        threads=options.threads,
        merge=not model.endswith(DENSE),
        coupled=window_batch_coupled,
    )
    return engine
