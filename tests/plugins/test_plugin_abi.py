"""The plugin objects as TensorRT sees them: identity, attributes, types, formats, shapes, copies, and their interface.

Every test runs with a probe compiled against our declaration of TensorRT's interface, and again with one compiled
against NVIDIA's headers for each folder in ALGM_TENSORRT_HEADERS (separated as in PATH) or TENSORRT_ROOT.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.plugin_probe import (
    BOOL,
    FLOAT,
    HALF,
    INT8,
    INT32,
    INT64,
    LINEAR,
    RUNTIME,
    OutputShapes,
    Plugin,
    Probe,
    Shape,
    build_abi_checks,
)

from algm_trt.plugins.library import last_error
from algm_trt.plugins.spec import OPS, Attribute, OpSpec

HEADERS = [
    Path(folder)
    for folder in (os.environ.get("ALGM_TENSORRT_HEADERS") or os.environ.get("TENSORRT_ROOT") or "").split(os.pathsep)
    if folder
]

ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "AlgmLocalMerge": {"grid": [4, 6], "window": [2, 3], "extra_tokens": 2, "expected_keep": 0.625},
    "AlgmGlobalMerge": {"layer": 6, "extra_tokens": 1, "max_tokens": 25, "expected_keep": 0.75},
    "AlgmPackedAttention": {"heads": 3, "max_tokens": 25},
    "AlgmAppendTokens": {"drop": 1},
    "AlgmUnmerge": {"appended": 7, "drop": 1},
    "AlgmLabels": {"size": [61, 97]},
}

# Inputs for three images, a negative extent being one that TensorRT does not know; then the outputs for them.
SHAPES: Mapping[str, tuple[Sequence[Shape], Sequence[Shape]]] = {
    "AlgmLocalMerge": ([(-3, 26, 64), ()], [(78, 64), (78,), (4,), (3, 24), ()]),
    "AlgmGlobalMerge": ([(-70, 64), (-70,), (-4,), (-3, 24)], [(70, 64), (70,), (4,), (3, 24), ()]),
    "AlgmPackedAttention": ([(-70, 576), (-4,)], [(70, 192)]),
    "AlgmAppendTokens": ([(-70, 64), (-4,), (7, 64)], [(88, 64), (4,)]),
    "AlgmUnmerge": ([(-88, 64), (-4,), (-3, 24)], [(3, 24, 64), (3, 7, 64)]),
    "AlgmLabels": ([(-3, 4, 6, 19)], [(3, 61, 97)]),
}
HINTS = {"AlgmLocalMerge": 49, "AlgmGlobalMerge": 53}  # the expected share of the bound, rounded up

# Attributes that let another one take the bound of its range.
COMPANIONS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("AlgmLocalMerge", "grid"): {"window": [1, 2]},
    ("AlgmLocalMerge", "window"): {"grid": [4096, 4096]},
}
BOUNDS: Mapping[tuple[str, str], list[Any]] = {
    ("AlgmLocalMerge", "grid"): [[1, 4096], [4096, 2]],
    ("AlgmLocalMerge", "window"): [[1, 64], [64, 1]],
}


@pytest.fixture(scope="session", params=["ours", *map(str, HEADERS)])
def abi_build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Compiled checks: against which headers, and their folder."""
    headers = None if request.param == "ours" else Path(request.param)
    return request.param, build_abi_checks(tmp_path_factory.mktemp("abi"), headers)


@pytest.fixture(scope="session")
def probe(abi_build: tuple[str, Path], plugin_library: Path) -> Probe:
    headers, folder = abi_build
    name = "libplugin_probe.so" if headers == "ours" else "libplugin_probe_nv.so"
    return Probe(folder / name, plugin_library)


def make(probe: Probe, op: str, **changes: Any) -> Plugin:
    plugin = probe.create(op, {**ATTRIBUTES[op], **changes})
    assert plugin is not None
    return plugin


