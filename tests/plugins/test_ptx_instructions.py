"""The translation of PTX (helpers/ptx) on small kernels whose results the PTX ISA says, and on PTX that is wrong."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.kernels import Array
from helpers.ptx.library import compile_translated, link_translated
from helpers.ptx.syntax import PtxError, parse
from helpers.ptx.translation import translation

NAN, INFINITY = 0x7FFFFFFF, 0x7F800000
SIGN = 0x80000000


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


# Instructions, what is in %r1, %r2, ... before them, and in %r0 after them.
SINGLE: list[tuple[str, tuple[int, ...], int]] = [
    ("add.s32 %r0, %r1, %r2;", (0x7FFFFFFF, 1), SIGN),
    ("sub.s32 %r0, %r1, %r2;", (3, 5), -2),
    ("neg.s32 %r0, %r1;", (5,), -5),
    ("mul.lo.s32 %r0, %r1, %r2;", (0x10001, 0x10001), 0x20001),
    ("mul.hi.s32 %r0, %r1, %r2;", (0x40000000, -8), -2),
    ("mul.wide.s32 %rd3, %r1, %r2; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r0, %rd3;", (-2, 3), -1),
    ("mul.wide.u32 %rd3, %r1, %r2; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r0, %rd3;", (-2, 3), 2),
    ("mad.lo.s32 %r0, %r1, %r2, %r3;", (-3, 7, 1), -20),
    ("div.s32 %r0, %r1, %r2;", (-7, 2), -3),
    ("rem.s32 %r0, %r1, %r2;", (-7, 2), -1),
    ("div.u32 %r0, %r1, %r2;", (-8, 2), 0x7FFFFFFC),
    ("min.s32 %r0, %r1, %r2;", (-1, 1), -1),
    ("max.u32 %r0, %r1, %r2;", (-1, 1), -1),
    ("shl.b32 %r0, %r1, %r2;", (3, 31), SIGN),
    ("shl.b32 %r0, %r1, %r2;", (3, 32), 0),
    ("shr.s32 %r0, %r1, %r2;", (-16, 2), -4),
    ("shr.s32 %r0, %r1, %r2;", (-16, 40), -1),
    ("shr.u32 %r0, %r1, %r2;", (-16, 40), 0),
    ("shf.r.wrap.b32 %r0, %r1, %r2, %r3;", (0x12345678, 0x9ABCDEF0, 36), 0x01234567),
    ("popc.b32 %r0, %r1;", (0xF0F0,), 8),
    ("brev.b32 %r0, %r1;", (6,), 0x60000000),
    ("bfind.shiftamt.u32 %r0, %r1;", (0x10000,), 15),
    ("bfind.shiftamt.u32 %r0, %r1;", (0,), -1),
    ("bfi.b32 %r0, %r1, %r2, 4, 8;", (0xF0F, 0xFFFFFFFF), 0xFFFFF0FF),
    ("not.b32 %r0, %r1;", (0xFF,), 0xFFFFFF00),
    ("cvt.s32.s8 %r0, %r1;", (0x17F80,), -128),
    ("cvt.s64.s32 %rd3, %r1; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r0, %rd3;", (-1,), -1),
    ("cvt.u64.u32 %rd3, %r1; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r0, %rd3;", (-1,), 0),
    ("cvt.rn.f32.s32 %r0, %r1;", (-16777217,), bits(-16777216)),
    ("cvt.rn.f32.u32 %r0, %r1;", (-1,), bits(2**32)),
    ("mov.b32 {%rs1, %rs2}, %r1; mov.b32 %r0, {%rs2, %rs1};", (0x12345678,), 0x56781234),
    ("mov.b64 %rd3, {%r1, %r2}; mov.b64 {_, %r0}, %rd3;", (5, 6), 6),
    ("prmt.b32.f4e %r0, %r1, %r2, %r3;", (0x33221100, 0x77665544, 3), 0x66554433),
    ("{ .reg .b32 %r1; mov.b32 %r1, 7; } mov.b32 %r0, %r1;", (5,), 5),
    ("setp.lt.s32 %p1, %r1, %r2; selp.b32 %r0, %r1, %r2, %p1;", (-1, 1), -1),
    ("setp.lt.u32 %p1, %r1, %r2; selp.b32 %r0, %r1, %r2, %p1;", (-1, 1), 1),
    ("mov.b32 %r0, 1; setp.eq.s32 %p1, %r1, 3; @!%p1 mov.b32 %r0, 2;", (3,), 1),
    ("mov.b32 %r0, 1; setp.eq.s32 %p1, %r1, 3; @%p1 mov.b32 %r0, 2;", (3,), 2),
    # Rounded once; a product and a sum would be 0.
    ("fma.rn.f32 %r0, %r1, %r1, %r2;", (bits(1 + 2**-12), bits(-1 - 2**-11)), bits(2**-24)),
    ("add.f32 %r0, %r1, %r2;", (INFINITY, SIGN | INFINITY), NAN),
    ("mul.f32 %r0, %r1, %r2;", (bits(2**-100), bits(2**-49)), 1),  # no flush to zero
    ("div.rn.f32 %r0, %r1, %r2;", (bits(1), bits(3)), 0x3EAAAAAB),
    ("rcp.rn.f32 %r0, %r1;", (bits(3),), 0x3EAAAAAB),
    ("sqrt.rn.f32 %r0, %r1;", (bits(2),), 0x3FB504F3),
    ("sqrt.rn.f32 %r0, %r1;", (bits(-1),), NAN),
    ("max.f32 %r0, %r1, %r2;", (NAN, bits(-2)), bits(-2)),
    ("min.f32 %r0, %r1, %r2;", (bits(-2), NAN), bits(-2)),
    ("max.f32 %r0, %r1, %r2;", (0x7FC00001, 0xFFC00000), NAN),
    ("max.f32 %r0, %r1, %r2;", (SIGN, 0), 0),
    ("max.f32 %r0, %r1, %r2;", (0, SIGN), 0),
    ("min.f32 %r0, %r1, %r2;", (0, SIGN), SIGN),
    ("neg.f32 %r0, %r1;", (0,), SIGN),
    ("abs.f32 %r0, %r1;", (bits(-2.5),), bits(2.5)),
    ("ex2.approx.ftz.f32 %r0, %r1;", (bits(-130),), 0),
    ("ex2.approx.f32 %r0, %r1;", (bits(-130),), 1 << 19),
    ("ex2.approx.ftz.f32 %r0, %r1;", (SIGN | INFINITY,), 0),
    ("ex2.approx.ftz.f32 %r0, %r1;", (bits(-3),), bits(0.125)),
    ("cvt.rn.f16x2.f32 %r0, %r1, %r2;", (bits(1), bits(2)), 0x3C004000),
    *(
        (f"setp.{name}.f32 %p1, %r1, %r2; selp.u32 %r0, 1, 0, %p1;", pair, expected)
        for name, *results in (
            ("eq", 0, 1, 0),
            ("ne", 1, 0, 0),
            ("lt", 1, 0, 0),
            ("ge", 0, 1, 0),
            ("gt", 0, 0, 0),
            ("neu", 1, 0, 1),
            ("leu", 1, 1, 1),
            ("ltu", 1, 0, 1),
            ("num", 1, 1, 0),
            ("nan", 0, 0, 1),
        )
        for pair, expected in zip([(bits(1), bits(2)), (0, SIGN), (bits(1), NAN)], results, strict=True)
    ),
]

# %r30 is the lane; results are at %rd4, eight words for each thread.
SHUFFLES = """
shfl.sync.up.b32 %r0|%p1, %r30, 3, 0, -1;
shfl.sync.down.b32 %r1, %r30, 3, 0x181F, -1;
shfl.sync.bfly.b32 %r2, %r30, 5, 0x1F, -1;
shfl.sync.idx.b32 %r3|%p2, %r30, 9, 0x1807, -1;
setp.gt.s32 %p3, %r30, 29;
vote.sync.ballot.b32 %r4, %p3, -1;
selp.u32 %r5, 1, 0, %p1;
bar.red.and.pred %p4, 0, %p3;
selp.u32 %r6, 1, 0, %p4;
selp.u32 %r7, 1, 0, %p2;
st.global.v4.u32 [%rd4], {%r0, %r1, %r2, %r3};
st.global.v4.u32 [%rd4+16], {%r4, %r5, %r6, %r7};
"""

# Two matrices in shared memory, A (16 x 16) and B (16 x 8) of halves, by rows; their product and 1, in fragments.
PRODUCT = """
shl.b32 %r0, %r30, 4;
mul.wide.u32 %rd5, %r0, 1;
add.s64 %rd5, %rd1, %rd5;
mov.u32 %r1, memory;
add.s32 %r1, %r1, %r0;
ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd5];
st.shared.v4.u32 [%r1], {%r4, %r5, %r6, %r7};
cp.async.cg.shared.global [%r1+512], [%rd5+512], 16, 16;
cp.async.commit_group;
cp.async.wait_group 0;
bar.warp.sync -1;
and.b32 %r2, %r30, 15;
shr.u32 %r3, %r30, 4;
shl.b32 %r8, %r2, 5;
shl.b32 %r9, %r3, 4;
add.s32 %r8, %r8, %r9;
mov.u32 %r10, memory;
add.s32 %r8, %r8, %r10;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r8];
shl.b32 %r9, %r2, 4;
add.s32 %r9, %r9, %r10;
ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r11, %r12, %r13, %r14}, [%r9+512];
mov.f32 %f1, 0f3F800000;
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r4, %r5, %r6, %r7}, {%r11, %r12},
  {%f1, %f1, %f1, %f1};
