"""From ONNX to TensorRT's network and on to a plan: parser, profiles, builder configuration, the build itself.

The same calls serve TensorRT 10.9 to 11 and TensorRT-RTX; `tests/helpers/tensorrt_api.py` lists every name that is used
and a test holds the list against NVIDIA's modules. TensorRT-RTX is run by the tests; full TensorRT was not run by us.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from algm_trt.engines.options import BuildOptions
from algm_trt.engines.progress import BuildProgress, monitor_for
from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.library import last_error, load_library
from algm_trt.plugins.stopping import stops_deferred
from algm_trt.runtime.backends.tensorrt.bindings import TensorRT
from algm_trt.runtime.backends.tensorrt.log import Messages, logger_for, made, tidy
from algm_trt.runtime.card import ModelCard

_MIB: Final = 2**20
_LOOK_UP_SECONDS: Final = 0.1


class BuildError(AlgmError):
    """TensorRT cannot parse or build the model."""


@dataclass
class Session:
    """A builder with what must live as long as it does.

    Attributes:
        tensorrt: the module.
        messages: what TensorRT said so far.
        logger: fills them.
        builder: the builder.
        library: plugin library that its registry has, or None.
        parser: of the network that was parsed last; it owns the weights.
    """

    tensorrt: TensorRT
    messages: Messages
    logger: Any
    builder: Any
    library: Path | None
    parser: Any = None


def open_session(tensorrt: TensorRT, library: Path | None) -> Session:
    """A builder, with the plugin library if one is given.

    Raises:
        PluginLibraryError: TensorRT does not take the library.
        BuildError: TensorRT cannot make a builder.
    """
    trt, messages = tensorrt.module, Messages()
    logger = logger_for(trt, messages)
    if library is None and tensorrt.target == "tensorrt":
        # ScatterElements, which the function bodies use, is a plugin of TensorRT's own in 10.x.
        trt.init_libnvinfer_plugins(logger, "")
    try:
        builder = made(trt.Builder, logger, messages)
    except RuntimeError as error:
        raise BuildError(f"TensorRT cannot make a builder: {error}") from error
    if library is not None:
        load_library(builder.get_plugin_registry(), library)
    return Session(tensorrt, messages, logger, builder, library)


def parse(session: Session, model: bytes, plugin_nodes: int) -> Any:
    """The network of a model.

    Args:
        session: keeps the parser alive.
        model: serialised ONNX with its weights.
        plugin_nodes: number of nodes that plugins must have taken.

    Raises:
        BuildError: the parser fails, ignores an input of a node, or took another number of plugins.
    """
    trt, messages = session.tensorrt.module, session.messages
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = session.builder.create_network(0 if flag is None else 1 << int(flag))
    session.parser = trt.OnnxParser(network, session.logger)
    if not session.parser.parse(model):
        raise BuildError(_parser_failure(session))
    if messages.unused_inputs:
        raise BuildError(f"TensorRT ignores an input, the engine would be wrong: {messages.unused_inputs[0]}")
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    plugins = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)
    if session.library is not None and plugins != plugin_nodes:
        raise BuildError(
            f"TensorRT made {plugins} plugin layers of {plugin_nodes} nodes of ALGM: it did not use the library "
            f"{session.library}"
        )
    return network


def _parser_failure(session: Session) -> str:
    """The parser's first error with its node, and what a plugin said about it."""
    parser = session.parser
    said = f" ({last_error(session.library)})" if session.library and last_error(session.library) else ""
    if not parser.num_errors:
        return f"TensorRT cannot parse the model: {session.messages.summary()}{said}"
    complaint = parser.get_error(0)
    where = f"node '{complaint.node_name()}' ({complaint.node_operator()})"
    return f"TensorRT's parser stopped at {where}: {tidy(complaint.desc())}{said}"


