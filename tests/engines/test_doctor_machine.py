"""Probes of the machine: a driver that is made up, absent, without a device or silent; libraries that are unfit."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.doctor import ABSENT, BROKEN, gives, machine, shared_library, with_answers, with_gpu, with_library

from algm_trt.engines.doctor import probes
from algm_trt.engines.doctor.isolated import Answer, call
from algm_trt.engines.doctor.machine import PROBES, examine, free_memory_mib, library_fact, machine_facts
from algm_trt.plugins.build import sources_digest
from algm_trt.plugins.library import INTERFACE_VERSION, LIBRARY_NAME, LIBRARY_VARIABLE

DRIVER = """
#include <string.h>
#include <unistd.h>
#include <stddef.h>
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuInit(unsigned flags) { if (STATUS < 0) sleep(600); return STATUS; }
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int index) { *device = index; return 0; }
int cuDeviceGetName(char* name, int length, int device) {
  strncpy(name, device ? "NVIDIA B200" : "NVIDIA L4", length); return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)23034 << 20; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? (device ? 10 : 8) : (device ? 0 : 9); return 0;
}
"""
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make libraries up with")


def ask_driver(folder: Path, status: int, limit: float = 30.0) -> Answer:
    shared_library(folder, DRIVER.replace("STATUS", str(status)), "libcuda.so.1")
    return call(probes.driver, limit=limit, environment={"LD_LIBRARY_PATH": str(folder)})


@needs_cc
def test_gpus_as_the_driver_tells_them(tmp_path: Path) -> None:
    at = with_answers(machine(), driver=ask_driver(tmp_path, 0))
    assert [(gpu.name, gpu.capability, gpu.memory_mib) for gpu in at.gpus] == [
        ("NVIDIA L4", 89, 23034),
        ("NVIDIA B200", 100, 23034),
    ]
    facts = {fact.name: fact for fact in machine_facts(at)}
    assert facts["GPU 1"].value == "NVIDIA B200, compute capability 10.0, 23034 MiB"
    assert "serves CUDA up to 13.0" in facts["NVIDIA driver"].value


@needs_cc
def test_a_driver_without_a_device(tmp_path: Path) -> None:
    at = with_answers(machine(), driver=ask_driver(tmp_path, 100))
    assert at.gpus == []
    fact = next(fact for fact in machine_facts(at) if fact.name == "NVIDIA driver")
    assert fact.state == "broken"
    assert fact.value.endswith("it finds no GPU (error 100)")


@needs_cc
def test_a_driver_that_hangs_becomes_a_line(tmp_path: Path) -> None:
    answer = ask_driver(tmp_path, -1, limit=4.0)
    assert (answer.ok, answer.missing, answer.error) == (False, False, "no answer within 4 s")


@needs_cc
def test_a_driver_of_another_kind_becomes_a_line(tmp_path: Path) -> None:
    shared_library(tmp_path, "int nothing;", "libcuda.so.1")
    answer = call(probes.driver, environment={"LD_LIBRARY_PATH": str(tmp_path)})
    assert "undefined symbol: cuDriverGetVersion" in answer.error


def library_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said about a library that ALGM_PLUGINS_LIB names."""
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    found = examine().library
    assert not found.usable
    fact = library_fact(found)
    assert fact.state == "broken"
    return fact.value


@needs_cc
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("int algm_version(void) { return 0; }", "has interface 0, this package needs"),
        ("int other(void) { return 1; }", "undefined symbol: algm_version"),
        (
            "#include <stdlib.h>\n__attribute__((constructor)) void f(void) { abort(); }",
            f"{LIBRARY_NAME} cannot be loaded: the process was ended by SIGABRT",
        ),
    ],
)
def test_unfit_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    assert said in library_of(shared_library(tmp_path, source), monkeypatch)


def test_a_library_that_is_text_and_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LIBRARY_NAME).write_text("not a library")
    assert "cannot be loaded as the plugin library" in library_of(tmp_path / LIBRARY_NAME, monkeypatch)
    assert "there is no plugin library at" in library_of(tmp_path / "absent.so", monkeypatch)


def test_a_library_that_is_cut_off_is_named_and_so_is_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin_library: Path
) -> None:
    cut = tmp_path / LIBRARY_NAME
    cut.write_bytes(plugin_library.read_bytes()[:100_000])
    said = library_of(cut, monkeypatch)
    assert f"{cut} is not a complete ELF library" in said or f"{cut} cannot be loaded" in said


@needs_cc
@pytest.mark.parametrize(
    ("sources", "other"), [(None, True), ("of another release", True), ("", False), (sources_digest(), False)]
)
def test_a_library_of_other_sources_is_told_apart(tmp_path: Path, sources: str | None, other: bool) -> None:
    source = f"int algm_version(void) {{ return {INTERFACE_VERSION}; }}\n"
    if sources is not None:
        source += f'char const* algm_sources(void) {{ return "{sources}"; }}\n'
    answer = probes.plugin_library(str(shared_library(tmp_path, source)))
    assert answer == {"interface": INTERFACE_VERSION, "other_sources": other}


def test_other_sources_are_said_with_the_cure() -> None:
    fact = library_fact(replace(with_library(machine()).library, other_sources=True))
    assert fact.state == "ok"  # it loads
    assert fact.value.endswith("; built from other sources: run algm-build-plugins")


def test_a_library_that_fits(plugin_library: Path) -> None:
    fact = library_fact(examine().library)
    assert fact.state == "ok"
    assert str(plugin_library) in fact.value
    assert "sm_" in fact.value


def test_this_machine_answers_every_question() -> None:
    at = examine()
    assert set(at.answers) == set(PROBES)
    assert all(answer.ok or answer.error for answer in at.answers.values())
    assert at.answers["onnxruntime"].ok
    assert "CPUExecutionProvider" in at.providers
    names = [fact.name for fact in machine_facts(at)]
    for name in ("NVIDIA driver", "TensorRT", "TensorRT lean", "TensorRT-RTX", "onnxruntime", "openvino", "torch"):
        assert name in names


def test_a_system_that_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    assert set(examine().answers) == set(PROBES)


def test_absent_and_broken_are_told_apart() -> None:
    at = with_answers(with_library(with_gpu(machine())), tensorrt=BROKEN, openvino=ABSENT)
    states = {fact.name: fact.state for fact in machine_facts(at)}
    assert (states["TensorRT"], states["openvino"], states["plugin library"]) == ("broken", "absent", "ok")
    without_builder = with_answers(at, tensorrt=gives(version="10.9", module="tensorrt", builder=False))
    assert next(f.value for f in machine_facts(without_builder) if f.name == "TensorRT") == "10.9, without a builder"


def test_free_memory_is_plausible() -> None:
    free = free_memory_mib()
    assert free is None or 0 < free < 2**30
