"""Architectures of a library, read from the file: made-up ELF files, damaged ones, and the plugin library itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from algm_trt.engines.doctor.fatbin import Architectures, FatbinError, architectures

PTX, MACHINE_CODE, OTHER = 1, 2, 9


def container(*entries: tuple[int, int, int]) -> bytes:
    """A container of (kind, capability, bytes of code)."""
    body = b"".join(
        struct.pack("<HHIQIIII", kind, 0, 64, size, 0, 0, 0, capability) + bytes(64 - 32 + size)
        for kind, capability, size in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def elf(section: bytes | None) -> bytes:
    """A 64-bit ELF file with a section of names and, if given, `.nv_fatbin`."""
    names = b"\0.names\0.nv_fatbin\0"
    section_bytes = section or b""
    at = 64 + len(names)
    headers = [struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    headers.append(struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, len(names), 0, 0, 1, 0))
    if section is not None:
        headers.append(struct.pack("<IIQQQQIIQQ", 8, 1, 0, 0, at, len(section_bytes), 0, 0, 8, 0))
    header = (
        b"\x7fELF\x02\x01"
        + bytes(10)
        + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, at + len(section_bytes), 0, 64, 0, 0, 64, len(headers), 1)
    )
    return header + names + section_bytes + b"".join(headers)


def test_entries_of_all_containers_count(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    first = container((MACHINE_CODE, 80, 40), (MACHINE_CODE, 120, 8), (PTX, 120, 24))
    library.write_bytes(elf(first + bytes(24) + container((MACHINE_CODE, 89, 16), (OTHER, 75, 8))))
    assert architectures(library) == Architectures(binary=(80, 89, 120), ptx=(120,))


def test_a_library_without_device_code(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(elf(None))
    assert architectures(library) == Architectures((), ())
    assert str(architectures(library)) == "no machine code"


@pytest.mark.parametrize("length", [0, 3, 16, 63, 70, 120])
def test_a_damaged_library_is_named(tmp_path: Path, length: int) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(elf(container((MACHINE_CODE, 80, 40)))[:length])
    with pytest.raises(FatbinError, match=r"library.so is not a complete ELF library"):
        architectures(library)


def test_a_container_of_no_size_comes_to_an_end(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(elf(struct.pack("<IHHQ", 0xBA55ED50, 1, 0, 0) + bytes(16)))
    with pytest.raises(FatbinError, match="a container of no size"):
        architectures(library)


def test_text_and_32_bit_libraries_are_refused(tmp_path: Path) -> None:
    for content in (b"not a library", b"\x7fELF\x01\x01" + bytes(80)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(FatbinError):
            architectures(tmp_path / "x")


@pytest.mark.parametrize(
    ("capability", "served"), [(75, False), (80, True), (86, True), (87, True), (89, True), (90, True), (120, True)]
)
def test_which_gpus_are_served(capability: int, served: bool) -> None:
    assert Architectures(binary=(80, 86), ptx=(86,)).serves(capability) is served


def test_machine_code_does_not_serve_older_or_other_generations() -> None:
    without_ptx = Architectures(binary=(86, 90), ptx=())
    assert [number for number in (80, 86, 89, 90, 100, 120) if without_ptx.serves(number)] == [86, 89, 90]


@pytest.mark.parametrize("tegra", [87, 101, 110])
def test_machine_code_is_not_shared_with_tegra(tegra: int) -> None:
    others = Architectures(binary=(80, 86, 100), ptx=())
    assert not others.serves(tegra)
    assert Architectures(others.binary, ptx=(80,)).serves(tegra)
    assert not Architectures(others.binary, ptx=(80,)).runs_as_it_is(tegra)
    own = Architectures(binary=(tegra,), ptx=())
    assert own.runs_as_it_is(tegra)
    assert not any(own.serves(number) for number in (89, 103))


def test_a_later_gpu_of_a_generation_runs_its_code_as_it_is() -> None:
    """GB300 that of B200, GB10 that of the RTX 50 series; GH200 has the number of the H100."""
    shipped = Architectures(binary=(80, 86, 89, 90, 100, 120), ptx=(80,))
    assert all(shipped.runs_as_it_is(number) for number in (80, 86, 89, 90, 100, 103, 120, 121))
    assert [number for number in (87, 101, 110, 130) if not shipped.runs_as_it_is(number)] == [87, 101, 110, 130]
    assert all(shipped.serves(number) for number in (87, 101, 110, 130))


def test_architectures_of_the_plugin_library_are_read(plugin_library: Path) -> None:
    found = architectures(plugin_library)
    assert found.binary
    assert found.ptx == (min(found.binary),)
    assert str(found).startswith(f"sm_{found.binary[0]}")
