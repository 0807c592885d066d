"""Which GPUs a compiled library has code for, read from the file: no CUDA tool is needed.

nvcc puts its code into the ELF section `.nv_fatbin`: containers, each a header and entries that name a kind (PTX text
or machine code) and a compute capability. The layout is not documented by NVIDIA; what is read here was compared with
what nvcc was told to build for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from algm_trt.plugins.errors import AlgmError

_SECTION: Final = b".nv_fatbin"
_MAGIC: Final = 0xBA55ED50
_PTX, _MACHINE_CODE = 1, 2
_TEGRA: Final = (87, 101, 110)
"""Jetson and DRIVE: Orin, and Thor by its number in CUDA 12 and 13. NVIDIA promises that machine code runs on later
devices of its generation for other GPUs only, and not between those and these."""


class FatbinError(AlgmError):
    """A file that is not a 64-bit ELF library, or a damaged one."""


@dataclass(frozen=True)
class Architectures:
    """Compute capabilities such as 89 or 120.

    Attributes:
        binary: with machine code.
        ptx: with PTX, which newer GPUs can compile for themselves.
    """

    binary: tuple[int, ...]
    ptx: tuple[int, ...]

    def serves(self, capability: int) -> bool:
        """Whether a GPU can run the code: machine code for it, or older PTX."""
        return self.runs_as_it_is(capability) or any(number <= capability for number in self.ptx)

    def runs_as_it_is(self, capability: int) -> bool:
        """Whether there is machine code for a GPU: of its generation and not newer than it, on a Tegra its own."""
        if capability in _TEGRA:
            return capability in self.binary
        same = [number for number in self.binary if number // 10 == capability // 10 and number <= capability]
        return any(number not in _TEGRA for number in same)

    def __str__(self) -> str:
        machine_code = ", ".join(f"sm_{number}" for number in self.binary) or "no machine code"
        return f"{machine_code}, PTX of {', '.join(map(str, self.ptx))}" if self.ptx else machine_code


def architectures(library: Path) -> Architectures:
    """What a library was compiled for.

    Raises:
        FatbinError: it is not a library, or its code cannot be read.
        OSError: the file cannot be read.
    """
    try:
        found = set(_entries(_section(library.read_bytes())))
    except (struct.error, IndexError, ValueError) as error:
        raise FatbinError(f"{library} is not a complete ELF library ({error})") from error
    numbers = {kind: tuple(sorted(number for k, number in found if k == kind)) for kind in (_PTX, _MACHINE_CODE)}
    return Architectures(binary=numbers[_MACHINE_CODE], ptx=numbers[_PTX])


def _section(data: bytes) -> bytes:
    """The contents of `.nv_fatbin`; empty if there is none.

    Raises:
        ValueError: no 64-bit little-endian ELF file.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it does not begin as one")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names_index = struct.unpack_from("<HHH", data, 58)

    def header(index: int) -> tuple[int, int, int]:
        name, _, _, _, offset, length = struct.unpack_from("<IIQQQQ", data, table + index * size)
        return name, offset, length

    names_at = header(names_index)[1]
    for index in range(count):
        name, offset, length = header(index)
        begin = names_at + name
        if data[begin : data.index(b"\0", begin)] == _SECTION:
            if offset + length > len(data):
                raise ValueError("it is cut off")
            return data[offset : offset + length]
    return b""


def _entries(section: bytes) -> Iterator[tuple[int, int]]:
    """(kind, compute capability) of every entry of every container."""
    at = 0
    while at + 16 <= len(section):
        magic, _, header, size = struct.unpack_from("<IHHQ", section, at)
        if magic != _MAGIC:
            at += 8  # containers are aligned; between them is padding
            continue
        entry, end = at + header, at + header + size
        if end == at:
            raise ValueError("a container of no size")
        while entry < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", section, entry)
            (capability,) = struct.unpack_from("<I", section, entry + 28)
            if kind in (_PTX, _MACHINE_CODE):
                yield kind, capability
            if entry_header + entry_size == 0:
                raise ValueError("an entry of no size")
            entry += entry_header + entry_size
        at = end
