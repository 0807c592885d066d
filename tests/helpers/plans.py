"""Plans that no TensorRT made, with the records that a builder would leave beside them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from algm_trt.plugins.library import INTERFACE_VERSION
from algm_trt.plugins.spec import PLUGIN_VERSION
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine_record import EngineRecord, PluginRecord, record_path

VERSION = "10.16.1.11"
PROFILES = ((1, 1, 1), (2, 4, 4))


def make_record(card: ModelCard, **changes: Any) -> EngineRecord:
    """The record of a plan, fit for the stand-ins of `helpers.host_tensorrt` unless changed."""
    record = EngineRecord(
        card=card,
        flavour="tensorrt",
        tensorrt_version=VERSION,
        gpu="Host device",
        compute_capabilities=("8.9",),
        plugins=PluginRecord(PLUGIN_VERSION, INTERFACE_VERSION, "0" * 64, True, 5),
        profiles=PROFILES,
        options={"hardware_compatibility": "none", "version_compatible": False},
        onnx_sha256="0" * 64,
        tool_version="0",
    )
    return replace(record, **changes)


def write_plan(folder: Path, record: EngineRecord, content: bytes = b"plan of a test") -> Path:
    """A plan with its record in a folder; checksum and size are the content's where the record tells no other."""
    path = folder / "model.plan"
    path.write_bytes(content)
    digest, size = record.plan_sha256 or hashlib.sha256(content).hexdigest(), record.plan_bytes or len(content)
    whole = replace(record, plan_sha256=digest, plan_bytes=size)
    record_path(path).write_text(whole.to_json())
    return path
