"""Building for real with TensorRT-RTX: plans, records, layers, what is up to date, what stops a build."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers.engines import model_that_float16_ruins, tiny_model
from helpers.models import LINEAR, TWO, VIT_SMALL

from algm_trt.engines import BatchRange, BuildOptions, build_engine
from algm_trt.engines.bindings import load_builder
from algm_trt.engines.network import BuildError, build_plan, configure, open_session, parse
from algm_trt.engines.progress import BuildProgress
from algm_trt.engines.source import read_model, with_functions_inlined, without_functions
from algm_trt.plugins.errors import UsageError, VerificationError
from algm_trt.runtime.engine_record import read_record

pytestmark = pytest.mark.rtx

PLUGIN_LAYERS = 3 + 2 + 2
"""Of the tiny model: attention of blocks 2 to 4, which is packed, two merges, unmerge, labels."""


def options(**changes: Any) -> BuildOptions:
    """For one RTX GPU, without the comparison, which has tests of its own."""
    given = {"target": "rtx", "compute_capabilities": (89,), "verify": False, "batches": (BatchRange(1, 2, 3),)}
    return BuildOptions(**{**given, **changes})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_plan_and_record_with_plugins(model: Path, plugin_library: Path, precision: str) -> None:
    report = build_engine(model, options=options(precision=precision, verify=True))
    assert report.path == model.with_suffix(".plan")
    assert files(model.parent) == ["model.onnx", "model.plan", "model.plan.json"]
    record = read_record(report.path)
    assert record == report.record
    content = report.path.read_bytes()
    assert (record.plan_bytes, record.plan_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert record.onnx_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record.card == dataclasses.replace(read_model(model).card, precision=precision)
    assert (record.flavour, record.gpu, record.compute_capabilities) == ("rtx", "", ("8.9",))
    assert (record.tensorrt_version, record.processor) == (load_builder("rtx").version, platform.machine())
    assert record.profiles == ((1, 2, 3),)
    assert record.plugins is not None
    assert (record.plugins.embedded, record.plugins.layers) == (True, PLUGIN_LAYERS)
    assert record.plugins.sha256 == hashlib.sha256(plugin_library.read_bytes()).hexdigest()
    assert record.date
    assert (report.agreement is not None) == (precision == "fp16")


def test_embedding_puts_the_library_into_the_plan(model: Path, plugin_library: Path) -> None:
    with_library = build_engine(model, options=options())
    without = build_engine(model, model.with_name("bare.plan"), options(embed_plugins=False))
    assert without.record.plugins is not None
    assert not without.record.plugins.embedded
    difference = with_library.record.plan_bytes - without.record.plan_bytes
    assert difference >= plugin_library.stat().st_size


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_without_plugins_the_function_bodies_build(
    model: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALGM_PLUGINS_LIB", "/nowhere")
    report = build_engine(model, options=options(precision=precision, plugins=False))
    assert report.record.plugins is None
    assert report.record.plan_bytes > 0


def test_two_profiles_and_all_capabilities(model: Path, plugin_library: Path) -> None:
    chosen = options(batches=BuildOptions().batches, compute_capabilities=(80, 86, 89, 120, 121))
    record = build_engine(model, options=chosen).record
    assert record.profiles == ((1, 1, 1), (2, 8, 8))
    assert record.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")


def test_mask_decoder_and_dense_models_build(tmp_path: Path, plugin_library: Path) -> None:
    onnx.save(tiny_model(), tmp_path / "mask.onnx")
    onnx.save(tiny_model(LINEAR, None), tmp_path / "dense.onnx")
    for name, layers in (("mask", 10), ("dense", 1)):
        record = build_engine(tmp_path / f"{name}.onnx", options=options(precision="fp16")).record
        assert record.plugins is not None
        assert record.plugins.layers == layers


@pytest.mark.heavy
def test_sample_builds(sample_model: Path, tmp_path: Path, plugin_library: Path) -> None:
    report = build_engine(sample_model, tmp_path / "sample.plan", BuildOptions(precision="fp16", target="rtx"))
    assert report.agreement is not None
    assert report.agreement.passed
    assert report.record.compute_capabilities == ("8.0", "8.6", "8.9", "12.0")


@pytest.mark.heavy
def test_vit_small_builds(tmp_path: Path, plugin_library: Path) -> None:
    onnx.save(tiny_model(VIT_SMALL, dataclasses.replace(TWO, layers=(1, 5)), (512, 512)), tmp_path / "model.onnx")
    record = build_engine(
        tmp_path / "model.onnx", options=options(precision="fp16", batches=(BatchRange(1, 8, 32),))
    ).record
    assert record.plugins is not None
    assert record.plugins.layers == 18
    assert record.plan_bytes > 40e6


def test_float16_export_builds_as_it_is(tmp_path: Path, plugin_library: Path) -> None:
    onnx.save(tiny_model(LINEAR, precision="fp16"), tmp_path / "model.onnx")
    report = build_engine(tmp_path / "model.onnx", options=options(save_onnx=True))
    assert report.record.card.precision == "fp16"
    assert report.agreement is None
    assert "--save-onnx wrote nothing" in report.notes[0]
    with pytest.raises(UsageError, match="export with --precision fp32"):
        build_engine(tmp_path / "model.onnx", options=options(precision="fp32"))


def test_float16_that_changes_labels_is_not_built(tmp_path: Path, plugin_library: Path) -> None:
    onnx.save(model_that_float16_ruins(), tmp_path / "model.onnx")
    with pytest.raises(VerificationError, match=r"of labels equal \(at least 99\.5%\)"):
        build_engine(tmp_path / "model.onnx", options=options(precision="fp16", verify=True))
    assert files(tmp_path) == ["model.onnx"]


def test_graph_and_layers_are_kept_when_asked(model: Path, plugin_library: Path, tmp_path: Path) -> None:
    dump = tmp_path / "new" / "layers.json"
    report = build_engine(model, options=options(precision="fp16", save_onnx=True, dump_layers=dump))
    assert report.saved == (model.with_name("model.fp16.onnx"), dump)
    assert read_model(report.saved[0]).card.precision == "fp16"
    layers = json.loads(dump.read_text())["network"]
    assert sum(layer["type"] == "PLUGIN_V3" for layer in layers) == report.record.plugins.layers  # type: ignore[union-attr]
    assert layers[0]["inputs"][0] == {"name": "images", "dtype": "UINT8", "shape": [-1, 128, 128, 3]}
    read = [tensor for layer in layers for tensor in layer["inputs"]]
    assert {"name": "threshold", "dtype": "FLOAT", "shape": [1]} in read


@pytest.mark.parametrize(("name", "notes"), [("model.plan", 0), ("other.PLAN", 0), ("model.engine", 1)])
def test_name_by_which_the_runtime_does_not_know_a_plan_is_noted(
    name: str, notes: int, model: Path, plugin_library: Path
) -> None:
    report = build_engine(model, model.with_name(name), options())
    assert ["ends in .plan" in note for note in report.notes] == [True] * notes


def test_equal_build_is_up_to_date(model: Path, plugin_library: Path) -> None:
    first = build_engine(model, options=options())
    again = build_engine(model, options=options())
    assert (first.up_to_date, again.up_to_date) == (False, True)
    assert again.record == first.record
    other = build_engine(model, options=options(optimization_level=2))
    assert not other.up_to_date
    assert not build_engine(model, options=options(optimization_level=2, force=True)).up_to_date


def test_damaged_plan_is_built_again(model: Path, plugin_library: Path) -> None:
    report = build_engine(model, options=options())
    report.path.write_bytes(report.path.read_bytes()[:-1])
    again = build_engine(model, options=options())
    assert not again.up_to_date
    assert len(report.path.read_bytes()) == again.record.plan_bytes


def test_file_of_somebody_else_is_not_overwritten(model: Path, plugin_library: Path) -> None:
    plan = model.with_suffix(".plan")
    plan.write_text("mine")
    with pytest.raises(UsageError, match="--force overwrites it"):
        build_engine(model, options=options())
    assert plan.read_text() == "mine"
    build_engine(model, options=options(force=True))
    assert plan.read_bytes()[:4] != b"mine"


@pytest.mark.parametrize("name", ["model.onnx", "model.plan"])
def test_outputs_must_differ(name: str, model: Path) -> None:
    before = model.read_bytes()
    chosen = options(force=True, dump_layers=model.with_name("model.plan"))
    with pytest.raises(UsageError, match="would be written over"):
        build_engine(model, model.with_name(name), chosen)
    assert model.read_bytes() == before
    assert files(model.parent) == ["model.onnx"]


@pytest.mark.parametrize(
    ("plan", "changes"),
    [
        ("model.plan", {"target": "tensorrt", "compute_capabilities": (), "timing_cache": "model.onnx"}),
        ("model.plan", {"target": "tensorrt", "compute_capabilities": (), "timing_cache": "model.plan"}),
        ("other.plan", {"save_onnx": True, "dump_layers": "other.fp16.onnx"}),
        ("other.plan", {"dump_layers": "other.plan.json"}),
    ],
)
def test_every_file_needs_a_name_of_its_own(plan: str, changes: dict[str, Any], model: Path) -> None:
    named = {
        name: model.with_name(value) if isinstance(value, str) and "." in value else value
        for name, value in changes.items()
    }
    with pytest.raises(UsageError, match="would be written over"):
        build_engine(model, model.with_name(plan), options(**named))
    assert files(model.parent) == ["model.onnx"]


def test_graph_that_is_kept_does_not_take_the_place_of_the_model(model: Path) -> None:
    source = model.rename(model.with_name("model.fp16.onnx"))
    with pytest.raises(UsageError, match="would be written over"):
        build_engine(source, model.with_name("model.plan"), options(precision="fp16", save_onnx=True))


@pytest.mark.parametrize("folder", ["model.plan", "model.plan.json", "layers.json"])
def test_folder_in_the_way_is_told_before_anything_is_built(folder: str, model: Path) -> None:
    model.with_name(folder).mkdir()
    with pytest.raises(UsageError, match=f"{folder} is a folder"):
        build_engine(model, options=options(force=True, dump_layers=model.with_name("layers.json")))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write into")
def test_layers_that_cannot_be_written_leave_the_standing_plan_alone(model: Path, plugin_library: Path) -> None:
    standing = build_engine(model, options=options())
    with pytest.raises(BuildError, match="cannot write into /proc"):
        build_engine(model, options=options(dump_layers=Path("/proc/layers.json")))
    assert build_engine(model, options=options()).up_to_date
    assert read_record(standing.path) == standing.record


INTERRUPTED = """
import os, signal, sys
from algm_trt.engines import BuildOptions, build_engine
from algm_trt.engines.progress import BuildProgress

