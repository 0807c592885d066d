"""The kernels themselves, run on a CPU by the execution model of plugins/native/cpu_twin, against the NumPy reference.

Every input and output lies between guard pages, every output and workspace is poisoned, and each case runs under
several schedules: an access outside a buffer ends the process, a missing barrier gives another result.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import kernel_cases as cases
from helpers.kernels import Array, Buffer, HostMemory, KernelError, Kernels
from helpers.twin import compile_cpp, multiprocessors_with

from algm_trt.plugins import interface

# In order; blocks backwards; warps greedy; greedy, backwards and asynchronous copies at once.
SCHEDULES = (0, 1, 2, 7)
dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)


@pytest.fixture(params=SCHEDULES)
def kernels(twin_library: Path, request: pytest.FixtureRequest) -> Kernels:
    kernels = Kernels(twin_library, HostMemory())
    kernels.library.algm_twin_set_seed(request.param)
    return kernels


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@dtypes
@pytest.mark.parametrize("case", cases.LOCAL_CASES, ids=str)
def test_local_merge_agrees_on_ties_and_extremes(
    kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any
) -> None:
    x = cases.exact_tokens(rng, (case.batch, case.extra_tokens + case.grid[0] * case.grid[1], case.channels), dtype)
    for threshold in (-2.0, 1 / 3, 1.0, 3.0, np.nan):
        cases.check_local_merge(kernels, case, x, threshold)


@dtypes
@pytest.mark.parametrize("case", cases.LOCAL_CASES[:5], ids=str)
def test_local_merge_agrees_on_generic_tokens(
    kernels: Kernels, rng: np.random.Generator, case: cases.LocalCase, dtype: Any
) -> None:
    x = cases.generic_grid(rng, case, dtype)
    cases.check_local_merge(kernels, case, x, 0.3)


@pytest.mark.heavy
def test_local_merge_of_a_large_grid(twin_library: Path, rng: np.random.Generator) -> None:
    kernels = Kernels(twin_library, HostMemory())
    kernels.library.algm_twin_set_seed(3)
    case = cases.LARGE_LOCAL_CASE
    x = cases.exact_tokens(rng, (case.batch, 1 + case.grid[0] * case.grid[1], case.channels), np.float16)
    cases.check_local_merge(kernels, case, x, 0.5)


def test_windows_with_a_nan_do_not_merge(kernels: Kernels, rng: np.random.Generator) -> None:
    case = cases.LocalCase(2, (4, 4), (2, 2), 16)
    x = cases.exact_tokens(rng, (2, 17, 16), np.float32)
    x[0, 1, 3] = np.nan
    x[1, 16, 0] = np.inf
    merged = kernels.local_merge(x, -2.0, grid=case.grid, window=case.window)
    assert merged.cu_seqlens.tolist() == [0, 1 + 3 + 4, 2 * (1 + 3 + 4)]
    assert sorted(merged.sizes.tolist()) == [1] * 10 + [4] * 6


@dtypes
@pytest.mark.parametrize(("lengths", "extra", "channels", "patches"), cases.GLOBAL_CASES)
@pytest.mark.parametrize("layer", [1, 9])
def test_global_merge_agrees(
    kernels: Kernels,
    rng: np.random.Generator,
    lengths: list[int],
    extra: int,
    channels: int,
    patches: int,
    layer: int,
    dtype: Any,
) -> None:
    inputs = cases.global_inputs(rng, lengths, patches)
    for x in (
        cases.generic_images(rng, lengths, channels, extra, layer, dtype),
        cases.exact_tokens(rng, (sum(lengths), channels), dtype),
    ):
        cases.check_global_merge(kernels, x, inputs, layer, extra)


@dtypes
def test_global_merge_of_a_long_image(kernels: Kernels, rng: np.random.Generator, dtype: Any) -> None:
    lengths, extra, channels, patches = cases.LONG_GLOBAL_CASE
    x = cases.exact_tokens(rng, (sum(lengths), channels), dtype)
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, lengths, patches), 5, extra)


@dtypes
@pytest.mark.parametrize("length", [2305, 4301])
def test_global_merge_finds_destinations_in_every_tile(
    twin_library: Path, rng: np.random.Generator, length: int, dtype: Any
) -> None:
    """Tiles of 128 or 64 destinations, for at most 16 splits: 9 or 18 tiles, and 17 or 34."""
    kernels = Kernels(twin_library, HostMemory())
    kernels.library.algm_twin_set_seed(2)
    x = cases.tokens_of_every_tile(rng, length, dtype)
    assert set(x[2::2].argmax(axis=1)) == set(x[1::2].argmax(axis=1)) == set(range(-(-(length // 2) // 64)))
    cases.check_global_merge(kernels, x, cases.global_inputs(rng, [length], 50), 5, 1)


class KeptMemory(HostMemory):
    """Host memory that keeps the workspace of the last call."""

    workspace: Buffer

    def put(self, array: Array) -> Buffer:
        buffer = super().put(array)
        if array.dtype == np.uint8:
            self.workspace = buffer
        return buffer


@pytest.mark.parametrize(
    ("lengths", "extra", "channels", "patches"),
    [*(case for case in cases.GLOBAL_CASES if case[2] % 8 == 0), ([300, 9, 515], 1, 264, 20)],
)
@pytest.mark.parametrize("seed", [2, 7])
def test_global_merge_has_the_same_bits_where_shared_memory_is_short(
    twin_library: Path, rng: np.random.Generator, lengths: list[int], extra: int, channels: int, patches: int, seed: int
) -> None:
    """The best similarities, which lie in the workspace, and all outputs: of short stages as of long ones."""
    memory = KeptMemory()
    kernels = Kernels(twin_library, memory)
    kernels.library.algm_twin_set_seed(seed)
    inputs = cases.global_inputs(rng, lengths, patches)
    x = cases.generic_images(rng, lengths, channels, extra, 9, np.float16)
    strange = x.copy()
    strange[rng.integers(0, len(x), 3), rng.integers(0, channels, 3)] = [np.nan, np.inf, -0.0]
    for tokens in (x, strange):
        found = []
        for kib in (228, 100):
            with multiprocessors_with(kib, kernels.library), np.errstate(all="ignore"):
                merged = kernels.global_merge(tokens, *inputs, layer=9, extra_tokens=extra, checked=False)
            arrays = [merged.y, merged.sizes, merged.cu_seqlens, merged.token_map, memory.workspace.array()]
            found.append([array.tobytes() for array in arrays])
        assert found[0] == found[1]
    with multiprocessors_with(100, kernels.library):
        cases.check_global_merge(kernels, x, inputs, 9, extra)


@dtypes
def test_global_merge_of_equal_tokens_merges_all_into_the_first_destination(kernels: Kernels, dtype: Any) -> None:
    lengths = [9, 6]
    x = np.zeros((15, 8), dtype)
    x[:, 2] = 0.5
    inputs = cases.global_inputs(np.random.default_rng(0), lengths, 7)
    cases.check_global_merge(kernels, x, inputs, 3, 1)
    merged = kernels.global_merge(x, *inputs, layer=3)
    assert merged.cu_seqlens.tolist() == [0, 1 + 4, 1 + 4 + 1 + 3]


@pytest.mark.parametrize("channels", [8, 9])
def test_global_merge_means_of_halves_are_those_of_division(
    kernels: Kernels, rng: np.random.Generator, channels: int
) -> None:
    """Halves are averaged without a division, floats with one: the same bits, whatever the sizes, for -0 as well."""
    lengths = [61, 47]
    _, cu_seqlens, token_map = cases.global_inputs(rng, lengths, 5)
    sizes = rng.integers(1, 2**20, sum(lengths)).astype(np.int32)
    x = cases.exact_tokens(rng, (sum(lengths), channels), np.float16)
    x[x == 0] = -0.0
    halves = kernels.global_merge(x, sizes, cu_seqlens, token_map, layer=9)
    floats = kernels.global_merge(x.astype(np.float32), sizes, cu_seqlens, token_map, layer=9)
    assert halves.count == floats.count < sum(lengths)
    np.testing.assert_array_equal(halves.y.view(np.uint16), floats.y.astype(np.float16).view(np.uint16))


def test_a_fused_multiply_add_keeps_its_zero(tmp_path: Path) -> None:
    """What the means of halves rest on, also where the twin is compiled for a processor that has the instruction."""
    source, library = tmp_path / "rest.cpp", tmp_path / "rest.so"
    source.write_text(
        "#include <cmath>\n"
        'extern "C" __attribute__((visibility("default"))) float rest(float a, float b, float c) {\n'
        "  return -fmaf(a, b, -c);\n"
        "}\n"
    )
    instruction = [] if platform.machine() == "aarch64" else ["-mfma"]
    if instruction and " fma " not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this processor has no fused multiply-add")
    compile_cpp(["-shared", *instruction, "-o", library, source])
    rest = ctypes.CDLL(str(library)).rest
    rest.argtypes, rest.restype = [ctypes.c_float] * 3, ctypes.c_float
    assert np.signbit(rest(2.0, -0.0, -0.0))


@dtypes
@pytest.mark.parametrize("token", [5, 6])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_keeps_its_image_from_merging_globally(
    kernels: Kernels, rng: np.random.Generator, value: float, token: int, dtype: Any
) -> None:
    lengths = [12, 12]
    x = cases.exact_tokens(rng, (24, 8), dtype)
    x[token, 1] = value
    inputs = cases.global_inputs(rng, lengths, 7)
    merged = kernels.global_merge(x, *inputs, layer=1)
    assert merged.cu_seqlens[1] == 12
    np.testing.assert_array_equal(merged.y[12:], kernels.global_merge(x[12:], *_second(inputs), layer=1).y)


@dtypes
@pytest.mark.parametrize("depth", cases.HEAD_DIMENSIONS)
@pytest.mark.parametrize(("lengths", "heads"), cases.ATTENTION_CASES)
def test_attention_is_as_exact_as_its_type(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], heads: int, depth: int, dtype: Any
) -> None:
    cu_seqlens = cases.cumulative(lengths)
    qkv = (2 * rng.standard_normal((cu_seqlens[-1], 3 * heads * depth))).astype(dtype)
    plain = None if dtype == np.float16 else cases.half_attention(qkv, cu_seqlens, heads)
    cases.check_attention(kernels, qkv, cu_seqlens, heads, plain)


@dtypes
@pytest.mark.parametrize("lengths", [[3], [4, 3, 7], list(range(3, 37))])
@pytest.mark.parametrize(("channels", "appended"), [(1, 5), (13, 150), (384, 2), (1100, 1)])
@pytest.mark.parametrize("drop", [0, 1, 2])
def test_append_tokens_and_unmerge_agree(
    kernels: Kernels, rng: np.random.Generator, lengths: list[int], channels: int, appended: int, drop: int, dtype: Any
) -> None:
    cases.check_append_and_unmerge(kernels, rng, lengths, channels, appended, drop, dtype)


@dtypes
@pytest.mark.parametrize("case", cases.LABEL_CASES, ids=str)
def test_labels_agree(kernels: Kernels, rng: np.random.Generator, case: Any, dtype: Any) -> None:
    cases.check_labels(kernels, cases.label_logits(rng, case, dtype), case[-1])


def test_ties_between_classes_go_to_the_lower_one(kernels: Kernels, rng: np.random.Generator) -> None:
    logits = rng.integers(0, 3, (2, 5, 6, 13)).astype(np.float32)
    labels = kernels.labels(logits, (40, 48))
    np.testing.assert_array_equal(labels, cases.reference.labels(logits, (40, 48)))


def test_rows_beyond_the_images_are_left_alone(kernels: Kernels, rng: np.random.Generator) -> None:
    """Callers that know only an upper bound of the tokens pass longer buffers."""
    lengths = [9, 14]
    inputs = sizes, cu_seqlens, token_map = cases.global_inputs(rng, lengths, 6)
    x = cases.generic_images(rng, lengths, 32, 1, 2, np.float16)
    longer = np.concatenate([x, np.full((70, 32), np.nan, np.float16)])
    padded = np.concatenate([sizes, np.full(70, -1, np.int32)])
    expected = kernels.global_merge(x, *inputs, layer=2)
    actual = kernels.global_merge(longer, padded, cu_seqlens, token_map, layer=2, max_tokens=500)
    np.testing.assert_array_equal(actual.y, expected.y)
    attention = kernels.packed_attention(np.tile(longer, 3), cu_seqlens, heads=1, max_tokens=500)
    np.testing.assert_array_equal(attention[:23], kernels.packed_attention(np.tile(x, 3), cu_seqlens, heads=1))
    assert np.isnan(attention[23:]).all()
    tokens = np.ones((3, 32), np.float16)
    y, _ = kernels.append_tokens(longer, cu_seqlens, tokens, drop=1)
    np.testing.assert_array_equal(y[:27], kernels.append_tokens(x, cu_seqlens, tokens, drop=1)[0])


@dtypes
def test_garbage_stays_inside_the_buffers(kernels: Kernels, rng: np.random.Generator, dtype: Any) -> None:
    tokens, channels = 97, 32
    for _ in range(6):
        x = rng.standard_normal((tokens, channels)).astype(dtype)
        x[rng.integers(0, tokens, 5)] = rng.choice([np.nan, np.inf, -np.inf, 0])
        limit = int(rng.choice([tokens, 2**31 - 1]))
        cu_seqlens = rng.integers(-limit, limit, 5).astype(np.int32)
        sizes = rng.integers(-(2**31), 2**31, tokens).astype(np.int32)
        token_map = rng.integers(-(2**31), 2**31, (4, 50)).astype(np.int32)
        most = int(rng.choice([3, 60, 2**20]))
        with np.errstate(all="ignore"):
            merged = kernels.global_merge(x, sizes, cu_seqlens, token_map, layer=1, max_tokens=most, checked=False)
        assert 0 <= merged.count <= tokens
        assert merged.cu_seqlens.min() >= 0
        assert merged.cu_seqlens.max() <= tokens
        kernels.packed_attention(np.tile(x, 3), cu_seqlens, heads=1, max_tokens=most)
        kernels.append_tokens(x, cu_seqlens, x[:7], drop=2)
        kernels.unmerge(x, cu_seqlens, token_map, appended=9, drop=1)
        kernels.labels(x.reshape(1, 1, tokens, channels), (13, 200))
        kernels.local_merge(x[None], np.inf, grid=(6, 16), window=(2, 2))


def test_what_cannot_be_done_is_refused(kernels: Kernels, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 16, 8)).astype(np.float32)
    with pytest.raises(KernelError, match="invalid argument"):
        kernels.local_merge(x, 0.5, grid=(3, 5), window=(1, 1))
    with pytest.raises(KernelError, match="invalid argument"):
        kernels.local_merge(x, 0.5, grid=(3, 5), window=(2, 5))
    qkv = rng.standard_normal((4, 3 * 40)).astype(np.float16)
    with pytest.raises(KernelError, match="head dimension"):
        kernels.packed_attention(qkv, cases.cumulative([4]), heads=1)
    lib = kernels.library
    params = interface.AlgmLocalMergeParams(0, 1, 8, 4, 4, 2, 2, 1)
    pointers = [ctypes.c_void_p(256)] * 8
    size = lib.algm_local_merge_workspace(ctypes.byref(params))
    assert lib.algm_local_merge(ctypes.byref(params), *pointers, ctypes.c_size_t(size - 1), None) == 3
    assert lib.algm_local_merge(ctypes.byref(params), None, *pointers[1:], ctypes.c_size_t(size), None) == 1
    assert lib.algm_local_merge(None, *pointers, ctypes.c_size_t(size), None) == 1
    assert lib.algm_global_merge_workspace(ctypes.byref(interface.AlgmGlobalMergeParams(0, 0, 4, 8, 4, 1, 1, 4))) == 0
    # Pixels are counted in 32 bits.
    params = interface.AlgmLabelsParams(0, 1, 1, 1, 2, 65536, 65536)
    assert lib.algm_labels(ctypes.byref(params), *pointers[:3], ctypes.c_size_t(0), None) == 1
    # So are twice the pixels of a side times its patches, here 65536 times 65537.
    params = interface.AlgmLabelsParams(0, 1, 65535, 1, 2, 32768, 1)
    assert lib.algm_labels(ctypes.byref(params), *pointers[:3], ctypes.c_size_t(0), None) == 1


ANY: dict[str, tuple[int, ...]] = {"dtype": (-1, 2), "batch": (0, 65536), "channels": (0, 2**20 + 1)}
ROWS: dict[str, tuple[int, ...]] = {**ANY, "tokens": (0, 2**30)}
# Parameters that are right, wrong values of each, and which tensors are activations.
CALLS: dict[str, tuple[tuple[int, ...], dict[str, tuple[int, ...]], set[int]]] = {
    "algm_local_merge": (
        (0, 1, 8, 4, 4, 2, 2, 1),
        {**ANY, "grid_height": (0, 4098), "grid_width": (0, 4098), "window_height": (0, 3), "window_width": (0, 3)}
        | {"extra_tokens": (0, 3)},
        {0, 2},
    ),
    "algm_global_merge": (
        (0, 1, 8, 4, 4, 1, 1, 8),
        {**ROWS, "patches": (0, 2**30), "layer": (0, 1025), "extra_tokens": (0, 3), "max_tokens": (0, 2**20 + 1)},
        {0, 4},
    ),
    "algm_packed_attention": (
        (0, 1, 8, 64, 2, 8),
        {**ROWS, "heads": (0, 3, 1025), "max_tokens": (0, 2**20 + 1)},
        {0, 2},
    ),
    "algm_append_tokens": ((0, 1, 8, 4, 3, 1), {**ROWS, "appended": (0, 65536), "drop": (-1, 3)}, {0, 2, 3}),
    "algm_unmerge": (
        (0, 1, 8, 4, 4, 3, 1),
        {**ROWS, "patches": (0, 2**30), "appended": (-1, 65536), "drop": (-1, 3)},
        {0, 3, 4},
    ),
    "algm_labels": (
        (0, 1, 2, 2, 3, 8, 8),
        {"dtype": (-1, 2), "batch": (0, 65536), "classes": (0, 65536)}
        | dict.fromkeys(("grid_height", "grid_width", "height", "width"), (0, 65537)),
        {0},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_parameters_and_pointers_that_are_wrong_are_refused(twin_library: Path, name: str) -> None:
    library = interface.declare(ctypes.CDLL(str(twin_library)))
    struct, tensors = interface.FUNCTIONS[name]
    good, wrong, activations = CALLS[name]
    query = getattr(library, f"{name}_workspace")
    room = query(ctypes.byref(struct(*good)))

    def status(values: Sequence[int], addresses: Sequence[int | None]) -> int:
        return int(getattr(library, name)(ctypes.byref(struct(*values)), *addresses, room, None))

    addresses: list[int | None] = [256] * (tensors + 1)
    fields = [field for field, _ in struct._fields_]
    assert wrong.keys() == set(fields)
    for field, values in wrong.items():
        for value in values:
            params = [value if other == field else right for other, right in zip(fields, good, strict=True)]
            assert status(params, addresses) == 1, (field, value)
            assert query(ctypes.byref(struct(*params))) == 0, (field, value)
    for place in range(tensors):
        for address in (None, 256 + (8 if place in activations else 2)):
            assert status(good, [*addresses[:place], address, *addresses[place + 1 :]]) == 1, (place, address)


def test_parameter_structs_are_those_of_the_header() -> None:
    header = (Path(__file__).parents[2] / "plugins" / "native" / "algm.h").read_text()
    structs = re.findall(r"typedef struct (\w+) \{(.*?)\}", header, re.DOTALL)
    assert len(structs) == 8
    for name, body in structs:
        fields = [field for field, _ in getattr(interface, name)._fields_]
        assert fields == re.findall(r"int32_t (\w+);", body)


def _second(inputs: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """The second of two images of 12 tokens alone."""
    sizes, _, token_map = inputs
    return sizes[12:], cases.cumulative([12]), token_map[1:]
