"""The engine record, `MODEL.plan.json`: what a plan was built from, with and for, so that a misfit is refused by name.

Standard library only, apart from the model card.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.json_text import json_object

FORMAT_VERSION: Final = 1


class EngineRecordError(AlgmError):
    """An engine record that is missing, of another format version, or inconsistent."""


@dataclass(frozen=True)
class PluginRecord:
    """The plugin library of a plan.

    Attributes:
        version: of the plugins, by which TensorRT finds them.
        interface: version of the library's C interface.
        sha256: of the library file.
        embedded: whether the plan carries the library.
        layers: number of plugin layers.
    """

    version: str
    interface: int
    sha256: str
    embedded: bool
    layers: int


@dataclass(frozen=True)
class EngineRecord:
    """What a plan is.

    Attributes:
        card: the model card, with the precision of the plan.
        flavour: "tensorrt" or "rtx" (TensorRT-RTX).
        tensorrt_version: that built it.
        gpu: name of the GPU that it was built on; "" for rtx, which needs none.
        compute_capabilities: that it was built for, such as "8.9".
        plugins: the plugin library, or None if the plan has no plugin.
        profiles: (smallest, usual, largest) batch of each optimisation profile.
        options: build options by name.
        onnx_sha256: of the ONNX file that it was built from.
        tool_version: of algm-trt.
        date: of the build, UTC, ISO 8601.
        plan_sha256: of the plan.
        plan_bytes: its size.
        refinements: parts of a float16 model that were kept in float32 beyond the usual ones.
        processor: architecture of the machine that built it, such as "x86_64"; "" in records that do not say.
        format_version: of this record.
    """

    card: ModelCard
    flavour: str
    tensorrt_version: str
    gpu: str
    compute_capabilities: tuple[str, ...]
    plugins: PluginRecord | None
    profiles: tuple[tuple[int, int, int], ...]
    options: dict[str, Any]
    onnx_sha256: str
    tool_version: str
    date: str = ""
    plan_sha256: str = ""
    plan_bytes: int = 0
    refinements: tuple[str, ...] = ()
    processor: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise EngineRecordError(
                f"the engine record has format {self.format_version}, this version reads {FORMAT_VERSION}: "
                "build the engine again with this version of algm-trt"
            )

    def same_build(self, other: EngineRecord) -> bool:
        """Whether another record describes the same build, whenever it was made."""
        mine, theirs = (
            dataclasses.replace(record, date="", plan_sha256="", plan_bytes=0, refinements=())
            for record in (self, other)
        )
        return mine == theirs

    def build_command(self, compute_capability: str = "") -> str:
        """The command line that builds such a plan, for messages.

        Args:
            compute_capability: of the GPU that it is to run on, such as "8.9"; "": those of this plan.
        """
        words = ["algm-build-engine MODEL.onnx", f"--{self.card.precision}"]
        if self.flavour == "rtx":
            capabilities = (compute_capability,) if compute_capability else self.compute_capabilities
            words.append(f"--target rtx --sm {','.join(capabilities).replace('.', '')}")
        if self.plugins is None:
            words.append("--no-plugins")
        elif not self.plugins.embedded:
            words.append("--no-embed-plugins")
        if len(self.profiles) == 1:
            words.append("--batch {} {} {}".format(*self.profiles[0]))
        elif self.profiles:
            words.append(f"--profiles {','.join(str(largest) for _, _, largest in self.profiles)}")
        for option, unless in (("workspace_mib", None), ("optimization_level", 3), ("hardware_compatibility", "none")):
            value = self.options.get(option, unless)
            if value != unless:
                words.append(f"--{option.removesuffix('_mib').replace('_', '-')} {value}")
        if self.options.get("version_compatible"):
            words.append("--version-compatible")
        return " ".join(words)

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Read a record from JSON text.

        Raises:
            EngineRecordError: not a record, or one of another format version.
        """
        try:
            return json_object(cls, text)
        except ValueError as error:
            raise EngineRecordError(f"the engine record cannot be read ({error}): build the engine again") from error


def record_path(plan: Path) -> Path:
    """Where the record of a plan lies."""
    return plan.with_name(f"{plan.name}.json")


def read_record(plan: Path) -> EngineRecord:
    """The record of a plan.

    Raises:
        EngineRecordError: it is missing or cannot be read.
    """
    path = record_path(plan)
    try:
        return EngineRecord.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EngineRecordError(f"{path} is missing or unreadable: build the engine again, or copy it along") from error
    except EngineRecordError as error:
        raise EngineRecordError(f"{path}: {error}") from error
