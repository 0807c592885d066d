"""Operands of PTX instructions as C++: registers, literals, special registers and addresses.

A register is an unsigned integer of its width, a predicate a bool: what an instruction takes a register for is its own
affair. Widths are checked as the PTX ISA has them, since an operand of another width would be another program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from helpers.ptx.syntax import TYPE_BYTES, Entry, Instruction, PtxError, Registers, Variable

_C_TYPES = {"pred": "bool", "f32": "float"}
_C_TYPES |= {f"{kind}{bits}": f"uint{bits}_t" for bits in (8, 16, 32, 64) for kind in "bu"}
_C_TYPES |= {f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)}
_SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {"%laneid"}


def c_type(type_: str) -> str:
    """The C++ type of values of a PTX type."""
    return _C_TYPES[type_]


def unsigned(type_: str) -> str:
    """The C++ type of registers as wide as a PTX type."""
    return "bool" if type_ == "pred" else f"uint{8 * TYPE_BYTES[type_]}_t"


class Operands:
    """The names that a kernel's instructions may use.

    Attributes:
        static_bytes: of shared memory; the dynamic part, at `dynamic_offset`, comes behind.
    """

    def __init__(self, entry: Entry, dynamic_shared: Sequence[Variable]) -> None:
        self._parameters = {variable.name: (place, variable) for place, variable in enumerate(entry.parameters)}
        self._scopes: list[dict[str, str]] = [{}]
        self._shared: dict[str, int] = {}
        self.static_bytes = 0
        for variable in entry.shared:
            assert variable.size is not None
            self._shared[variable.name] = -(-self.static_bytes // variable.alignment) * variable.alignment
            self.static_bytes = self._shared[variable.name] + variable.size
        alignment = max((variable.alignment for variable in dynamic_shared), default=1)
        self.dynamic_offset = -(-self.static_bytes // alignment) * alignment
        self._shared |= dict.fromkeys((variable.name for variable in dynamic_shared), self.dynamic_offset)

    def open_scope(self) -> None:
        self._scopes.append({})

    def close_scope(self) -> None:
        self._scopes.pop()

    def declare(self, registers: Registers) -> str:
        """The C++ declaration. What an instruction reads before it is written is NaN, or all ones."""
        names = []
        for name in registers.names:
            stem, _, count = name.removesuffix(">").partition("<")
            names += [f"{stem}{i}" for i in range(int(count))] if count else [name]
        self._scopes[-1] |= dict.fromkeys(names, registers.type)
        type_ = unsigned(registers.type)
        return f"{type_} {', '.join(f'{_identifier(name)} = {type_}(-1)' for name in names)};"

    def assign(self, at: Instruction, operand: str, type_: str, expression: str, *, wider: bool = False) -> str:
        """The C++ statement that sets a register to a value of a type, extended as the type's sign says."""
        self._check_width(at, operand, type_, wider=wider)
        value = f"ptx::number({expression})" if type_ == "f32" else f"{c_type(type_)}({expression})"
        return f"{_identifier(operand)} = {unsigned(self._register(at, operand))}({value});"

    def bits(self, at: Instruction, operand: str, type_: str, *, wider: bool = False) -> str:
        """An operand as an unsigned integer of the type's width."""
        if operand in _SPECIAL and TYPE_BYTES[type_] == 4:
            name, _, axis = operand[1:].partition(".")
            return f"thread.{name}().{axis}" if axis else f"thread.{name}()"
        if operand in self._shared and TYPE_BYTES[type_] == 4:
            return f"ptx::kSharedBegin + {self._shared[operand]}"
        if re.fullmatch(r"-?\d+|0[xX][\da-fA-F]+", operand) and type_ != "f32":
            if type_ == "pred":
                return "true" if int(operand, 0) else "false"
            return f"{unsigned(type_)}({int(operand, 0) % 2 ** (8 * TYPE_BYTES[type_]):#x}u)"
        if re.fullmatch(r"0[fF][\da-fA-F]{8}", operand) and type_ in ("f32", "b32"):
            return f"0x{operand[2:]}u"
        self._check_width(at, operand, type_, wider=wider)
        return f"{unsigned(type_)}({_identifier(operand)})" if wider else _identifier(operand)

    def value(self, at: Instruction, operand: str, type_: str, *, wider: bool = False) -> str:
        """An operand as a C++ value of the type."""
        bits = self.bits(at, operand, type_, wider=wider)
        return f"ptx::real({bits})" if type_ == "f32" else f"{c_type(type_)}({bits})"

    def address(self, at: Instruction, operand: str, space: str) -> str:
        """The address in `[register]`, `[register+offset]`, `[variable+offset]`."""
        found = re.fullmatch(r"\[([\w$%]+)(?:\+(-?\d+))?\]", operand)
        if found is None:
            raise PtxError(at.line, f"no address: {operand}")
        base = self.bits(at, found[1], "b64" if space == "global" else "b32")
        return f"{base} + {found[2]}" if found[2] else base

    def parameter(self, at: Instruction, operand: str, size: int) -> tuple[int, int]:
        """Of `[parameter+offset]`: which parameter, and where in it `size` bytes lie."""
        found = re.fullmatch(r"\[([\w$]+)(?:\+(\d+))?\]", operand)
        if found is None or found[1] not in self._parameters:
            raise PtxError(at.line, f"no parameter: {operand}")
        place, variable = self._parameters[found[1]]
        offset = int(found[2] or 0)
        if offset % size or offset + size > (variable.size or 0):
            raise PtxError(at.line, f"{size} bytes at {operand}: misaligned, or outside of the parameter")
        return place, offset

    def _register(self, at: Instruction, name: str) -> str:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise PtxError(at.line, f"{at.opcode}: unknown operand {name}")

    def _check_width(self, at: Instruction, name: str, type_: str, *, wider: bool) -> None:
        has, needs = TYPE_BYTES[self._register(at, name)], TYPE_BYTES[type_]
        if not (has > needs > 0 if wider and has != needs else has == needs):
            raise PtxError(at.line, f"{at.opcode}: {name} is not as wide as {type_}")


def list_of(operand: str) -> list[str]:
    """The operands in {}; one that stands alone is a list of one."""
    return operand[1:-1].split(",") if operand.startswith("{") else [operand]


def _identifier(name: str) -> str:
    return name.replace("%", "_")
