"""Models as the measuring commands take them: exported files, and checkpoints through the exporter's adapter."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.engine import CHECKPOINT_SUFFIXES, Engine, open_engine
from algm_trt.runtime.engine_options import EngineOptions

# The one place where the runtime reaches for PyTorch: by name, when a checkpoint is measured, and never before.
CHECKPOINT_ADAPTER: Final = "algm_trt.exporter.torch_engine"
DENSE: Final = ":dense"
COUPLED: Final = ":coupled"


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