st.global.v4.f32 [%rd4], {%f2, %f3, %f4, %f5};
"""

# All halves to floats, and as many floats to halves: 2048 of each by a thread.
HALVES = """
mul.lo.s32 %r0, %r30, 4096;
cvt.u64.u32 %rd3, %r0;
shl.b64 %rd4, %rd3, 1;
add.s64 %rd5, %rd1, %rd3;
add.s64 %rd6, %rd1, %rd4;
add.s64 %rd7, %rd2, %rd4;
add.s64 %rd8, %rd2, %rd3;
mov.b32 %r1, 0;
again:
ld.global.u16 %rs1, [%rd5];
cvt.f32.f16 %f1, %rs1;
st.global.f32 [%rd7], %f1;
ld.global.f32 %f2, [%rd6+131072];
cvt.rn.f16.f32 %rs2, %f2;
st.global.u16 [%rd8+262144], %rs2;
add.s64 %rd5, %rd5, 2;
add.s64 %rd6, %rd6, 4;
add.s64 %rd7, %rd7, 4;
add.s64 %rd8, %rd8, 2;
add.s32 %r1, %r1, 1;
setp.lt.s32 %p1, %r1, 2048;
@%p1 bra again;
"""

# Two copies in groups of their own, the second of 4 bytes and zeros; looked at when all but one have arrived.
COPIES = """
mov.u32 %r1, memory;
mov.b32 %r2, 4;
cp.async.cg.shared.global [%r1], [%rd1], 16, 16;
cp.async.commit_group;
cp.async.cg.shared.global [%r1+16], [%rd1], 16, %r2;
cp.async.commit_group;
cp.async.wait_group 1;
ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r1];
ld.shared.v4.u32 {%r8, %r9, %r10, %r11}, [%r1+16];
st.global.v4.u32 [%rd2], {%r4, %r5, %r6, %r7};
st.global.v4.u32 [%rd2+16], {%r8, %r9, %r10, %r11};
"""

# What ends the process, and what it says.
FAULTS: dict[str, tuple[str, str]] = {
    "misaligned": ("ld.global.v2.u32 {%r0, %r1}, [%rd1+4];", "a misaligned address"),
    "beyond": ("mov.u32 %r1, memory; st.shared.u32 [%r1+1028], %r0;", "outside of shared memory"),
    "across": ("mov.u32 %r1, memory; st.shared.u32 [%r1+1024], %r0;", "outside of shared memory"),
    "below": ("mov.u32 %r1, memory; ld.shared.u32 %r0, [%r1+-4];", "outside of shared memory"),
    "readOnly": (
        "ld.global.nc.u32 %r0, [%rd4]; st.global.u8 [%rd4+3], %r0;",
        "what was loaded as read-only",
    ),
    "someLanes": ("setp.eq.s32 %p1, %r30, 0; vote.sync.ballot.b32 %r0, %p1, 15;", "a meeting of some lanes of a warp"),
    "gone": ("setp.eq.s32 %p1, %r30, 0; @%p1 ret; bar.warp.sync -1;", "threads wait for others that never arrive"),
    "apart": (
        "setp.lt.s32 %p1, %r30, 9; @%p1 bra other; bar.sync 0; ret;\nother: bar.sync 0;",
        "different collectives",
    ),
    "zero": ("mov.b32 %r1, 0; div.s32 %r0, %r30, %r1;", "a quotient that is not defined"),
}

# What is no PTX, or PTX that the translation does not know.
ERRORS = {
    "add.sat.s32 %r0, %r1, %r2;": "unknown instruction add.sat.s32",
    "add.s32 %r0, %r1, %rd1;": "%rd1 is not as wide as s32",
    "cvt.u16.u32 %rs1, %rs2;": "%rs2 is not as wide as u32",
    "add.s32 %r0, %r1;": "add.s32 with 2 operands",
    "mov.u32 %r0, %clock;": "unknown operand %clock",
    "{ .reg .b32 inner; } mov.b32 %r0, inner;": "unknown operand inner",
    "ld.global.v4.u32 {%r0, %r1}, [%rd1];": "2 targets of ld.global.v4.u32",
    "ld.local.u32 %r0, [%rd1];": "unknown instruction ld.local.u32",
    "ld.shared.u32 %r0, [%rd1];": "%rd1 is not as wide as b32",
    "ld.param.u64 %rd3, [in+4];": "misaligned, or outside of the parameter",
    "st.global.u32 %rd1, %r0;": "no address: %rd1",
    "@%p1 bra.uni again; again:": "a branch that no thread may take alone has a condition",
    "bar.sync 1;": "a barrier other than that of all threads",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1}, [%r2];": "four matrices need four registers",
    "cp.async.cg.shared.global [%r1], [%rd1], 8, 8;": "cp.async.cg copies 16 bytes",
    '.pragma "noalias";': "not understood",
}


def entry(name: str, body: str) -> str:
    """A kernel `void name(const void* in, void* out)` of at most 64 threads."""
    return f"""
