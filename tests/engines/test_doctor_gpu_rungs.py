"""The rungs that need a GPU, on stand-ins of CUDA and TensorRT: real kernels on the CPU, the real TensorRT backend."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.host_device import DeferredLibrary, HostCuda
from helpers.host_tensorrt import HostTensorRT, install
from helpers.plans import make_record, write_plan

from algm_trt.engines import BuildOptions
from algm_trt.engines.doctor import rungs
from algm_trt.engines.doctor.kernels import KernelError
from algm_trt.engines.sample import SAMPLE_MODEL
from algm_trt.plugins import library
from algm_trt.plugins.errors import VerificationError
from algm_trt.runtime import cuda
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.backends.tensorrt import engine as tensorrt_engine
from algm_trt.runtime.backends.tensorrt.kernels import SlideKernels

PROFILES = ((1, 2, 4),)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    """A device that cuda-python would find."""
    found = HostCuda()
    bindings = cuda.Bindings(found, SimpleNamespace(cuuint64_t=int))
    monkeypatch.setattr(cuda, "load_bindings", lambda: bindings)
    return found


@pytest.fixture
def kernels(host: HostCuda, twin_library: Path, monkeypatch: pytest.MonkeyPatch) -> DeferredLibrary:
    """The kernels, whose launches wait in the streams of the device."""
    deferred = DeferredLibrary(ctypes.CDLL(str(twin_library)), host)
    monkeypatch.setattr(library, "load_ctypes", lambda path: deferred)
    return deferred


def test_kernels_on_a_device(host: HostCuda, kernels: DeferredLibrary) -> None:
    text = rungs.kernels_on_gpu("libalgm_plugins.so")
    assert text.startswith("8 operator cases in float32 and float16 equal the NumPy reference on ")
    assert {"cudaStreamCreateWithFlags", "cudaMemcpyAsync", "cudaStreamSynchronize"} <= set(host.calls)


def test_a_kernel_that_refuses_fails_the_rung(kernels: DeferredLibrary) -> None:
    kernels.refuse["algm_labels"] = 4
    with pytest.raises(KernelError, match="labels, float32: "):
        rungs.kernels_on_gpu("libalgm_plugins.so")


def test_a_kernel_that_writes_nothing_fails_the_rung(kernels: DeferredLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.refuse["algm_unmerge"] = 0  # says that all is well, and does nothing
    with pytest.raises(VerificationError, match=r"unmerge: .* values of grid differ; unmerge: "):
        rungs.kernels_on_gpu("libalgm_plugins.so")


@pytest.fixture
def built(
    host: HostCuda, kernels: DeferredLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[BuildOptions]:
    """Options of the builds, which leave a plan that computes what the sample model computes."""
    made: list[BuildOptions] = []
    model = OnnxRuntimeEngine(SAMPLE_MODEL, device="cpu")
    trt = HostTensorRT(host, model)
    trt.changes["profiles"] = PROFILES
    install(monkeypatch, trt)
    monkeypatch.setattr(tensorrt_engine, "load_kernels", lambda: SlideKernels(kernels))

    def build_engine(source: Path, plan: Path, options: BuildOptions) -> Any:
        assert source == SAMPLE_MODEL
        made.append(options)
        record = make_record(model.card, profiles=PROFILES)
        return SimpleNamespace(path=write_plan(plan.parent, record), record=record, seconds=12.0)

    monkeypatch.setattr("algm_trt.engines.build_engine", build_engine)
    return made


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_engine_is_built_run_and_compared(built: list[BuildOptions], precision: str) -> None:
    text = rungs.build_and_run("tensorrt", precision, 89)
    assert text.startswith("10.16.1.11, 5 plugin layers, built in 12 s; labels ")
    assert "equal to ONNX Runtime's, tokens" in text
    (options,) = built
    assert (options.precision, options.target, options.compute_capabilities) == (precision, "tensorrt", ())
    assert [(batch.minimum, batch.maximum) for batch in options.batches] == [(1, 4)]


@pytest.mark.heavy
def test_an_engine_that_gives_something_else_fails_the_rung(
    built: list[BuildOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = rungs._segmented

    def shifted(model: Path, device: str, pictures: Any) -> Any:
        labels, tokens, seconds = right(model, device, pictures)
        return ([(array + 1) % 10 for array in labels] if device == "auto" else labels), tokens, seconds

    monkeypatch.setattr(rungs, "_segmented", shifted)
    with pytest.raises(VerificationError, match=r"labels 0\.000% equal"):
        rungs.build_and_run("tensorrt", "fp16", 89)
