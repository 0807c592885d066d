"""A model file as the doctor sees it: what it is, whether it runs here, and what stands against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from algm_trt.engines.doctor import probes
from algm_trt.engines.doctor.facts import BREAKS, LACKS, Fact
from algm_trt.engines.doctor.isolated import call
from algm_trt.engines.doctor.machine import Machine, package_version
from algm_trt.engines.doctor.outline import Outline, read_outline
from algm_trt.plugins import spec
from algm_trt.plugins.errors import AlgmError, MissingDependencyError, UsageError
from algm_trt.runtime.backends.tensorrt.plan import (
    check_gpu,
    check_plugins,
    check_processor,
    check_profiles,
    read_plan,
)
from algm_trt.runtime.card import METADATA_KEY, ModelCard, ModelCardError
from algm_trt.runtime.engine_record import EngineRecord, read_record

RUN_LIMIT: Final = 300.0
"""Seconds for opening a model and running one picture."""

Topic = Literal["file", "portability", "plugins", "environment"]


@dataclass(frozen=True)
class Problem:
    """Why the model cannot be used here.

    Attributes:
        topic: "file": damaged or not ours; "portability": made for other software or another GPU; "plugins": its
            operators; "environment": the machine lacks something.
        text: what is wrong and the cure, one line.
        exit_code: `BREAKS` or `LACKS`.
    """

    topic: Topic
    text: str
    exit_code: int


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        path: of the file.
        kind: "onnx" or "plan".
        card: its model card, if it can be read.
        outline: of an ONNX file, if it can be read.
        record: engine record of a plan, if it can be read.
        problems: why it cannot be used here.
        run: what happened when it ran, or "".
    """

    path: Path
    kind: Literal["onnx", "plan"]
    card: ModelCard | None
    outline: Outline | None
    record: EngineRecord | None
    problems: tuple[Problem, ...]
    run: str

    def about(self, topic: Topic) -> list[Problem]:
        """The problems of a topic."""
        return [problem for problem in self.problems if problem.topic == topic]


def examine_model(path: Path, machine: Machine) -> Model:
    """Look at a model file.

    Raises:
        UsageError: there is no such file, or it is neither `.onnx` nor `.plan`.
    """
    if not path.is_file():
        raise UsageError(f"there is no model {path}: make one with algm-export CHECKPOINT, or name another")
    if path.suffix.lower() == ".plan":
        return _examine_plan(path, machine)
    if path.suffix.lower() == ".onnx":
        return _examine_onnx(path)
    raise UsageError(f"{path}: expected a .onnx or .plan file")


def _examine_onnx(path: Path) -> Model:
    problems: list[Problem] = []
    outline, card, run = None, None, ""
    try:
        outline = read_outline(path)
        card = ModelCard.from_metadata(path, outline.metadata.get(METADATA_KEY))
        _check_operators(path, outline)
    except (AlgmError, OSError) as error:
        problems.append(Problem("file", str(error), BREAKS))
    else:
        answer = call(probes.run_model, str(path), limit=RUN_LIMIT)
        if answer.ok:
            tokens = ">".join(map(str, answer.value["tokens"]))
            run = (
                f"{answer.value['description']}: opened in {answer.value['open_seconds']:.1f} s, a picture in "
                f"{answer.value['run_seconds']:.2f} s, tokens {tokens}"
            )
        elif answer.missing:
            cure = "" if "pip install" in answer.error else ": pip install algm-trt brings it"
            problems.append(Problem("environment", f"{answer.error}{cure}", LACKS))
        else:
            problems.append(Problem("file", answer.error, BREAKS))
    return Model(path, "onnx", card, outline, None, tuple(problems), run)


def _check_operators(path: Path, outline: Outline) -> None:
    """Every operator of ours has its body and is known to this version.

    Raises:
        ModelCardError: one is not.
    """
    prefix = f"{spec.DOMAIN}::"
    used = {name for name in outline.nodes if name.startswith(prefix)}
    if unknown := sorted(used - {prefix + name for name in spec.OPS}):
        raise ModelCardError(f"{path} has operators that this version lacks: {', '.join(unknown)}; update algm-trt")
    if without := sorted(used - set(outline.functions)):
        raise ModelCardError(
            f"{path} lacks the function bodies of {', '.join(without)}: only the file as algm-export wrote it runs"
        )


def _examine_plan(path: Path, machine: Machine) -> Model:
    try:
        record = read_record(path)
    except AlgmError as error:
        return Model(path, "plan", None, None, None, (Problem("file", str(error), BREAKS),), "")
    problems = (*_problems_of_plan(path, record, machine), *_problems_of_machine(path, record, machine))
    return Model(path, "plan", record.card, None, record, problems, "")