.entry _ZL{len(name)}{name}PKvPv(.param .u64 in, .param .u64 out)
.maxntid 64, 1, 1
{{
.reg .pred %p<6>;
.reg .b16 %rs<4>;
.reg .b32 %r<32>;
.reg .f32 %f<6>;
.reg .b64 %rd<10>;
.shared .align 16 .b8 memory[1026];
ld.param.u64 %rd1, [in];
ld.param.u64 %rd2, [out];
mov.u32 %r30, %tid.x;
mul.wide.u32 %rd4, %r30, 32;
add.s64 %rd4, %rd2, %rd4;
{body}
ret;
}}
"""


def single_instructions() -> str:
    """Each of SINGLE in turn, its result stored at its place."""
    lines = []
    for place, (instructions, sources, _) in enumerate(SINGLE):
        lines += [f"mov.b32 %r{i}, {value};" for i, value in enumerate(sources, 1)]
        lines += [instructions, f"st.global.u32 [%rd2+{4 * place}], %r0;"]
    return "\n".join(lines)


KERNELS = {
    "single": single_instructions(),
    "shuffles": SHUFFLES,
    "product": PRODUCT,
    "halves": HALVES,
    "copies": COPIES,
}
KERNELS |= {name: body for name, (body, _) in FAULTS.items()}

HOST = f"""
#include "common/launch.cuh"

