"""PTX instructions as C++ statements: those of forms.py, and those that touch memory or other threads or branch.

An opcode that is in neither is an error. machine.h has the functions that the statements call.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from helpers.ptx.forms import FORMS, Form
from helpers.ptx.operands import Operands, c_type, list_of, unsigned
from helpers.ptx.syntax import TYPE_BYTES, Instruction, PtxError


def translate(at: Instruction, operands: Operands) -> str:
    """The C++ statement of an instruction."""
    statement = _statement(at, operands)
    if not at.guard:
        return statement
    negated = at.guard.startswith("!")
    condition = operands.value(at, at.guard.removeprefix("!"), "pred")
    return f"if ({'!' if negated else ''}{condition}) {{ {statement} }}"


def _statement(at: Instruction, operands: Operands) -> str:
    if at.opcode in _HALVES and any(operand.startswith("{") for operand in at.operands):
        return _move_halves(at, operands)
    if form := FORMS.get(at.opcode):
        return _compute(at, operands, form)
    for pattern, write in _OTHERS.items():
        if found := re.fullmatch(pattern, at.opcode):
            return write(at, operands, found)
    raise PtxError(at.line, f"unknown instruction {at.opcode}")


def _compute(at: Instruction, operands: Operands, form: Form) -> str:
    _check_count(at, 1 + len(form.sources))
    values = [
        operands.value(at, operand, type_, wider=form.converts)
        for operand, type_ in zip(at.operands[1:], form.sources, strict=True)
    ]
    expression = form.expression.format(*values, line=at.line)
    return operands.assign(at, at.operands[0], form.result, expression, wider=form.converts)


_HALVES = {"mov.b32": ("b32", "b16"), "mov.b64": ("b64", "b32")}


def _move_halves(at: Instruction, operands: Operands) -> str:
    """Two registers into one of twice the width or the other way; the lower half comes first, _ is dropped."""
    _check_count(at, 2)
    whole, half = _HALVES[at.opcode]
    width = 8 * TYPE_BYTES[half]
    target, source = (list_of(operand) for operand in at.operands)
    if sorted((len(target), len(source))) != [1, 2]:
        raise PtxError(at.line, "two halves and one whole are needed")
    if len(source) == 2:
        low, high = (operands.bits(at, register, half) for register in source)
        return operands.assign(at, target[0], whole, f"{low} | {unsigned(whole)}({high}) << {width}")
    value = operands.bits(at, source[0], whole)
    halves = zip(target, (value, f"{value} >> {width}"), strict=True)
    return " ".join(operands.assign(at, register, half, part) for register, part in halves if register != "_")


Write = Callable[[Instruction, Operands, "re.Match[str]"], str]


def _branch(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    if found[1] and at.guard:
        raise PtxError(at.line, "a branch that no thread may take alone has a condition")
    return f"goto {label(at.operands[0])};"


def label(name: str) -> str:
    """The C++ label."""
    return name.replace("$", "")


def _return(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 0)
    return "return;"


def _load(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    space, vector, type_ = found.groups()
    targets = list_of(at.operands[0])
    count = int(vector or 1)
    if len(targets) != count:
        raise PtxError(at.line, f"{len(targets)} targets of {at.opcode}")
    if space == "param":
        place, offset = operands.parameter(at, at.operands[1], count * TYPE_BYTES[type_])
        source = f"thread.loadParameter<{unsigned(type_)}, {count}>({place}, {offset})"
    else:
        address = operands.address(at, at.operands[1], space.partition(".")[0])
        function = {"shared": "loadShared", "global": "loadGlobal", "global.nc": "loadReadOnly"}[space]
        source = f"thread.{function}<{unsigned(type_)}, {count}>({address}, {at.line})"
    # A register that is wider than what is loaded gets its sign or zeros.
    kind = f"b{8 * TYPE_BYTES[type_]}" if type_.startswith("f") else type_
    return _take(at, operands, targets, kind, source, wider=vector is None)


def _take(
    at: Instruction, operands: Operands, targets: list[str], type_: str, vector: str, *, wider: bool = False
) -> str:
    """Registers set to the elements of a C++ expression of type Vector."""
    parts = [
        operands.assign(at, target, type_, f"vector.values[{place}]", wider=wider)
        for place, target in enumerate(targets)
    ]
    return f"{{ const auto vector = {vector}; {' '.join(parts)} }}"


def _store(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    space, vector, type_ = found.groups()
    sources = list_of(at.operands[1])
    count = int(vector or 1)
    if len(sources) != count:
        raise PtxError(at.line, f"{len(sources)} sources of {at.opcode}")
    address = operands.address(at, at.operands[0], space)
    kind = f"b{8 * TYPE_BYTES[type_]}"
    values = [operands.bits(at, source, kind, wider=vector is None) for source in sources]
    function = {"shared": "storeShared", "global": "storeGlobal"}[space]
    return f"thread.{function}<{c_type(kind)}, {count}>({address}, {{{{{', '.join(values)}}}}}, {at.line});"


def _copy_async(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 4)
    target, source, size, source_size = at.operands
    if size != "16":
        raise PtxError(at.line, "cp.async.cg copies 16 bytes")
    to, origin = operands.address(at, target, "shared"), operands.address(at, source, "global")
    return f"thread.copyAsync({to}, {origin}, {operands.value(at, source_size, 'u32')}, {at.line});"


def _wait_copies(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 1)
    return f"thread.waitCopies({int(at.operands[0])});"


def _load_matrices(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 2)
    targets = list_of(at.operands[0])
    if len(targets) != 4:
        raise PtxError(at.line, "four matrices need four registers")
    address = operands.address(at, at.operands[1], "shared")
    return _take(
        at, operands, targets, "b32", f"thread.loadMatrices({address}, {'true' if found[1] else 'false'}, {at.line})"
    )


def _multiply_add(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 4)
    lists = [list_of(operand) for operand in at.operands]
    if [len(registers) for registers in lists] != [4, 4, 2, 4]:
        raise PtxError(at.line, "fragments of other sizes than m16n8k16 has")
    a, b, c = (", ".join(operands.bits(at, register, "b32") for register in registers) for registers in lists[1:])
    return _take(at, operands, lists[0], "b32", f"thread.multiplyAdd({{{a}}}, {{{b}}}, {{{c}}}, {at.line})")


def _shuffle(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 5)
    target, _, inside = at.operands[0].partition("|")
    arguments = [operands.bits(at, operand, "b32") for operand in at.operands[1:]]
    call = f"const auto shuffled = thread.shuffle(ptx::kShuffle_{found[1]}, {', '.join(arguments)}, {at.line});"
    statements = [call, operands.assign(at, target, "b32", "shuffled.value")]
    if inside:
        statements.append(operands.assign(at, inside, "pred", "shuffled.inside"))
    return f"{{ {' '.join(statements)} }}"


def _ballot(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 3)
    vote, mask = operands.value(at, at.operands[1], "pred"), operands.bits(at, at.operands[2], "b32")
    return operands.assign(at, at.operands[0], "b32", f"thread.ballot({vote}, {mask}, {at.line})")


def _barrier(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    if at.operands != ("0",):
        raise PtxError(at.line, "a barrier other than that of all threads")
    return f"thread.barrier({at.line});"


def _barrier_and(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    if len(at.operands) != 3 or at.operands[1] != "0":
        raise PtxError(at.line, "a barrier other than that of all threads")
    negated = at.operands[2].startswith("!")
    vote = operands.value(at, at.operands[2].removeprefix("!"), "pred")
    agree = f"thread.barrierAnd({'!' if negated else ''}{vote}, {at.line})"
    return operands.assign(at, at.operands[0], "pred", agree)


def _warp_barrier(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 1)
    return f"thread.warpBarrier({operands.bits(at, at.operands[0], 'b32')}, {at.line});"


def _commit_copies(at: Instruction, operands: Operands, found: re.Match[str]) -> str:
    _check_count(at, 0)
    return "thread.commitCopies();"


_OTHERS: dict[str, Write] = {
    r"bra(\.uni)?": _branch,
    r"ret": _return,
    r"ld\.(param|shared|global|global\.nc)(?:\.v([24]))?\.([busf](?:8|16|32|64))": _load,
    r"st\.(shared|global)(?:\.v([24]))?\.([busf](?:8|16|32|64))": _store,
    r"cp\.async\.cg\.shared\.global": _copy_async,
    r"cp\.async\.commit_group": _commit_copies,
    r"cp\.async\.wait_group": _wait_copies,
    r"ldmatrix\.sync\.aligned\.m8n8\.x4(\.trans)?\.shared\.b16": _load_matrices,
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32": _multiply_add,
    r"shfl\.sync\.(up|down|bfly|idx)\.b32": _shuffle,
    r"vote\.sync\.ballot\.b32": _ballot,
    r"bar\.sync": _barrier,
    r"bar\.red\.and\.pred": _barrier_and,
    r"bar\.warp\.sync": _warp_barrier,
}


def _check_count(at: Instruction, count: int) -> None:
    if len(at.operands) != count:
        raise PtxError(at.line, f"{at.opcode} with {len(at.operands)} operands")
