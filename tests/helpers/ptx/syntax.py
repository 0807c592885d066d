"""PTX as nvcc writes it: the kernels of a file with their parameters, shared variables and statements.

What is not known here is an error: a directive that is skipped could change what the code means.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

TYPE_BYTES = {"pred": 0} | {f"{kind}{bits}": bits // 8 for bits in (8, 16, 32, 64) for kind in "busf"}


class PtxError(ValueError):
    """PTX that the translation does not know, or that is wrong."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")


@dataclass(frozen=True)
class Variable:
    """A parameter or a shared variable; `size` in bytes, None for dynamic shared memory."""

    name: str
    alignment: int
    size: int | None


@dataclass(frozen=True)
class Label:
    """A place to branch to."""

    name: str


@dataclass(frozen=True)
class Registers:
    """A declaration: `names` of one type, such as b32; name<n> stands for name0 to name(n-1)."""

    type: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Scope:
    """The begin or end of a block with registers of its own."""

    opens: bool


@dataclass(frozen=True)
class Instruction:
    """`@guard opcode operands;`. Operands are texts: registers, literals, addresses in [], lists in {}."""

    line: int
    guard: str
    opcode: str
    operands: tuple[str, ...]


Statement = Label | Registers | Scope | Instruction


@dataclass(frozen=True)
class Entry:
    """A kernel; `most_threads` of a block as __launch_bounds__ has it."""

    name: str
    parameters: tuple[Variable, ...]
    most_threads: int
    shared: tuple[Variable, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Module:
    """A file: its kernels, and the dynamic shared memory that they have in common."""

    dynamic_shared: tuple[Variable, ...]
    entries: tuple[Entry, ...]


class _Reader:
    """The text without comments, and how far it has been read."""

    def __init__(self, text: str) -> None:
        self.text = re.sub(r"//.*", "", text)
        self.at = 0
        self._line_ends = [found.start() for found in re.finditer("\n", self.text)]

    @property
    def line(self) -> int:
        return bisect_left(self._line_ends, self.at) + 1

    def take(self, pattern: str) -> re.Match[str] | None:
        """What comes next, behind white space, if it is like the pattern."""
        found = re.compile(rf"\s*(?:{pattern})").match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def need(self, pattern: str) -> re.Match[str]:
        found = self.take(pattern)
        if found is None:
            raise PtxError(self.line, f"not understood: {self.text[self.at :].strip()[:80]!r}")
        return found


_NAME = r"[\w$%]+"
_HEADER = r"\.version [\d.]+|\.target \w+|\.address_size 64"
_VARIABLE = rf"(?:\.align (\d+) )?\.(\w+) (?:\.ptr \.align \d+ )?({_NAME})(\[(\d*)\])?"


def parse(text: str) -> Module:
    """The module of a PTX file."""
    reader = _Reader(text)
    dynamic, entries = [], []
    while not reader.take(r"$"):
        if reader.take(_HEADER):
            continue
        if found := reader.take(rf"\.extern \.shared {_VARIABLE};"):
            dynamic.append(_variable(found))
        elif reader.take(r"(?:\.visible )?\.entry"):
            entries.append(_entry(reader))
        else:
            # Left over from CUDA's headers. An instruction that names one meets an unknown operand.
            reader.need(rf"\.global {_VARIABLE};")
    return Module(tuple(dynamic), tuple(entries))


def _variable(found: re.Match[str]) -> Variable:
    alignment, type_, name, is_array, count = found.groups()
    size = TYPE_BYTES[type_] * (int(count or 0) if is_array else 1)
    return Variable(name, int(alignment or TYPE_BYTES[type_]), None if is_array and not count else size)


def _entry(reader: _Reader) -> Entry:
    name = reader.need(rf"({_NAME})\(")[1]
    parameters = []
    while not reader.take(r"\)"):
        parameters.append(_variable(reader.need(rf"\.param {_VARIABLE},?")))
    most_threads = 1024
    while not reader.take(r"\{"):
        if bounds := reader.take(r"\.maxntid (\d+)(?:, (\d+), (\d+))?"):
            most_threads = int(bounds[1]) * int(bounds[2] or 1) * int(bounds[3] or 1)
        else:
            reader.need(r"\.minnctapersm \d+")
    shared: list[Variable] = []
    statements = tuple(_statements(reader, shared))
    return Entry(name, tuple(parameters), most_threads, tuple(shared), statements)


def _statements(reader: _Reader, shared: list[Variable]) -> Iterator[Statement]:
    """The statements of a body; shared variables are added to `shared`."""
    depth = 0
    while depth >= 0:
        if reader.take(r"\{"):
            depth += 1
            yield Scope(opens=True)
        elif reader.take(r"\}"):
            depth -= 1
            if depth >= 0:
                yield Scope(opens=False)
        elif found := reader.take(r"\.reg \.(\w+)\s+([\w%<>, ]+);"):
            yield Registers(found[1], tuple(re.split(r"\s*,\s*", found[2].strip())))
        elif found := reader.take(rf"\.shared {_VARIABLE};"):
            shared.append(_variable(found))
        elif reader.take(r'\.pragma "nounroll";'):
            pass  # about speed only
        elif reader.take(r'\.pragma "used_bytes_mask \d+";'):
            pass  # which bytes of the next vector load are looked at; the others may be loaded
        elif found := reader.take(rf"({_NAME}):"):
            yield Label(found[1])
        else:
            found = reader.need(r"(?:@(!?[%\w]+)\s+)?([a-z][\w.]*)\b\s*([^;]*);")
            yield Instruction(reader.line, found[1] or "", found[2], _operands(found[3]))


def _operands(text: str) -> tuple[str, ...]:
    """The operands, divided at commas outside of lists."""
    parts = re.findall(r"(?:\{[^}]*\}|[^,{])+", text)
    return tuple(re.sub(r"\s", "", part) for part in parts)