{"".join(f"static void {name}(const void*, void*) {{}}" for name in KERNELS)}

extern "C" __attribute__((visibility("default"))) void run(const char* name, int threads, int shared, const void* in,
                                                           void* out) {{
  const std::pair<const char*, void (*)(const void*, void*)> kernels[] = {{
      {", ".join(f'{{"{name}", {name}}}' for name in KERNELS)}}};
  for (const auto& [known, kernel] : kernels) {{
    if (std::strcmp(name, known) == 0) algm::launch(kernel, dim3(1), dim3(threads), shared, nullptr, in, out);
  }}
}}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler: translated PTX cannot be compiled")
    folder = tmp_path_factory.mktemp("ptx")
    source = folder / "host.cu"
    source.write_text(HOST)
    module = parse("".join(entry(*kernel) for kernel in KERNELS.items()))
    return link_translated(folder / "libhost.so", [compile_translated(folder, str(source), module)])


def run(library: Path, kernel: str, given: Array, out: Array, *, seed: int = 0) -> None:
    """Runs a kernel of 32 threads."""
    loaded = ctypes.CDLL(str(library))
    loaded.algm_twin_set_seed(seed)
    addresses = [ctypes.c_void_p(array.ctypes.data) for array in (given, out)]
    loaded.run(kernel.encode(), 32, 0, *addresses)