class Interrupting(BuildProgress):
    steps = 0

    def step(self, name, index):
        self.steps += 1
        if self.steps == 20:
            os.kill(os.getpid(), signal.SIGINT)
            self.cancelled.wait(timeout=30)
        return super().step(name, index)

progress = Interrupting(visible=False)
options = BuildOptions(target="rtx", compute_capabilities=(89,), verify=False)
try:
    build_engine(sys.argv[1], options=options, progress=progress)
except KeyboardInterrupt:
    print("interrupted", progress.cancelled.is_set())
"""


def test_ctrl_c_stops_the_builder(model: Path, plugin_library: Path) -> None:
    """In a process of its own, as users stop it: once TensorRT-RTX crashed where many engines had been built before."""
    command = [sys.executable, "-c", INTERRUPTED, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr
    assert files(model.parent) == ["model.onnx"]


def test_settings_reach_the_builder(model: Path, plugin_library: Path) -> None:
    # Those of the target tensorrt too: TensorRT-RTX's configuration has the same members and does not build with them.
    tensorrt = load_builder("rtx")
    trt = tensorrt.module
    session = open_session(tensorrt, plugin_library)
    source = read_model(model)
    network = parse(session, without_functions(source.proto).SerializeToString(), PLUGIN_LAYERS)
    chosen = BuildOptions(
        hardware_compatibility="ampere-plus", version_compatible=True, workspace_mib=64, optimization_level=1
    )
    config = configure(session, source.card, chosen)
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 * 2**20
    assert config.plugins_to_serialize == [str(plugin_library)]
    assert config.num_optimization_profiles == 2
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_parser_error_names_the_node_and_what_the_plugin_said(plugin_library: Path) -> None:
    model = without_functions(tiny_model())
    node = next(node for node in model.graph.node if node.op_type == "AlgmLocalMerge")
    kept = [attribute for attribute in node.attribute if attribute.name != "window"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("window", [3, 3])])
    with pytest.raises(BuildError) as caught:
        parse(open_session(load_builder("rtx"), plugin_library), model.SerializeToString(), 10)
    message = str(caught.value)
    assert "'encoder.blocks.0/local_merge' (AlgmLocalMerge)" in message
    assert "the window 3x3 does not divide the grid 8x8" in message
    assert "\n" not in message


def test_missing_plugins_fail_loudly(plugin_library: Path) -> None:
    session = open_session(load_builder("rtx"), plugin_library)
    inlined = with_functions_inlined(tiny_model())
    with pytest.raises(BuildError, match="0 plugin layers of 10 nodes"):
        parse(session, inlined.SerializeToString(), 10)


def test_builder_error_is_reported(model: Path, plugin_library: Path) -> None:
    session = open_session(load_builder("rtx"), plugin_library)
    source = read_model(model)
    network = parse(session, without_functions(source.proto).SerializeToString(), PLUGIN_LAYERS)
    wrong = dataclasses.replace(source.card, size=(96, 128))
    config = configure(session, wrong, options())
    with pytest.raises(BuildError, match=r"cannot build the engine: .*images") as caught:
        build_plan(session, network, config, BuildProgress(visible=False))
    assert "\n" not in str(caught.value)
