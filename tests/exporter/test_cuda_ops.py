"""The operators by the kernels of the plugin library, on host memory with the library compiled for the CPU.

What a GPU adds is `tests/plugins/test_kernels_gpu.py` and `benchmarks/gpu_model.py`; the code that hands tensors to the
kernels is the same.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import (
    CASES,
    FUNCTIONS,
    OpCase,
    append_case,
    attention_case,
    function_of,
    global_case,
    labels_case,
    local_case,
    reference_outputs,
    unmerge_case,
)
from helpers.compare import assert_outputs_match, label_margins
from helpers.models import DISTILLED, LINEAR, TINY, random_segmenter
from helpers.pictures import drawn_scene
from torch import Tensor

from algm_trt.exporter import cuda_ops, gradients, ops
from algm_trt.exporter.cuda_ops import Kernels, NoKernelError
from algm_trt.exporter.segmenter import Segmenter, normalise
from algm_trt.plugins import interface, spec
from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.library import LIBRARY_VARIABLE, PluginLibraryError
from algm_trt.runtime.card import MergeSettings

HEADER = Path(__file__).parents[2] / "plugins" / "native" / "algm.h"
# One case per operator with channels that no vector width divides, and images of odd lengths.
ODD = (
    local_case("odd", batch=3, grid=(6, 10), channels=13),
    global_case("odd", [9, 14, 2, 71], channels=37),
    attention_case("odd", [5, 65, 1], depth=32),
    append_case("odd", [5, 3], 7, 1),
    unmerge_case("odd", [8, 9], 16, 4, 1),
    labels_case("odd", 2, (3, 5), 19, (45, 83)),
)


@pytest.fixture(scope="module")
def kernels(twin_library: Path) -> Kernels:
    return Kernels(twin_library)


@pytest.fixture
def installed(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """The kernels in the place where CUDA tensors would look for them."""
    monkeypatch.setattr(cuda_ops, "_installed", cuda_ops._Installed())
    cuda_ops.register_kernels(kernels.path)
    return kernels


def arguments_of(case: OpCase, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Inputs as tensors and attributes, in the order of the operator."""
    tensors = {t.name: torch.from_numpy(np.array(v)) for t, v in zip(case.op.inputs, case.inputs(), strict=True)}
    wanted = {t.name for t in case.op.inputs if t.dtype == "x"}
    given = {name: value.to(dtype) if name in wanted else value for name, value in tensors.items()} | case.attributes
    operator = function_of(ops, case.op)
    return [given[argument.name] for argument in operator._opoverload._schema.arguments]


def arrays(result: Any) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in ([result] if isinstance(result, Tensor) else result)]


def unsupported(case: OpCase) -> bool:
    if case.op is not spec.PACKED_ATTENTION:
        return False
    return case.inputs()[0].shape[1] // 3 // case.attributes["heads"] not in (32, 48, 64, 80, 96, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", [case for case in (*CASES, *ODD) if not case.heavy], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_equals_the_reference(kernels: Kernels, case: OpCase, dtype: torch.dtype) -> None:
    given = arguments_of(case, dtype)
    launch = function_of(kernels, case.op)
    if unsupported(case):
        with pytest.raises(NoKernelError, match="algm_packed_attention"):
            launch(*given)
        return
    actual = arrays(launch(*given))[: case.output_count]
    inputs = [value.numpy() for value in given if isinstance(value, Tensor)]
    expected = reference_outputs(case, inputs)
    if case.op is spec.LABELS:
        unclear = label_margins(inputs[0], case.attributes["size"]) < 1e-6
        expected = (np.where(unclear, actual[0], expected[0]),)
    assert_outputs_match(case.op, actual, expected, case.magnifies)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", ODD, ids=str)
