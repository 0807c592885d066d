"""From a model of algm-export to a plan and its engine record, both or neither."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from algm_trt.engines.agreement import (
    LABELS_GATE,
    TOKENS_GATE,
    Agreement,
    fit_float16,
)
from algm_trt.engines.bindings import load_builder
from algm_trt.engines.gpu import Gpu, current_gpu
from algm_trt.engines.locking import locked
from algm_trt.engines.network import (
    BuildError,
    Session,
    build_plan,
    configure,
    describe_layers,
    inspect_plan,
    open_session,
    parse,
)
from algm_trt.engines.options import BuildOptions
from algm_trt.engines.precision import to_float16
from algm_trt.engines.progress import BuildProgress
from algm_trt.engines.source import (
    SourceModel,
    give_threshold_a_dimension,
    plugin_nodes,
    read_model,
    with_functions_inlined,
    without_functions,
)
from algm_trt.engines.timing_cache import TimingCache, default_timing_cache
from algm_trt.plugins.errors import UsageError, VerificationError
from algm_trt.plugins.library import INTERFACE_VERSION, find_library
from algm_trt.plugins.spec import PLUGIN_VERSION
from algm_trt.plugins.stopping import stops_deferred
from algm_trt.runtime.backends.tensorrt.bindings import TensorRT
from algm_trt.runtime.check_pictures import MOST_PICTURES, check_pictures
from algm_trt.runtime.engine_record import EngineRecord, EngineRecordError, PluginRecord, read_record, record_path
from algm_trt.runtime.files import check_writable, renamed_together


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        path: the plan.
        record: what it is; also beside the plan as JSON.
        up_to_date: whether an equal plan was there and nothing was built.
        agreement: comparison of the float16 graph with the float32 one, if one was made.
        saved: files beside the plan and its record.
        notes: what the reader should know, one sentence each.
        seconds: time of the build.
    """

    path: Path
    record: EngineRecord
    up_to_date: bool
    agreement: Agreement | None
    saved: tuple[Path, ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Machine:
    """What a build uses of the machine."""

    tensorrt: TensorRT
    gpu: Gpu | None
    library: Path | None


@dataclass(frozen=True)
class _Job:
    """What is built, where to, how, and with what."""

    source: SourceModel
    target: Path
    precision: str
    options: BuildOptions
    machine: _Machine
    progress: BuildProgress


def build_engine(
    model: str | Path,
    plan: str | Path | None = None,
    options: BuildOptions | None = None,
    *,
    progress: BuildProgress | None = None,
) -> BuildReport:
    """Build an engine.

    The plan and its record appear together when both are whole; a build that ends early leaves none of them.

    Args:
        model: ONNX file of algm-export.
        plan: file to write; default: the model's name with `.plan`.
        options: how; default: the model's precision, batches of 1 to 8, this machine's GPU.
        progress: shows how far the build is, and can cancel it; None shows nothing.

    Returns:
        A report.

    Raises:
        UsageError: no such model, options that do not fit it, or a plan in the way that is not of this toolkit.
        SourceError: not a model of algm-export.
        MissingDependencyError: TensorRT, the GPU or the plugin library is missing.
        PrecisionError, VerificationError: float16 does not suit the model.
        BuildError: TensorRT cannot build it, or the folder cannot be written.
    """
    begin = time.monotonic()
    options = options or BuildOptions()
    source = read_model(Path(model))
    precision = options.precision or source.card.precision
    if precision == "fp32" and source.card.precision == "fp16":
        raise UsageError(f"{source.path} is a float16 export: for --fp32, export with --precision fp32")
    if source.card.precision == "int8":
        raise UsageError(f"{source.path} is an int8 export, which is for CPUs: build from one with --precision fp32")
    target = Path(plan) if plan else source.path.with_suffix(".plan")
    _check_places(source.path, target, options)
    tensorrt = load_builder(options.target)
    gpu = current_gpu() if options.target == "tensorrt" else None
    machine = _Machine(tensorrt, gpu, find_library() if options.plugins else None)
    job = _Job(source, target, precision, options, machine, progress or BuildProgress(visible=False))
    record = _planned_record(job)
    standing = _standing_record(target, options)
    wants_more = options.force or options.save_onnx or options.dump_layers is not None
    if standing is not None and not wants_more and standing.same_build(record):
        return BuildReport(target, standing, True, None, (), (), time.monotonic() - begin)
    try:
        report = _build(job, record)
    finally:
        job.progress.close()
    return dataclasses.replace(report, seconds=time.monotonic() - begin)


def _build(job: _Job, record: EngineRecord) -> BuildReport:
    """Convert, parse, build, write."""
    options, machine = job.options, job.machine
    proto, agreement = _in_precision(job)
    graph = without_functions(proto) if machine.library else with_functions_inlined(proto)
    give_threshold_a_dimension(graph)
    with stops_deferred():
        session = open_session(machine.tensorrt, machine.library)
        network = parse(session, graph.SerializeToString(), len(plugin_nodes(proto)))
        layers = describe_layers(network) if options.dump_layers else []
        config = configure(session, job.source.card, options)
    cache = None
    if machine.gpu is not None:
        cache = TimingCache(options.timing_cache or default_timing_cache(machine.tensorrt, machine.gpu), config)
    plan = build_plan(session, network, config, job.progress)
    if cache is not None:
        cache.save()
    content = memoryview(plan)
    record = dataclasses.replace(
        record,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        plan_sha256=hashlib.sha256(content).hexdigest(),
        plan_bytes=content.nbytes,
        refinements=agreement.refinements if agreement is not None else (),
    )
    extras: dict[Path, bytes] = {}
    notes = [cache.note] if cache is not None and cache.note else []
    if options.save_onnx and proto is not job.source.proto:
        extras[_half_path(job.target)] = proto.SerializeToString()
    elif options.save_onnx:
        notes.append(f"--save-onnx wrote nothing: {job.source.path} was built as it is")
    if job.target.suffix.lower() != ".plan":
        notes.append("algm-infer knows a plan by a name that ends in .plan: rename both files to use it there")
    if options.dump_layers is not None:
        extras[options.dump_layers] = _dump(job, session, plan, layers).encode()
    _write_together(job.target, content, record, extras)
    return BuildReport(job.target, record, False, agreement, tuple(extras), tuple(notes), 0.0)


def _check_places(model: Path, plan: Path, options: BuildOptions) -> None:
    """Refuse to write over what is read, and try to write now instead of after minutes of building.

    Raises:
        UsageError: two files would have one name, or a folder has it.
        BuildError: a folder cannot be written.
    """
    written = [plan, record_path(plan)]
    if options.save_onnx:
        written.append(_half_path(plan))
    if options.dump_layers is not None:
        written.append(options.dump_layers)
    changed = [options.timing_cache] if options.timing_cache is not None else []
    places = [path.resolve() for path in (model, *written, *changed)]
    for path in places:
        if places.count(path) > 1:
            raise UsageError(f"{path} would be written over: give -o, --dump-layers and --timing-cache other names")
    for path in written:
        try:
            check_writable(path)
        except IsADirectoryError as error:
            raise UsageError(f"{error}: give the name of a file") from error
        except OSError as error:
            raise BuildError(f"{error}; name another place") from error


def _half_path(plan: Path) -> Path:
    """Where `--save-onnx` keeps the float16 graph."""
    return plan.with_suffix(".fp16.onnx")


def _planned_record(job: _Job) -> EngineRecord:
    """The record that this build will have, but for the plan itself."""
    source, options, machine = job.source, job.options, job.machine
    plugins = None
    if machine.library is not None:
        digest = hashlib.sha256(machine.library.read_bytes()).hexdigest()
        layers = len(plugin_nodes(source.proto))
        plugins = PluginRecord(PLUGIN_VERSION, INTERFACE_VERSION, digest, options.embed_plugins, layers)
    capabilities = (
        (machine.gpu.compute_capability,)
        if machine.gpu is not None
        else tuple(f"{number // 10}.{number % 10}" for number in options.capabilities)
    )
    return EngineRecord(
        card=dataclasses.replace(source.card, precision=job.precision),
        flavour=machine.tensorrt.target,
        tensorrt_version=machine.tensorrt.version,
        gpu=machine.gpu.name if machine.gpu is not None else "",
        compute_capabilities=capabilities,
        plugins=plugins,
        profiles=tuple((batch.minimum, batch.usual, batch.maximum) for batch in options.batches),
        options={
            "precision": job.precision,
            "optimization_level": options.optimization_level,
            "workspace_mib": options.workspace_mib,
            "hardware_compatibility": options.hardware_compatibility,
            "version_compatible": options.version_compatible,
            "verified_on": _verified_on(job),
        },
        onnx_sha256=source.sha256,
        tool_version=version("algm-trt"),
        processor=platform.machine(),
    )


def _verified_on(job: _Job) -> str | None:
    """The pictures that a float16 graph is fitted on, which decide how much of it stays float32."""
    if job.precision == job.source.card.precision or not job.options.verify:
        return None
    return str(job.options.verify_images or "drawn pictures")


def _standing_record(plan: Path, options: BuildOptions) -> EngineRecord | None:
    """The record of a plan that is already there and whole, or None.

    A plan of ours is made from its model at any time, so one that is out of date may be replaced; another file may not.

    Raises:
        UsageError: there is a file that no record of ours belongs to.
    """
    if not plan.exists():
        return None
    try:
        record = read_record(plan)
    except EngineRecordError as error:
        if options.force and plan.is_file():
            return None
        raise UsageError(
            f"{plan} is there already and has no engine record of this version: --force overwrites it"
        ) from error
    content = plan.read_bytes()
    whole = len(content) == record.plan_bytes and hashlib.sha256(content).hexdigest() == record.plan_sha256
    return record if whole else None


def _in_precision(job: _Job) -> tuple[onnx.ModelProto, Agreement | None]:
    """The graph to build, compared with the export if it is another one."""
    source, options, progress = job.source, job.options, job.progress
    if job.precision == source.card.precision:
        return source.proto, None
    if not options.verify:
        return to_float16(source.proto), None
    pictures = check_pictures(options.verify_images, source.card)
    progress.start("Comparing float16 with float32", None, 1)
    half, agreement = fit_float16(source.proto, source.card, pictures)
    progress.finish("Comparing float16 with float32")
    if not agreement.passed:
        raise VerificationError(
            f"float16 changes the model too much: {agreement.labels_equal:.2%} of labels equal (at least "
            f"{LABELS_GATE:.1%}), token counts differ by {agreement.tokens_difference:.2%} (at most {TOKENS_GATE:.0%}) "
            f"on {len(pictures)} picture{'s' * (len(pictures) != 1)}; {_cure(options.verify_images, len(pictures))}"
        )
    return half, agreement


def _cure(folder: Path | None, pictures: int) -> str:
    """What to do where float16 changes the results on so many pictures of a folder, or on drawn ones."""
    if folder is None:
        return "build with --fp32, or judge on your own pictures with --verify-images DIR"
    if pictures < MOST_PICTURES:
        more = f"put more pictures into the folder of --verify-images, of which it takes {MOST_PICTURES}"
        return f"build with --fp32, or {more}: on few, one near tie decides"
    return "build with --fp32"


def _dump(job: _Job, session: Session, plan: Any, layers: list[dict[str, Any]]) -> str:
    """JSON of the parsed layers and, where this machine can open the plan, of the engine's."""
    found: dict[str, Any] = {"network": layers}
    if job.machine.gpu is not None:
        library = None if job.options.embed_plugins else job.machine.library
        found["engine"] = json.loads(inspect_plan(session, plan, library))
    return json.dumps(found, indent=1) + "\n"


def _write_together(plan: Path, content: memoryview, record: EngineRecord, extras: dict[Path, bytes]) -> None:
    """The record first: whoever sees the plan finds what it is."""
    try:
        plan.parent.mkdir(parents=True, exist_ok=True)
        with locked(plan.parent), renamed_together() as temporary:
            temporary(record_path(plan), nameless=True).write_text(record.to_json(), encoding="utf-8")
            for path, text in extras.items():
                temporary(path, nameless=True).write_bytes(text)
            temporary(plan, nameless=True).write_bytes(content)
    except OSError as error:
        raise BuildError(f"cannot write {plan}: {error.strerror}; nothing of it was kept") from error
