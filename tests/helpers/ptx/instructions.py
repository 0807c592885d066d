"""The meaning of PTX instructions in C++, from the PTX ISA; an opcode that is not here is an error.

FORMS has those that compute a register from registers, one row each. The others, which touch memory or other threads
or change the flow, are below; machine.h has their functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from helpers.ptx.operands import Operands, c_type, list_of, unsigned
from helpers.ptx.syntax import TYPE_BYTES, Instruction, PtxError


@dataclass(frozen=True)
class Form:
    """Types of the result and of the sources, and the C++ expression in which {0} stands for the first source."""

    result: str
    sources: tuple[str, ...]
    expression: str
    converts: bool


FORMS: dict[str, Form] = {}


def _define(opcodes: str, types: str, expression: str, result: str = "{}", sources: str = "") -> None:
    """Adds opcodes, {} in them and in the types of result and sources being each of `types` in turn."""
    count = len(set(re.findall(r"\{\d\}", expression)))
    for type_ in types.split():
        for opcode in opcodes.format(*[type_] * opcodes.count("{}")).split():
            kinds = (sources or " ".join(["{}"] * count)).replace("{}", type_).split()
            FORMS[opcode] = Form(result.replace("{}", type_), tuple(kinds), expression, opcode.startswith("cvt."))


_define("add.{}", "s16 s32 s64", "{0} + {1}")
_define("sub.{}", "s16 s32 s64", "{0} - {1}")
_define("mul.lo.{}", "s16 s32 s64", "{0} * {1}")
_define("mad.lo.{}", "s32 s64", "{0} * {1} + {2}")
_define("mul.hi.u16", "u16", "uint32_t({0}) * {1} >> 16")
_define("mul.hi.s32", "s32", "int64_t({0}) * {1} >> 32")
_define("mul.wide.u16", "u16", "uint32_t({0}) * {1}", result="u32")
_define("mul.wide.s32", "s32", "int64_t({0}) * {1}", result="s64")
_define("mul.wide.u32", "u32", "uint64_t({0}) * {1}", result="u64")
_define("div.{}", "s32 u32", "thread.quotient({0}, {1})")
_define("rem.{}", "s32 u32", "{0} - thread.quotient({0}, {1}) * {1}")
_define("neg.{}", "s32", "-{0}")
_define("min.{}", "s32", "{0} < {1} ? {0} : {1}")
_define("max.{}", "s32 u32", "{0} < {1} ? {1} : {0}")

_define("and.{}", "b16 b32 b64 pred", "{0} & {1}")
_define("or.{}", "b16 b32 b64 pred", "{0} | {1}")
_define("xor.{}", "b16 b32 b64 pred", "{0} ^ {1}")
_define("not.{}", "b16 b32 b64", "~{0}")
_define("not.pred", "pred", "!{0}")
_define("shl.{}", "b16 b32 b64", "ptx::shiftLeft({0}, {1})", sources="{} u32")
_define("shr.{}", "u16 u32 u64 s32 s64", "ptx::shiftRight({0}, {1})", sources="{} u32")
_define("shf.r.wrap.b32", "b32", "uint32_t((uint64_t({1}) << 32 | {0}) >> ({2} & 31))")
_define("prmt.b32.f4e", "b32", "uint32_t((uint64_t({1}) << 32 | {0}) >> 8 * ({2} & 3))")
_define("popc.b32", "b32", "__builtin_popcount({0})")
_define("brev.b32", "b32", "ptx::reversed({0})")
_define("bfind.shiftamt.u32", "u32", "{0} == 0 ? ~0u : __builtin_clz({0})")
_define("bfi.b32", "b32", "ptx::inserted({0}, {1}, {2}, {3})", sources="b32 b32 u32 u32")

# Rounding to nearest is what an operation without .rn has too.
_define("add.{} add.rn.{}", "f32", "{0} + {1}")
_define("sub.{}", "f32", "{0} - {1}")
_define("mul.{} mul.rn.{}", "f32", "{0} * {1}")
_define("fma.rn.f32", "f32", "std::fma({0}, {1}, {2})")
_define("div.rn.f32", "f32", "{0} / {1}")
_define("rcp.rn.f32", "f32", "1.0f / {0}")
_define("sqrt.rn.f32", "f32", "std::sqrt({0})")
_define("min.f32", "f32", "ptx::smaller({0}, {1})")
_define("max.f32", "f32", "-ptx::smaller(-{0}, -{1})")
_define("abs.f32", "f32", "{0} & 0x7FFFFFFFu", result="b32", sources="b32")
_define("neg.f32", "f32", "{0} ^ 0x80000000u", result="b32", sources="b32")
_define("ex2.approx.f32", "f32", "std::exp2({0})")
_define("ex2.approx.ftz.f32", "f32", "ptx::flushed(std::exp2(ptx::flushed({0})))")

for _name, _operator in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    _INTEGERS = "s16 s32 s64 b16 b32 b64" if _name in ("eq", "ne") else "s32 s64"
    _define(f"setp.{_name}.{{}}", f"{_INTEGERS} u32", f"{{0}} {_operator} {{1}}", result="pred")
    _define(f"setp.{_name}.f32", "f32", f"!ptx::unordered({{0}}, {{1}}) && {{0}} {_operator} {{1}}", result="pred")
    _define(f"setp.{_name}u.f32", "f32", f"ptx::unordered({{0}}, {{1}}) || {{0}} {_operator} {{1}}", result="pred")
_define("setp.num.f32", "f32", "!ptx::unordered({0}, {1})", result="pred")
_define("setp.nan.f32", "f32", "ptx::unordered({0}, {1})", result="pred")
_define("selp.{}", "b16 u16 b32 u32 b64", "{2} ? {0} : {1}", sources="{} {} pred")
_define("selp.f32", "b32", "{2} ? {0} : {1}", sources="b32 b32 pred")

_define("cvt.s64.s32", "s32", "{0}", result="s64")
_define("cvt.u64.u32", "u32", "{0}", result="u64")
_define("cvt.u64.u16", "u16", "{0}", result="u64")
_define("cvt.u32.u64", "u64", "{0}", result="u32")
_define("cvt.u32.u16", "u16", "{0}", result="u32")
_define("cvt.u16.u32", "u32", "{0}", result="u16")
_define("cvt.u16.u8", "u8", "{0}", result="u16")
_define("cvt.s32.s8", "s8", "{0}", result="s32")
_define("cvt.rn.f32.s32", "s32", "float({0})", result="f32")
_define("cvt.rn.f32.u32", "u32", "float({0})", result="f32")
_define("cvt.f32.f16", "b16", "ptx::fromHalf({0})", result="f32")
_define("cvt.rn.f16.f32", "f32", "ptx::toHalf({0})", result="b16")
_define("cvt.rn.f16x2.f32", "f32", "uint32_t(ptx::toHalf({0})) << 16 | ptx::toHalf({1})", result="b32")

# In PTX, addresses in global memory are generic addresses.
_define("cvta.to.global.u64", "u64", "{0}")
_define("mov.{}", "pred b16 u16 b32 u32 s32 b64 u64", "{0}")
_define("mov.f32", "b32", "{0}")


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
    expression = form.expression.format(*values)
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
