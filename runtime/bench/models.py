"""Models that algm-bench measures, open and ready."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import Engine, backend_for
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.model_argument import ModelArgument, is_checkpoint, open_model, short_names
from algm_trt.runtime.window_runner import lanes_of


@runtime_checkable
class EngineWithDeviceClock(Protocol):
    """An engine that times itself on its device.

    Attributes:
        device_seconds: between events around the last `run` on the GPU: copies to and from it, and the model.
    """

    device_seconds: float


@dataclass(frozen=True, eq=False)
class Contender:
    """A model ready to be measured.

    Attributes:
        name: short name that no other model has.
        argument: where it came from.
        engine: open; with one stream on a CPU unless more were asked for.
        job_engine: the same, or the model opened once more with the streams that algm-infer takes.
    """

    name: str
    argument: ModelArgument
    engine: Engine
    job_engine: Engine

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.engine.card

    @property
    def is_dense(self) -> bool:
        """Whether it merges nothing."""
        return self.card.merge is None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the hash tells models of one name apart."""
        return {
            "name": self.name,
            "backend": self.engine.description,
            "threads": self.argument.options.threads,
            "streams": {"model_alone": lanes_of(self.engine), "whole_job": lanes_of(self.job_engine)},
            "architecture": self.card.architecture,
            "precision": self.card.precision,
            "size": list(self.card.size),
            "stride": self.card.stride,
            "classes": len(self.card.classes),
            "merge_layers": list(self.card.merge.layers) if self.card.merge else None,
            "threshold": self.card.merge.threshold if self.card.merge else None,
            "sha256": self.argument.sha256,
            "device_clock": isinstance(self.engine, EngineWithDeviceClock),
        }


def open_contenders(
    models: Sequence[str], options: EngineOptions, stack: ExitStack, *, whole_job: bool = False
) -> list[Contender]:
    """Open all models; the stack closes them.

    Args:
        models: arguments of the command line.
        options: of those without a prefix; streams None takes one for the model alone, and algm-infer's for whole jobs.
        stack: closes the engines.
        whole_job: whether whole jobs are measured.

    Raises:
        AlgmError: a model that cannot be opened; the message says which and why.
        UsageError: a model given twice, or a prefix that makes no sense.
    """
    arguments = [ModelArgument.parse(text, options) for text in models]
    if len({argument.text for argument in arguments}) < len(arguments):
        raise UsageError("a model is given twice")
    contenders = []
    for name, argument in zip(short_names(arguments), arguments, strict=True):
        engine = open_model(argument.model, replace(argument.options, streams=argument.options.streams or 1))
        stack.callback(engine.close)
        job_engine = _side_by_side(argument, stack) if whole_job and argument.options.streams is None else None
        contenders.append(Contender(name, argument, engine, job_engine or engine))
    return contenders


def _side_by_side(argument: ModelArgument, stack: ExitStack) -> Engine | None:
    """The model with as many streams as suit the processor; None where that is one, or not a processor's matter."""
    if is_checkpoint(argument.model) or backend_for(argument.file, argument.options) == "tensorrt":
        return None
    engine = open_model(argument.model, argument.options)
    if lanes_of(engine) == 1:
        engine.close()
        return None
    stack.callback(engine.close)
    return engine