def positive(shapes: Sequence[Shape]) -> list[Shape]:
    return [tuple(abs(extent) for extent in shape) for shape in shapes]


def input_types(spec: OpSpec, activation: int) -> list[int]:
    return [{"x": activation, "float32": FLOAT, "int32": INT32}[tensor.dtype] for tensor in spec.inputs]


def output_types(spec: OpSpec, activation: int) -> list[int]:
    return [{"x": activation, "float32": FLOAT, "int32": INT32}[tensor.dtype] for tensor in spec.outputs]


def scalar_or_list(attribute: Attribute, first: float) -> Any:
    """A value of the attribute whose first element is `first`."""
    number: float = first if attribute.kind == "float" else int(first)
    return number if attribute.length == 1 else [number] + [2] * (attribute.length - 1)


ALL_ATTRIBUTES = [
    pytest.param(spec, attribute, id=f"{spec.name}-{attribute.name}")
    for spec in OPS.values()
    for attribute in spec.attributes
]


def test_interface_equals_nvidias_headers(abi_build: tuple[str, Path]) -> None:
    headers, folder = abi_build
    if headers == "ours":
        if HEADERS:
            pytest.skip("our own declaration is what NVIDIA's headers are compared with, in the other cases")
        pytest.skip("no TensorRT headers: set ALGM_TENSORRT_HEADERS or TENSORRT_ROOT to compare with them")
    done = subprocess.run([folder / "abi_check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 failures" in done.stdout


def test_creators_are_those_of_the_contract(probe: Probe) -> None:
    assert probe.identities == [f"algm::{name}:1 PLUGIN CREATOR_V3ONE 1.0" for name in OPS]
    for spec in OPS.values():
        fields = "".join(f"{a.name}:{1 if a.kind == 'float' else 5}:{a.length};" for a in spec.attributes)
        assert probe.text("creator_fields", probe.creators[spec.name]) == fields


@pytest.mark.parametrize(("spec", "attribute"), ALL_ATTRIBUTES)
def test_bounds_are_those_of_the_contract(spec: OpSpec, attribute: Attribute, probe: Probe) -> None:
    key = (spec.name, attribute.name)
    default = [scalar_or_list(attribute, attribute.minimum), scalar_or_list(attribute, attribute.maximum)]
    companions = COMPANIONS.get(key, {})
    for value in BOUNDS.get(key, default):
        assert probe.create(spec.name, {**ATTRIBUTES[spec.name], **companions, attribute.name: value}) is not None
    for bad in (attribute.minimum - 1, attribute.maximum + 1):
        value = scalar_or_list(attribute, bad)
        assert probe.create(spec.name, {**ATTRIBUTES[spec.name], **companions, attribute.name: value}) is None


@pytest.mark.parametrize(("spec", "attribute"), ALL_ATTRIBUTES)
def test_refused_value_is_quoted(
    spec: OpSpec, attribute: Attribute, probe: Probe, plugin_library: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = scalar_or_list(attribute, attribute.maximum + 3)
    assert probe.create(spec.name, {**ATTRIBUTES[spec.name], attribute.name: value}) is None
    expected = (
        f"{spec.name}: attribute '{attribute.name}' is {attribute.maximum + 3:.10g} (value 1 of {attribute.length})"
    )
    assert f"algm: {expected}" in capfd.readouterr().err
    assert expected in last_error(plugin_library)


@pytest.mark.parametrize(("spec", "attribute"), ALL_ATTRIBUTES)
def test_missing_attribute_is_refused_unless_it_is_a_hint(spec: OpSpec, attribute: Attribute, probe: Probe) -> None:
    left = {name: value for name, value in ATTRIBUTES[spec.name].items() if name != attribute.name}
    assert (probe.create(spec.name, left) is not None) == attribute.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_hint_must_be_finite(value: float, probe: Probe) -> None:
    assert probe.create("AlgmLocalMerge", {**ATTRIBUTES["AlgmLocalMerge"], "expected_keep": value}) is None


def test_wide_types_are_taken(probe: Probe) -> None:
    narrow = make(probe, "AlgmLocalMerge")
    wide = make(
        probe,
        "AlgmLocalMerge",
        grid=np.array([4, 6], np.int64),
        extra_tokens=np.array([2], np.int64),
        expected_keep=np.array([0.625], np.float64),
    )
    assert wide.fields == narrow.fields
    assert probe.create("AlgmAppendTokens", {"drop": np.array([2**32 + 1], np.int64)}) is None


@pytest.mark.parametrize("value", [[4, 6, 2], [4], [4.0, 6.0], np.array([4, 6], np.int8), "4,6"])
def test_wrong_type_or_length_is_refused(value: Any, probe: Probe) -> None:
    assert probe.create("AlgmLocalMerge", {**ATTRIBUTES["AlgmLocalMerge"], "grid": value}) is None


def test_attributes_of_the_parser_are_ignored_and_others_refused(probe: Probe) -> None:
    parser = {"plugin_namespace": "algm", "plugin_version": "1"}
    assert probe.create("AlgmAppendTokens", {"drop": 1, **parser}) is not None
    assert probe.create("AlgmAppendTokens", {"drop": 1, "dropp": 1}) is None


@pytest.mark.parametrize(
    "attributes",
    [{"window": [1, 1]}, {"grid": [4, 6], "window": [3, 2]}, {"grid": [4, 6], "window": [2, 4]}, {"window": [8, 3]}],
)
def test_window_must_divide_the_grid_and_hold_two(attributes: Mapping[str, Any], probe: Probe) -> None:
    assert probe.create("AlgmLocalMerge", {**ATTRIBUTES["AlgmLocalMerge"], **attributes}) is None


@pytest.mark.parametrize("op", OPS)
def test_copies_hold_the_same_attributes(op: str, probe: Probe) -> None:
    plugin = make(probe, op)
    fields, timing_id = plugin.fields, plugin.timing_id
    copies = [plugin.recreate(), plugin.clone(), plugin.attach(), plugin.clone().recreate().attach()]
    del plugin  # a copy must not point into the object that it came from
    for copy in copies:
        assert (copy.identity, copy.fields, copy.timing_id) == (f"algm::{op}:1", fields, timing_id)
    for name, value in ATTRIBUTES[op].items():
        values = value if isinstance(value, list) else [value]
        text = ",".join(f"{v:.6f}" if isinstance(v, float) else str(v) for v in values)
        assert f"{name}={text};" in fields


@pytest.mark.parametrize("op", OPS)
def test_creator_takes_attributes_in_the_runtime_phase(op: str, probe: Probe) -> None:
    assert probe.create(op, ATTRIBUTES[op], RUNTIME) is not None


@pytest.mark.parametrize(("spec", "attribute"), ALL_ATTRIBUTES)
def test_timing_id_tells_attributes_apart(spec: OpSpec, attribute: Attribute, probe: Probe) -> None:
    other = {"grid": [8, 6], "window": [4, 3], "size": [61, 98]}.get(attribute.name)
    if other is None:
        base = ATTRIBUTES[spec.name][attribute.name]
        other = base + (1 if attribute.kind == "int" and base < attribute.maximum else -base / 2 if base < 1 else -1)
    assert make(probe, spec.name).timing_id != make(probe, spec.name, **{attribute.name: other}).timing_id


@pytest.mark.parametrize("activation", [FLOAT, HALF])
@pytest.mark.parametrize("spec", OPS.values(), ids=OPS)
def test_output_types_are_those_of_the_contract(spec: OpSpec, activation: int, probe: Probe) -> None:
    plugin = make(probe, spec.name)
    assert plugin.output_types(input_types(spec, activation)) == output_types(spec, activation)
    assert plugin.output_types([activation] * (len(spec.inputs) + 1)) is None


@pytest.mark.parametrize("activation", [FLOAT, HALF])
@pytest.mark.parametrize("spec", OPS.values(), ids=OPS)
def test_only_linear_tensors_of_the_contracts_types_are_supported(spec: OpSpec, activation: int, probe: Probe) -> None:
    plugin = make(probe, spec.name)
    right = input_types(spec, activation) + output_types(spec, activation)
    linear = [LINEAR] * len(right)
    for position in range(len(right)):
        assert plugin.supports(position, right, linear, len(spec.inputs))
        for kind in {FLOAT, HALF, INT8, INT32, BOOL, INT64} - {right[position]}:
            wrong = [*right[:position], kind, *right[position + 1 :]]
            activation_changes = position == 0 and kind in (FLOAT, HALF)
            assert plugin.supports(position, wrong, linear, len(spec.inputs)) == activation_changes
        for layout in (1, 2, 4, 9):
            formats = [*linear[:position], layout, *linear[position + 1 :]]
            assert not plugin.supports(position, right, formats, len(spec.inputs))
    assert not plugin.supports(len(right), [*right, FLOAT], [*linear, LINEAR], len(spec.inputs))


@pytest.mark.parametrize("op", OPS)
def test_output_shapes(op: str, probe: Probe) -> None:
    inputs, outputs = SHAPES[op]
    for given in (inputs, positive(inputs)):
        found = make(probe, op).output_shapes(given)
        if op in HINTS:
            assert found == OutputShapes(list(outputs), OPS[op].size_outputs[0], HINTS[op], [0, 1])
        else:
            assert found == OutputShapes(list(outputs), -1, -1, [])


def test_a_shape_that_tensorrt_refuses_is_an_error(probe: Probe, plugin_library: Path) -> None:
    assert make(probe, "AlgmLocalMerge").output_shapes([(-(2**31), 26, 64), ()]) is None
    assert last_error(plugin_library) == "AlgmLocalMerge: TensorRT refused the expression of an output's shape"


@pytest.mark.parametrize(("keep", "hint"), [(0.0, 1), (1.0, 78), (0.5, 39)])
def test_expected_keep_is_the_share_to_tune_for(keep: float, hint: int, probe: Probe) -> None:
    found = make(probe, "AlgmLocalMerge", expected_keep=keep).output_shapes(SHAPES["AlgmLocalMerge"][0])
    assert found is not None
    assert found.size_hint == hint


def test_unmerge_without_appended_tokens_has_one_output(probe: Probe) -> None:
    plugin = make(probe, "AlgmUnmerge", appended=0)
    assert plugin.nb_outputs == 1
    assert plugin.output_shapes(SHAPES["AlgmUnmerge"][0]) == OutputShapes([(3, 24, 64)], -1, -1, [])


@pytest.mark.parametrize("op", OPS)
def test_wrong_ranks_and_counts_are_refused(op: str, probe: Probe) -> None:
    plugin, inputs = make(probe, op), SHAPES[op][0]
    for i, shape in enumerate(inputs):
        assert plugin.output_shapes([*inputs[:i], (*shape, 2), *inputs[i + 1 :]]) is None
    assert plugin.output_shapes([*inputs, (1,)]) is None
    assert plugin.output_shapes(inputs[:-1]) is None


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("AlgmLocalMerge", [(3, 25, 64), ()]),
        ("AlgmPackedAttention", [(70, 575), (4,)]),
        ("AlgmPackedAttention", [(70, 3 * 3 * 56), (4,)]),
        ("AlgmAppendTokens", [(70, 64), (4,), (7, 32)]),
        ("AlgmGlobalMerge", [(70, 64), (69,), (4,), (3, 24)]),
        ("AlgmGlobalMerge", [(70, 64), (70,), (3,), (3, 24)]),
        ("AlgmUnmerge", [(88, 64), (3,), (3, 24)]),
    ],
)
def test_extents_that_do_not_fit_are_refused_in_every_phase(op: str, inputs: list[Shape], probe: Probe) -> None:
    plugin, types = make(probe, op), input_types(OPS[op], HALF)
    assert plugin.output_shapes(inputs) is None
    assert not plugin.configure(inputs, types)
    assert not plugin.shape_change(inputs, types)


@pytest.mark.parametrize("op", OPS)
def test_workspace_for_the_largest_shapes_serves_smaller_ones(op: str, probe: Probe) -> None:
    plugin, largest = make(probe, op), positive(SHAPES[op][0])
    assert plugin.configure(largest, input_types(OPS[op], HALF))
    for activation in (HALF, FLOAT):
        types = input_types(OPS[op], activation)
        reserved = plugin.workspace(largest, types)
        for rows in range(1, 70, 3):
            smaller = [(rows, *shape[1:]) if shape[:1] == (70,) else shape for shape in largest]
            assert plugin.shape_change(smaller, types)
            assert plugin.workspace(smaller, types) <= reserved


@pytest.mark.parametrize(
    ("op", "inputs", "found"),
    [
        ("AlgmLocalMerge", [(65536, 26, 64), ()], "x=65536x26x64"),
        ("AlgmGlobalMerge", [(2**30, 64), (2**30,), (4,), (3, 24)], f"x={2**30}x64 sizes={2**30} cu_seqlens=4 "),
        ("AlgmGlobalMerge", [(2**33, 64), (2**33,), (4,), (3, 24)], f"x={2**33}x64 sizes={2**33} cu_seqlens=4 "),
        ("AlgmPackedAttention", [(2**30, 576), (4,)], f"qkv={2**30}x576 cu_seqlens=4"),
        ("AlgmAppendTokens", [(70, 64), (4,), (65536, 64)], "x=70x64 cu_seqlens=4 tokens=65536x64"),
        ("AlgmUnmerge", [(88, 64), (65537,), (65536, 24)], "x=88x64 cu_seqlens=65537 token_map=65536x24"),
        ("AlgmLabels", [(3, 4, 6, 65536)], "logits=3x4x6x65536"),
    ],
)
@pytest.mark.parametrize("activation", [FLOAT, HALF])
def test_profiles_beyond_the_kernels_are_refused(
    op: str, inputs: list[Shape], found: str, activation: int, probe: Probe, plugin_library: Path
) -> None:
    """Else the workspace would be 0 bytes, and the first run of the engine would fail."""
    plugin, types = make(probe, op), input_types(OPS[op], activation)
    assert plugin.workspace(inputs, types) == 0
    assert not plugin.configure(inputs, types)
    reason = f"{op}: the kernels do not take the largest shapes of the profile: {found}"
    assert last_error(plugin_library).startswith(reason)
    assert plugin.configure(positive(SHAPES[op][0]), types)


@pytest.mark.parametrize("op", OPS)
def test_enqueue_reports_a_failure_of_the_kernel(
    op: str, probe: Probe, plugin_library: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin, inputs = make(probe, op), positive(SHAPES[op][0])
    nothing = [None] * 8
    status = plugin.enqueue(inputs, input_types(OPS[op], HALF), nothing[: len(inputs)], nothing[:5], None)
    assert status != 0
    assert f"algm: {op}: invalid argument" in capfd.readouterr().err
    assert last_error(plugin_library).startswith(f"{op}: invalid argument")


@pytest.mark.skipif(find_library("cuda") is not None, reason="a CUDA driver is here, which would use made-up addresses")
def test_enqueue_says_why_cuda_refused_a_launch(
    probe: Probe, plugin_library: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin, inputs = make(probe, "AlgmLabels"), positive(SHAPES["AlgmLabels"][0])
    assert plugin.enqueue(inputs, input_types(OPS["AlgmLabels"], HALF), [256], [512], None) == 4
    assert "CUDA driver version is insufficient" in capfd.readouterr().err
    assert "CUDA driver version is insufficient" in last_error(plugin_library)