def test_single_instructions(library: Path) -> None:
    out = np.zeros(len(SINGLE), np.uint32)
    run(library, "single", out, out)
    expected = [value % 2**32 for *_, value in SINGLE]
    wrong = [
        f"{instructions} with {sources}: {found:#x}, not {value:#x}"
        for (instructions, sources, _), found, value in zip(SINGLE, out.tolist(), expected, strict=True)
        if found != value
    ]
    assert not wrong


@pytest.mark.parametrize("seed", [0, 2, 7])
def test_shuffles_and_votes(library: Path, seed: int) -> None:
    out = np.zeros((32, 8), np.uint32)
    run(library, "shuffles", out, out, seed=seed)
    lane = np.arange(32)
    up = np.where(lane < 3, lane, lane - 3)
    down = np.where(lane % 8 < 5, lane + 3, lane)  # segments of eight
    np.testing.assert_array_equal(out[:, 0], up)
    np.testing.assert_array_equal(out[:, 1], down)
    np.testing.assert_array_equal(out[:, 2], lane ^ 5)
    np.testing.assert_array_equal(out[:, 3], lane // 8 * 8 + 1)
    assert (out[:, 4] == 3 << 30).all()
    np.testing.assert_array_equal(out[:, 5], lane >= 3)
    assert (out[:, 6] == 0).all()
    assert (out[:, 7] == 1).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_product_of_matrices(library: Path, seed: int) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.integers(-9, 10, (16, 16)), rng.integers(-9, 10, (16, 8))
    given = np.zeros(512, np.float16)
    given[:256], given[256:384] = a.ravel(), b.ravel()
    out = np.zeros((32, 8), np.float32)
    run(library, "product", given, out, seed=seed)
    lane = np.arange(32)
    for i in range(4):
        rows, columns = lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2
        np.testing.assert_array_equal(out[:, i], (a @ b + 1)[rows, columns])


def test_halves(library: Path) -> None:
    """Every half to float; to halves: all of these, what lies between neighbours, and values that overflow."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        middles = halves.astype(np.float64) * (1 + np.random.default_rng(1).choice([0, 2**-11, 2**-12], 2**16))
        floats = (middles + np.random.default_rng(2).choice([0, 2**-25, 2**-26], 2**16)).astype(np.float32)
        expected = floats.astype(np.float16)
    given = np.concatenate([halves.view(np.uint32), floats.view(np.uint32)])
    out = np.zeros(2**16 + 2**15, np.uint32)
    run(library, "halves", given, out)
    np.testing.assert_array_equal(out[: 2**16].view(np.float32), halves.astype(np.float32))
    np.testing.assert_array_equal(out[2**16 :].view(np.float16), expected)


@pytest.mark.parametrize(("seed", "second"), [(2, [2**32 - 1] * 4), (4, [11, 0, 0, 0])])
def test_copies_arrive_at_the_wait_or_at_once(library: Path, seed: int, second: list[int]) -> None:
    out = np.zeros(8, np.uint32)
    run(library, "copies", np.array([11, 12, 13, 14], np.uint32), out, seed=seed)
    assert out.tolist() == [11, 12, 13, 14, *second]


@pytest.mark.parametrize(
    ("kernel", "threads", "shared", "message"),
    [
        *((name, 32, 0, message) for name, (_, message) in FAULTS.items()),
        ("single", 65, 0, "a block of too many threads"),
        ("single", 1, 48 * 1024, "too much shared memory"),
    ],
)
def test_what_goes_wrong_ends_the_process(library: Path, kernel: str, threads: int, shared: int, message: str) -> None:
    script = f"""
import ctypes
memory = (ctypes.c_uint64 * 1024)()
ctypes.CDLL({str(library)!r}).run({kernel.encode()!r}, {threads}, {shared}, memory, memory)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode < 0
    assert message in done.stderr


@pytest.mark.parametrize("statement", ERRORS)
def test_what_is_not_known_is_an_error(statement: str) -> None:
    with pytest.raises(PtxError, match=r"^line \d+: ") as error:
        translation("host.cu", parse(entry("wrong", statement)))
    assert ERRORS[statement] in str(error.value)
