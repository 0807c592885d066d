"""OpenVINO backend: runs `model.onnx` on a CPU, in float32 or, where the CPU has the instructions, in bfloat16."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.cache_folder import cache_folder
from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.backends import onnx_fields, onnx_scores, protobuf
from algm_trt.runtime.backends.forked import keep_in_children
from algm_trt.runtime.backends.onnx_model import SCORES, card_of
from algm_trt.runtime.backends.openvino import model as openvino_model
from algm_trt.runtime.backends.openvino import operators as openvino_operators
from algm_trt.runtime.backends.openvino.errors import telling_line
from algm_trt.runtime.backends.openvino.signal_stack import signal_stack_kept
from algm_trt.runtime.backends.streams import Streams, shared_threads
from algm_trt.runtime.card import METADATA_KEY, ModelCard
from algm_trt.runtime.engine import EngineError, EngineOutput, checked_images, checked_threshold, joined
from algm_trt.runtime.field import labels_of
from algm_trt.runtime.files import renamed_together

if TYPE_CHECKING:
    import openvino

PRECISIONS: Final = ("fp32", "bf16")
OLDEST_VERSION: Final = (2026, 0)
_HEAD: Final = struct.Struct("<QQI")
"""Of a compiled model in the cache: bytes of the card and of what follows it, and the checksum of both.

OpenVINO checks little: a file with a damaged byte opened well and gave other scores.
"""
CACHED_MODELS: Final = 4
"""Compiled models that are kept: 50 to 110 MB each for a ViT-S."""
KEPT_KERNELS: Final = 256
"""Kernels that OpenVINO keeps per kind of operator; each is for one number of rows, see `operators`."""

# Of this process, see `_first_run_alone`.
_FIRST_RUN: Final = threading.Lock()
_HAS_RUN: Final = threading.Event()


class OpenVinoEngine:
    """A model compiled by OpenVINO; any number of threads may call it, their pictures take turns in its streams.

    The pictures of a batch run singly, one in each stream: a picture's result cannot depend on its batch. Labels are
    made of the scores when they are asked for, see `onnx_scores`. Compiled models are kept in the user's cache, the
    last few of them. A process that is forked while no call runs can use its parent's engine if it has a single stream;
    with several it is refused there, since their threads stay behind.

    Attributes:
        card: what the model expects and means.
        description: backend, device and precision, for people.
        lanes: calls of `run` that gain by being made at the same time: the streams.
    """

    @signal_stack_kept()
    def __init__(
        self, path: Path, *, precision: str = "fp32", threads: int | None = None, streams: int | None = 1
    ) -> None:
        """Open a model.

        Args:
            path: ONNX file of algm-export.
            precision: "fp32" or "bf16".
            threads: of all streams; None lets OpenVINO choose, or takes one per core for several streams.
            streams: pictures that run side by side; None takes as many as suit the processor, see `shared_threads`.

        Raises:
            MissingDependencyError: OpenVINO is not installed, or has no bfloat16 arithmetic for the CPU.
            EngineError: not a model that OpenVINO can open.
            ModelCardError: a model of somebody else.
            UsageError: an unknown precision, or an int8 model.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"unknown CPU precision '{precision}': expected {', '.join(PRECISIONS)}")
        openvino = _import_openvino()
        version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        if precision == "bf16":
            _check_bf16(core)
        count, threads = shared_threads(streams, threads)
        options = _compile_options(count, threads)
        cached = _cache_file(core, path, openvino.__version__, precision, options)
        compiled, self.card = _load(core, cached, options) or _compile(core, path, precision, options, cached)
        requests = [compiled.create_infer_request() for _ in range(count)]
        for request in requests:
            keep_in_children(request)
        self._streams = Streams(requests)
        self._process = os.getpid()
        self.lanes = count
        self.description = f"OpenVINO {version} on CPU, {precision}"

    def run(self, images: NDArray[np.uint8], threshold: float | None = None, *, logits: bool = True) -> EngineOutput:
        """Segment pictures of the model's input size; see `algm_trt.runtime.engine.Engine.run`. Logits always come."""
        if self.lanes > 1 and os.getpid() != self._process:
            raise EngineError(
                "OpenVINO's streams do not go on in a forked process: open the model there, or with streams=1"
            )
        images = checked_images(images, self.card)
        limit = np.array(checked_threshold(threshold, self.card), np.float32)

        def part(request: openvino.InferRequest, index: int) -> list[NDArray[Any]]:
            return self._run(request, images[index : index + 1], limit)

        parts = self._streams.map(part, len(images))
        scores, counts, token_map = joined(parts)
        return EngineOutput(scores, partial(labels_of, scores, self.card), counts, token_map)

    def close(self) -> None:
        """Free the compiled model."""
        self._streams.close()

    def _run(
        self, request: openvino.InferRequest, image: NDArray[np.uint8], threshold: NDArray[np.float32]
    ) -> list[NDArray[Any]]:
        feed: dict[str, NDArray[Any]] = {"images": image}
        if self.card.merge is not None:
            feed["threshold"] = threshold
        try:
            with _first_run_alone():
                outputs = request.infer(feed)
                return [outputs[name] for name in SCORES]
        except Exception as error:  # OpenVINO raises classes of its own that share no base but Exception
            raise EngineError(f"OpenVINO failed on a picture: {telling_line(error)}") from error


@contextlib.contextmanager
def _first_run_alone() -> Iterator[None]:
    """Let the first run of the process come to its end before others begin.

    OpenVINO's Python binding sets up its access to NumPy in it, and waits forever when two threads do that at once.
    """
    if _HAS_RUN.is_set():
        yield
        return
    with _FIRST_RUN:
        yield
        _HAS_RUN.set()