def _problems_of_plan(path: Path, record: EngineRecord, machine: Machine) -> Iterator[Problem]:
    """What is wrong with the plan itself, or with its operators."""
    yield from _refusals("file", lambda: read_plan(path))
    yield from _refusals("file", lambda: check_profiles(path, record))
    yield from _refusals("plugins", lambda: check_plugins(path, record))
    if record.plugins is not None and not record.plugins.embedded and not machine.library.usable:
        yield Problem("plugins", machine.library.problem, LACKS)


def _problems_of_machine(path: Path, record: EngineRecord, machine: Machine) -> Iterator[Problem]:
    """What the plan was not made for, or what is not here."""
    yield from _refusals("portability", lambda: check_processor(path, record))
    answer = call(probes.plan_tensorrt, str(path), limit=60.0)
    if answer.missing:
        yield Problem("environment", answer.error, LACKS)
    elif not answer.ok:
        yield Problem("portability", answer.error, BREAKS)
    if machine.gpus:
        gpu = machine.gpus[0]
        yield from _refusals("portability", lambda: check_gpu(path, record, gpu.name, gpu.compute_capability))
    else:
        text = "a plan runs on an NVIDIA GPU only, and this machine has none that CUDA can use; for a CPU take the "
        yield Problem("environment", f"{text}.onnx it was built from", LACKS)
    if machine.driver_is_older:
        text = f"{machine.driver_is_older}: update the driver, or install the cuda-python of its CUDA version"
        yield Problem("environment", text, LACKS)
    if not package_version("cuda-bindings"):
        text = "cuda-python is not installed, and plans run through it: pip install cuda-python"
        yield Problem("environment", text, LACKS)


def _refusals(topic: Topic, check: Callable[[], object]) -> Iterator[Problem]:
    """What a check refuses, if it does: of its topic, or of the environment where something is not here."""
    try:
        check()
    except MissingDependencyError as error:
        yield Problem("environment", str(error), LACKS)
    except (AlgmError, OSError) as error:
        yield Problem(topic, str(error), BREAKS)


def model_facts(model: Model) -> list[Fact]:
    """The model as lines; what stands against it last."""
    facts = [Fact("file", f"{model.path}, {model.path.stat().st_size / 1e6:.1f} MB")]
    if model.card is not None:
        facts += _card_facts(model.card)
    if model.outline is not None:
        outline = model.outline
        opsets = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in sorted(outline.opsets.items()))
        functions = f"{len(outline.functions)} function bodies" if outline.functions else "no function bodies"
        facts.append(Fact("graph", f"{sum(outline.nodes.values())} nodes, {functions}, operator sets: {opsets}"))
    if model.record is not None:
        facts += _record_facts(model.record)
    if model.run:
        facts.append(Fact("runs", model.run))
    states = {BREAKS: "broken", LACKS: "absent"}
    return facts + [Fact(problem.topic, problem.text, states[problem.exit_code]) for problem in model.problems]  # type: ignore[arg-type]


def _card_facts(card: ModelCard) -> list[Fact]:
    merge = "dense"
    if card.merge is not None:
        layers, (height, width) = ", ".join(map(str, card.merge.layers)), card.merge.window
        merge = f"merges at layers {layers} in windows of {height}x{width} from similarity {card.merge.threshold:g}"
    size = f"{card.size[0]}x{card.size[1]}, stride {card.stride}"
    return [
        Fact("model", f"{card.architecture or 'architecture unknown'}, {len(card.classes)} classes, {card.precision}"),
        Fact("input", f"{size}; {merge}"),
        Fact("made by", f"algm-trt {card.tool_version or 'unknown'}, checkpoint {card.checkpoint_sha256[:12] or '?'}"),
    ]


def _record_facts(record: EngineRecord) -> list[Fact]:
    name = "TensorRT-RTX" if record.flavour == "rtx" else "TensorRT"
    device = f"{record.gpu}, " if record.gpu else ""
    ranges = ", ".join(f"{low} to {high}" if low < high else str(low) for low, _, high in record.profiles)
    plugins = "no plugins"
    if record.plugins is not None:
        where = "inside the plan" if record.plugins.embedded else "loaded from the library"
        plugins = f"{record.plugins.layers} plugin layers, {where}"
    capabilities = ", ".join(record.compute_capabilities)
    on = f", built on {record.processor}" if record.processor else ""
    return [
        Fact("engine", f"{name} {record.tensorrt_version} for {device}compute capability {capabilities}{on}"),
        Fact("profiles", f"batch {ranges}; {plugins}; built {record.date or 'at an unknown date'}"),
    ]
