"""benchmarks/kernels.py on the CPU twin: every timer runs, and what fails is recorded. The figures mean nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import kernels  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

ALIGNMENT = 256


class OnCpu(TorchFunctionMode):
    """Makes CPU tensors, bytes on a 256-byte boundary, where CUDA ones are asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if options.get("device") == "cuda":
            options["device"] = "cpu"
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.empty and options.get("dtype") == torch.uint8:
            shape = args if isinstance(args[0], int) else args[0]
            room = func(math.prod(shape) + ALIGNMENT, **options)
            return room[-room.data_ptr() % ALIGNMENT :][: math.prod(shape)].view(shape)
        return func(*args, **options)


class Event:
    """A CUDA event of a clock that stands still but for one millisecond a run."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return 1.0


def attention(q: Any, k: Any, v: Any, cu_seqlens: Any, longest: int) -> Any:
    """Attention of every image by PyTorch's plain operations."""
    images = []
    for start, stop in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        assert stop - start <= longest
        one = (x[start:stop].float().transpose(0, 1) for x in (q, k, v))
        images.append(torch.nn.functional.scaled_dot_product_attention(*one).transpose(0, 1))
    return torch.cat(images).half()


@pytest.fixture
def on_cpu(twin_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ALGM_PLUGINS_LIB", str(twin_library))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "CPU twin")
    monkeypatch.setattr(kernels, "SHAPES", [kernels.Shape("tiny", 64, 1, 4)])
    monkeypatch.setattr(kernels, "WIDE_HEADS", [kernels.Shape("wide", 160, 2, 4)])
    monkeypatch.setattr(kernels, "CLASSES", 5)
    monkeypatch.setattr(kernels, "WARM_UPS", 1)
    monkeypatch.setattr(kernels, "RUNS", 1)
    monkeypatch.setattr(kernels, "COPY_BYTES", 4096)
    monkeypatch.setattr(kernels, "torch_attention", lambda: (attention, "plain attention"))
    with OnCpu():
        yield


def test_every_kernel_is_measured(on_cpu: None) -> None:
    kept: list[int] = []
    results, left = kernels.measure_all(3, keep=lambda results: kept.append(len(results["kernels"])))
    assert not left
    assert kept == [*range(1, len(kernels.TIMERS)), len(kernels.TIMERS) + 1]  # the last one is attention
    rows = {row["kernel"]: row for row in results["kernels"]}
    assert not [row for row in rows.values() if "error" in row]
    assert set(rows) == {name.removeprefix("algm_") for name in kernels.interface.FUNCTIONS}
    assert all(row["ms"] == row["warm_ms"] == 1.0 for row in rows.values())
    assert {name for name, row in rows.items() if "warm_floor_ms" in row} == {"global_merge", "packed_attention"}


def test_what_fails_is_recorded_and_the_others_are_left_for_another_process(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(kernels.TIMERS, "labels", broken)
    results, left = kernels.measure_all(2, ["unmerge", "labels", "global_merge", "append_tokens"])
    done, failed = results["kernels"]
    assert done["kernel"] == "unmerge"
    assert "ms" in done
    assert failed["error"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert left == ["global_merge", "append_tokens"]


def test_attention_that_differs_from_pytorchs_is_an_error(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[Callable[..., Any], str]:
        return lambda q, *_: torch.zeros_like(q), "zeros"

    monkeypatch.setattr(kernels, "torch_attention", broken)
    results, _ = kernels.measure_all(2, ["packed_attention"])
    assert "differs" in results["kernels"][0]["error"]


def test_another_process_that_measures_nothing_is_an_error_of_each_kernel() -> None:
    """There is no GPU where this runs: the process ends with exit code 4."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    rows = kernels.measured_apart(2, ["unmerge", "labels"])
    assert rows == [{"kernel": name, "error": "not measured: exit code 4"} for name in ("unmerge", "labels")]


def test_a_kernel_says_why_it_refuses(on_cpu: None) -> None:
    params = kernels.interface.AlgmPackedAttentionParams(kernels.interface.FLOAT16, 1, 4, 40, 1, 4)
    with pytest.raises(RuntimeError, match="algm_packed_attention: no kernel for this head dimension"):
        kernels.Kernel("algm_packed_attention", params, [torch.zeros(480, dtype=torch.float16)] * 3)()


def test_pytorchs_attention_is_called_as_it_is_declared() -> None:
    """As far as a machine without a GPU can tell: its arguments are accepted, its kernel is missing."""
    q = torch.zeros(4, 2, 64, dtype=torch.float16)
    run, name = kernels.torch_attention()
    assert "varlen" in name
    with pytest.raises((NotImplementedError, RuntimeError), match=r"CPU|CUDA"):
        run(q, q, q, torch.tensor([0, 4], dtype=torch.int32), 4)
