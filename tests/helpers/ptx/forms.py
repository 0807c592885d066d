"""The instructions that compute a register from registers, one row each: what they mean in C++, from the PTX ISA.

arithmetic.h has the functions of these expressions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """An opcode: what it computes and from what.

    Attributes:
        result: PTX type of the target.
        sources: those of the sources.
        expression: in C++; {0} stands for the first source, {line} for that of the instruction.
        converts: whether registers may be wider than the types say.
    """

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
_define("div.{}", "s32 u32", "thread.quotient({0}, {1}, {line})")
_define("rem.{}", "s32 u32", "{0} - thread.quotient({0}, {1}, {line}) * {1}")
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