def _import_openvino() -> ModuleType:
    """The module, if it is new enough.

    Raises:
        MissingDependencyError: it cannot be imported, or is too old.
    """
    try:
        import openvino
    except (ImportError, RuntimeError) as error:  # the latter where there is no home folder
        raise MissingDependencyError(
            f"openvino cannot be imported ({error}): pip install 'algm-trt[openvino]'"
        ) from error
    version = openvino.__version__.split("-")[0]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        raise MissingDependencyError(
            f"OpenVINO {version} cannot convert the model's operators: pip install -U 'algm-trt[openvino]'"
        )
    module: ModuleType = openvino
    return module


def _compile_options(streams: int, threads: int | None) -> dict[str, object]:
    """For so many streams with so many threads each; None leaves the threads to OpenVINO."""
    options: dict[str, object] = {
        # The types in the model are those to compute in.
        "INFERENCE_PRECISION_HINT": "dynamic",
        "NUM_STREAMS": streams,
        # Kernels are kept per shape: with the default, megabytes for every number of tokens.
        "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
        # Pinned threads of two processes would share cores while others idle.
        "ENABLE_CPU_PINNING": False,
    }
    return options | {"INFERENCE_NUM_THREADS": streams * threads} if threads else options


def _check_bf16(core: openvino.Core) -> None:
    """Check that OpenVINO itself would choose bfloat16: with less it would only imitate it, slower than float32.

    On Arm it would choose float16, also where the processor has bfloat16.

    Raises:
        MissingDependencyError: it would not.
    """
    if core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name() != "bf16":
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        raise MissingDependencyError(
            f"OpenVINO has no bfloat16 arithmetic for this CPU ({name}), only with AVX-512 BF16 or AMX: take "
            "--cpu-precision fp32"
        )


def _compile(
    core: openvino.Core, path: Path, precision: str, options: Mapping[str, object], cached: Path
) -> tuple[openvino.CompiledModel, ModelCard]:
    """Compile a model and keep the result; a cache that cannot be written is no error."""
    model = openvino_model.read_model(path, bf16=precision == "bf16")
    card = _card(model, path)
    if card.precision == "int8":
        raise UsageError(f"{path}: an int8 model is for ONNX Runtime: take that backend, or the fp32 export")
    try:
        compiled = core.compile_model(model, "CPU", {**options, **openvino_model.options_for(model)})
    except Exception as error:  # see OpenVinoEngine._run
        raise EngineError(f"{path}: OpenVINO cannot compile the model ({telling_line(error)})") from error
    with contextlib.suppress(OSError):
        _store(compiled, card, cached)
    return compiled, card


def _card(model: openvino.Model, path: Path) -> ModelCard:
    entries = model.get_rt_info("framework").value if model.has_rt_info("framework") else {}
    outputs = {name for output in model.outputs for name in output.names}
    return card_of(path, entries.get(METADATA_KEY), outputs, SCORES)


def _cache_file(core: openvino.Core, path: Path, version: str, precision: str, options: Mapping[str, object]) -> Path:
    """Where the compiled model is kept: one file for all that it depends on, our own conversion included.

    Raises:
        EngineError: the model cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    cpu = [str(core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    digest.update(repr((version, cpu, precision, sorted(options.items()))).encode())
    for module in (protobuf, onnx_fields, onnx_scores, openvino_model, openvino_operators):
        digest.update(_code_of(module))
    return cache_folder() / "openvino" / f"{digest.hexdigest()[:32]}.blob"


def _code_of(module: ModuleType) -> bytes:
    """The source of a module, or its compiled code where an installation has no sources."""
    try:
        return inspect.getsource(module).encode()
    except OSError:
        return Path(str(module.__file__)).read_bytes()


def _load(
    core: openvino.Core, cached: Path, options: Mapping[str, object]
) -> tuple[openvino.CompiledModel, ModelCard] | None:
    """A compiled model of the cache with its card; None if it is not there or damaged."""
    try:
        with cached.open("rb") as file:
            card_bytes, blob_bytes, checksum = _HEAD.unpack(file.read(_HEAD.size))
            if cached.stat().st_size != _HEAD.size + card_bytes + blob_bytes:
                return None
            card, blob = file.read(card_bytes), file.read()
    except (OSError, struct.error):
        return None
    if zlib.crc32(blob, zlib.crc32(card)) != checksum:
        return None
    with contextlib.suppress(OSError):  # another user's, or a disk that is only read
        cached.touch()
    try:
        return core.import_model(io.BytesIO(blob), "CPU", dict(options)), ModelCard.from_json(card.decode())
    except Exception:  # whatever is wrong with the file, the model itself is at hand
        return None


def _store(compiled: openvino.CompiledModel, card: ModelCard, cached: Path) -> None:
    """Keep a compiled model behind its card, and only the last few of all.

    Raises:
        OSError: the cache cannot be written.
    """
    cached.parent.mkdir(parents=True, exist_ok=True)
    text = card.to_json().encode()
    blob = io.BytesIO()
    compiled.export_model(blob)
    with renamed_together() as temporary, temporary(cached, nameless=True).open("wb") as file:
        content = blob.getbuffer()
        file.write(_HEAD.pack(len(text), len(content), zlib.crc32(content, zlib.crc32(text))))
        file.write(text)
        file.write(content)
    by_age = sorted(cached.parent.glob("*.blob"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in by_age[CACHED_MODELS:]:
        old.unlink(missing_ok=True)