def configure(session: Session, card: ModelCard, options: BuildOptions) -> Any:
    """The builder's configuration, with one profile per batch range.

    Raises:
        BuildError: TensorRT refuses a profile or a setting.
    """
    trt = session.tensorrt.module
    config = session.builder.create_builder_config()
    for batch in options.batches:
        profile = session.builder.create_optimization_profile()
        shapes = [(size, *card.size, 3) for size in (batch.minimum, batch.usual, batch.maximum)]
        profile.set_shape("images", *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refuses a profile for {batch}: {session.messages.summary()}")
    # TensorFloat-32 is on by default and has float16's digits: it would undo the islands and float32 engines alike.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = options.optimization_level
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if session.library is not None and options.embed_plugins:
        config.plugins_to_serialize = [str(session.library)]
    if options.dump_layers is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.target == "rtx":
        config.num_compute_capabilities = len(options.capabilities)
        for index, capability in enumerate(options.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
    else:
        _configure_enterprise(trt, config, options)
    return config


def _configure_enterprise(trt: Any, config: Any, options: BuildOptions) -> None:
    """What only full TensorRT has. Not run by us."""
    level = options.hardware_compatibility.upper().replace("-", "_")
    if level != "NONE":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def build_plan(session: Session, network: Any, config: Any, progress: BuildProgress) -> Any:
    """Build; returns the plan as TensorRT's host memory.

    The build runs in a thread of its own: Ctrl-C then reaches this one, which asks the builder to stop and waits for
    it. An exception inside TensorRT's callback would end the process instead.

    Raises:
        BuildError: TensorRT fails.
        KeyboardInterrupt: the build was interrupted; it has ended.
    """
    monitor = monitor_for(session.tensorrt.module, progress)
    config.progress_monitor = monitor
    result: list[Any] = []
    # Not Thread.join: interrupted, Python 3.11's takes the thread for ended (bpo-45274), and the process would end
    # under a running builder.
    ended = threading.Event()

    def work() -> None:
        try:
            result.append(session.builder.build_serialized_network(network, config))
        except (RuntimeError, TypeError, MemoryError) as error:
            session.messages.errors.append(tidy(str(error)) or type(error).__name__)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="algm-build")
    try:
        # Ctrl-C within `start` would leave a builder behind that nobody waits for.
        with stops_deferred():
            thread.start()
        # The system may hand the signal to another thread, which does not wake this one.
        while not ended.wait(_LOOK_UP_SECONDS):
            pass
    except KeyboardInterrupt:
        progress.cancelled.set()
        ended.wait()
        raise
    plan = result[0] if result else None
    if plan is None:
        raise BuildError(f"TensorRT cannot build the engine: {session.messages.summary() or 'it does not say why'}")
    return plan


def describe_layers(network: Any) -> list[dict[str, Any]]:
    """Layers of a parsed network in order: name, type, and name, type and extents of each tensor (-1: not fixed)."""

    def tensors(count: int, get: Any) -> list[dict[str, Any]]:
        found = [tensor for tensor in map(get, range(count)) if tensor is not None]
        return [{"name": tensor.name, "dtype": tensor.dtype.name, "shape": _extents(tensor)} for tensor in found]

    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [
        {
            "name": layer.name,
            "type": layer.type.name,
            "inputs": tensors(layer.num_inputs, layer.get_input),
            "outputs": tensors(layer.num_outputs, layer.get_output),
        }
        for layer in layers
    ]


def _extents(tensor: Any) -> list[int] | None:
    try:
        return list(tensor.shape)
    except ValueError:  # a rank that is not known
        return None


def inspect_plan(session: Session, plan: Any, library: Path | None) -> str:
    """What TensorRT's inspector says of a plan, JSON text. Needs the GPU that the plan is for; not run by us.

    Args:
        session: that built the plan.
        plan: the plan.
        library: plugin library to load first, or None if the plan has it.

    Raises:
        BuildError: the plan cannot be opened.
    """
    trt = session.tensorrt.module
    runtime = trt.Runtime(session.logger)
    runtime.engine_host_code_allowed = True
    if library is not None:
        load_library(runtime.get_plugin_registry(), library)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(f"TensorRT cannot open the plan that it built: {session.messages.summary()}")
    inspector = engine.create_engine_inspector()
    text: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return text
