"""No name of TensorRT is misspelt: what builder and runtime use exists in every version, and the table has it all."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers.tensorrt_api import BOTH, INSPECTOR, REGISTRY, RTX, RUNTIME, TENSORRT, Names

from algm_trt.engines import network
from algm_trt.engines.bindings import load_builder
from algm_trt.runtime.backends.tensorrt import log as tensorrt_log

RECORDED: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
FULL = [name for name in RECORDED if name.startswith("full")]
LEAN = [name for name in RECORDED if name.startswith("lean")]

# What the variables of the builder hold, by the last part of their name.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "complaint": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "mine": "ITimingCache",
    "severity": "ILogger.Severity",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
}
# The same for the self-test.
REGISTRY_CLASSES = {"registry": "IPluginRegistry", "creator": "IPluginCreatorV3One"}
# The same for the runtime, where a profile is one of our own.
RUNTIME_CLASSES = {
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "severity": "ILogger.Severity",
}
ENGINES, BACKEND = (Path(file).parent for file in (network.__file__, tensorrt_log.__file__))
RUNTIME_PACKAGE = BACKEND.parents[1]
CALLING = {
    **{ENGINES / name: CLASSES for name in ("network.py", "progress.py", "timing_cache.py")},
    ENGINES / "doctor" / "rungs.py": REGISTRY_CLASSES,
    **{BACKEND / f"{name}.py": RUNTIME_CLASSES for name in ("allocator", "lane", "log", "plan")},
}


def missing(table: Names, found: dict[str, list[str]]) -> list[str]:
    return [
        f"{holder}.{name}" for holder, names in table.items() for name in names if name not in found.get(holder, [])
    ]


@pytest.mark.parametrize("version", FULL)
@pytest.mark.parametrize("table", [BOTH, TENSORRT, RUNTIME, INSPECTOR, REGISTRY])
def test_names_exist_in_tensorrt(table: Names, version: str) -> None:
    assert missing(table, RECORDED[version]) == []


@pytest.mark.parametrize("version", LEAN)
def test_runtime_names_exist_in_the_lean_runtime(version: str) -> None:
    assert missing(RUNTIME, RECORDED[version]) + missing(REGISTRY, RECORDED[version]) == []


def test_both_majors_and_the_oldest_version_are_recorded() -> None:
    assert [name.split()[1].rsplit(".", 2)[0] for name in FULL] == ["10.16", "10.9", "11.4"]


@pytest.mark.rtx
@pytest.mark.parametrize("table", [BOTH, RUNTIME, INSPECTOR, REGISTRY, RTX])
def test_names_exist_in_tensorrt_rtx(table: Names) -> None:
    module = load_builder("rtx").module

    def holder(name: str) -> object:
        found: object = module
        for part in filter(None, name.split(".")):
            found = getattr(found, part)
        return found

    assert missing(table, {name: dir(holder(name)) for name in table}) == []


def used(file: Path, classes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(class, member) of every attribute in a file whose holder is known by its name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute) or node.attr == "__version__":
            continue
        chain = ast.unparse(node.value).removeprefix("self.").removeprefix("session.").removeprefix("_")
        if chain == "trt":
            yield "", node.attr
        elif chain.startswith("trt."):
            yield chain.removeprefix("trt."), node.attr
        elif chain in classes:
            yield classes[chain], node.attr


def test_the_table_holds_every_name_that_is_used() -> None:
    tables = (BOTH, TENSORRT, RUNTIME, INSPECTOR, REGISTRY, RTX)
    known = {(holder, name) for table in tables for holder, names in table.items() for name in names}
    # A class is known by its members; these are names of variables of ours.
    known |= {("", holder.split(".")[0]) for table in tables for holder in table}
    found = {(file.name, *pair) for file, classes in CALLING.items() for pair in used(file, classes)}
    assert len(found) > 65
    assert sorted(item for item in found if item[1:] not in known) == []


def test_tensorrt_is_called_from_the_files_that_are_read() -> None:
    files = [file for folder in (ENGINES, RUNTIME_PACKAGE) for file in folder.rglob("*.py")]
    trees = {file: ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    calling = {file for file, nodes in trees.items() if any(isinstance(n, ast.Name) and n.id == "trt" for n in nodes)}
    assert calling <= set(CALLING)