def test_strides_and_offsets_do_not_matter(kernels: Kernels, case: OpCase, dtype: torch.dtype) -> None:
    given = arguments_of(case, dtype)
    launch = function_of(kernels, case.op)
    expected = arrays(launch(*given))
    for change in (strided, shifted, widened):
        changed = [change(value) if isinstance(value, Tensor) and value.ndim else value for value in given]
        for ours, theirs in zip(arrays(launch(*changed)), expected, strict=True):
            assert ours.tobytes() == theirs.tobytes(), change.__name__


def strided(tensor: Tensor) -> Tensor:
    """The same values with a gap behind each."""
    return torch.stack([tensor, torch.full_like(tensor, 3)], dim=-1)[..., 0]


def shifted(tensor: Tensor) -> Tensor:
    """The same values, one element away from an aligned address."""
    room = tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape)
    return room.copy_(tensor)


def widened(tensor: Tensor) -> Tensor:
    """Indices as int64; features as they are."""
    return tensor if tensor.is_floating_point() else tensor.long()


@pytest.mark.parametrize("case", ODD, ids=str)
def test_as_implementation_of_a_torch_operator(installed: Kernels, case: OpCase) -> None:
    """The kernel in a registered operator, as CUDA tensors meet it: torch checks schema and aliasing."""
    name = FUNCTIONS[case.op.name]
    plain: Callable[..., Any] = getattr(ops, f"_{name}")
    operator = torch.library.custom_op(f"algm_test::{name}", plain, mutates_args=())
    operator.register_fake(getattr(ops, f"_fake_{name}"))
    operator.register_kernel("cpu")(cuda_ops.dispatcher(name, plain))
    given = arguments_of(case)
    torch.library.opcheck(operator, given, test_utils=["test_schema", "test_faketensor"])
    for ours, theirs in zip(arrays(operator(*given)), arrays(getattr(installed, name)(*given)), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_every_operator_has_a_cuda_implementation() -> None:
    for op, name in FUNCTIONS.items():
        key = torch._C._dispatch_has_kernel_for_dispatch_key(f"{spec.DOMAIN}::{name}", "CUDA")
        assert key, op


MERGE = MergeSettings(layers=(1, 3), window=(2, 2), threshold=0.5)
NETWORKS = {
    "mask decoder": TINY,
    "linear decoder": LINEAR,
    "distilled": DISTILLED,
    "one head": replace(TINY, n_heads=1),
}


def pixels_of(model: Segmenter, size: tuple[int, int] = (128, 128)) -> Tensor:
    images = np.stack([drawn_scene(*size, seed=seed) for seed in range(3)])
    return normalise(torch.from_numpy(images), model.config.normalization)


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_network_in_float32(kernels: Kernels, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_segmenter(NETWORKS[name], MERGE)
    pixels = pixels_of(model)
    lengths = set()
    for threshold in (-1.0, 0.2, 0.5, 2.0):
        with torch.inference_mode():
            expected = model(pixels, threshold)
            with monkeypatch.context() as patched:
                for operator in FUNCTIONS.values():
                    patched.setattr(ops, operator, getattr(kernels, operator))
                found = model(pixels, threshold)
        lengths |= set(expected.token_counts[:, 1].tolist())
        assert torch.equal(found.token_counts, expected.token_counts)
        assert torch.equal(found.token_map, expected.token_map)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)
        assert (found.logits.argmax(dim=1) == expected.logits.argmax(dim=1)).float().mean() > 0.995
    assert len(lengths) >= 4, f"the pictures should differ in how much of them merges: {lengths}"


def test_whole_network_in_float16(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain operators at the same type: only attention rounds elsewhere."""
    model = random_segmenter(TINY, MERGE).half()
    pixels = pixels_of(model, (120, 125)).half()
    with torch.inference_mode():
        expected = model(pixels)
        for operator in FUNCTIONS.values():
            monkeypatch.setattr(ops, operator, getattr(kernels, operator))
        found = model(pixels)
    assert found.logits.dtype == torch.float16
    assert (found.token_counts - expected.token_counts).abs().max() <= 2
    agree = (found.logits.argmax(dim=1) == expected.logits.argmax(dim=1)).float().mean()
    assert agree > 0.97, agree


def test_the_missing_library_is_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda_ops, "_installed", cuda_ops._Installed())
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "missing.so"))
    given = arguments_of(ODD[0])
    run = cuda_ops.dispatcher("local_merge", ops._local_merge)
    with pytest.warns(RuntimeWarning, match=r"without their kernels .* which is slow: there is no plugin library at"):
        first = run(*given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = run(*given)
    for ours, theirs, plain in zip(first, second, ops._local_merge(*given), strict=True):
        assert torch.equal(ours, plain)
        assert torch.equal(theirs, plain)


def test_register_kernels_fails_where_automatic_use_would_warn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, twin_library: Path
) -> None:
    monkeypatch.setattr(cuda_ops, "_installed", cuda_ops._Installed())
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "missing.so"))
    with pytest.raises(PluginLibraryError, match="there is no plugin library"):
        cuda_ops.register_kernels()
    assert cuda_ops.register_kernels(twin_library) == twin_library.resolve()
    monkeypatch.setenv(LIBRARY_VARIABLE, str(twin_library))
    assert cuda_ops.register_kernels() == twin_library.resolve()


@pytest.mark.parametrize(("change", "reason"), [("dtype", "not bfloat16"), ("depth", "head dimension|no kernel")])
def test_what_has_no_kernel_runs_plainly_and_says_so(installed: Kernels, change: str, reason: str) -> None:
    case = attention_case("plain", [5, 3], depth=32 if change == "dtype" else 20)
    given = arguments_of(case, torch.bfloat16 if change == "dtype" else torch.float32)
    with pytest.warns(RuntimeWarning, match=f"packed_attention runs without its kernel.*({reason})"):
        found = cuda_ops.dispatcher("packed_attention", ops._packed_attention)(*given)
    assert torch.equal(found, ops._packed_attention(*given))


def test_merges_that_are_differentiated_run_their_kernel(installed: Kernels) -> None:
    """The gradient reads from the outputs what merged, whoever decided it."""
    for case in ODD[:2]:
        name = FUNCTIONS[case.op.name]
        run = cuda_ops.dispatcher(name, lambda *_: pytest.fail("the plain function ran"))
        schema = torch.library.infer_schema(getattr(ops, f"_{name}"), mutates_args=())
        by_kernel = torch.library.custom_op(f"algm_test::{name}", run, mutates_args=(), schema=schema)
        gradients.differentiate_merge(by_kernel, getattr(gradients, f"{name}_shares"))
        given = arguments_of(case)
        given[0].requires_grad_()
        found, expected = (merge(*given)[0] for merge in (by_kernel, getattr(ops, name)))
        weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(*(torch.autograd.grad(y, given[0], weights)[0] for y in (found, expected)))


def test_an_impossible_call_names_operator_sizes_and_reason(kernels: Kernels) -> None:
    with pytest.raises(AlgmError, match=r"algm_local_merge \(dtype 0, .* window_height 5.* failed: .*; last error"):
        kernels.local_merge(torch.zeros(1, 17, 8), torch.tensor(0.5), (4, 4), (5, 2), 1)


def test_functions_are_those_of_the_header() -> None:
    text = re.sub(r"//.*", "", HEADER.read_text())
    declared = dict(re.findall(r"AlgmStatus (algm_\w+)\(([^)]*)\)", text))
    assert declared.keys() == interface.FUNCTIONS.keys()
    for name, (params, tensors) in interface.FUNCTIONS.items():
        assert f"{params.__name__}* params" in declared[name]
        assert declared[name].count("*") == tensors + 2  # params, tensors, workspace
        fields = re.search(rf"typedef struct {params.__name__} \{{(.*?)\}}", text, re.DOTALL)
        assert fields
        assert re.findall(r"int32_t (\w+);", fields[1]) == [field[0] for field in params._fields_]
