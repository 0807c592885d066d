"""The kernels of a CUDA file as nvcc compiled them, in C++: behind the file itself, whose launches then start them."""

from __future__ import annotations

import subprocess

from helpers.ptx.instructions import label, translate
from helpers.ptx.operands import Operands
from helpers.ptx.syntax import Entry, Instruction, Label, Module, Registers, Scope


def translation(source: str, module: Module) -> str:
    """A C++ file of the CUDA file `source`, as an #include finds it, and its kernels."""
    functions = _functions([entry.name for entry in module.entries])
    parts = [f'#include "{source}"', '#include "machine.h"', "", "namespace {", ""]
    for place, (entry, function) in enumerate(zip(module.entries, functions, strict=True)):
        parts += _kernel(f"kernel{place}", function, entry, module)
    return "\n".join([*parts, "}  // namespace", ""])


def _functions(names: list[str]) -> list[str]:
    """Kernels as C++ names them, from the names that the linker knows."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    functions = []
    for signature in done.stdout.splitlines()[: len(names)]:
        name = signature.replace("(anonymous namespace)::", "").partition("(")[0]
        functions.append(name.removeprefix("void "))
    return functions


def _kernel(name: str, function: str, entry: Entry, module: Module) -> list[str]:
    operands = Operands(entry, module.dynamic_shared)
    lines = [f"void {name}(const ptx::Launch& launch) {{", "  ptx::Thread thread(launch);"]
    for statement in entry.statements:
        match statement:
            case Label(target):
                lines.append(f"{label(target)}:;")
            case Registers():
                lines.append(f"  {operands.declare(statement)}")
            case Scope(opens=True):
                operands.open_scope()
                lines.append("  {")
            case Scope():
                operands.close_scope()
                lines.append("  }")
            case Instruction():
                lines.append(f"  {translate(statement, operands)}")
    sizes = ", ".join(str(parameter.size) for parameter in entry.parameters)
    shared = f"{operands.static_bytes}, {operands.dynamic_offset}"
    kernel = f'{{"{function}", {name}, {entry.most_threads}, {shared}, {{{sizes}}}}}'
    return [*lines, "}", f"const ptx::Registration {name}Registration({function}, {kernel});", ""]
