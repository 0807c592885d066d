"""Times of the kernels on a GPU against floors: `python benchmarks/kernels.py [--json FILE] [--batch 32] [--only ...]`.

FP16, a batch of unlike images (30 to 90 % of the tokens kept, 60 % on average), ViT-S and ViT-B widths, 512 x 512 and
768 x 768; attention also with wider heads. The slide mode's kernels take one picture of as many windows as the batch
has images. Each time is the median over runs between CUDA events, once with an L2 cache that holds none of the data
(`ms`) and once right after a run of the same (`warm_ms`; inside a network the truth lies between). A kernel that spins
holds the device back until the host has queued the run, so that no time of the host is in it; gaps between the kernels
of one operator are.

Floors: bytes that must be read and written once, over the bandwidth that a device copy reaches here; for attention,
PyTorch's on the same lengths (`torch.nn.attention.varlen`); for GlobalMerge, the similarity product by cuBLAS
(`torch.bmm`) on images of one length that makes as many operations, rounded up to a multiple of 8, which cuBLAS likes
best. `share` is floor / time: 1 is the floor itself. A kernel that fails has its `error` in the record; the others go
on in a process of their own, because CUDA does no more for one in which a kernel faulted. The exit code is then 1.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from parts.record import recording_parser, write_record

from algm_trt.plugins import interface
from algm_trt.plugins.library import load_ctypes
from algm_trt.runtime.field import AxisOperator, axis_operators
from algm_trt.runtime.windows import WindowPlan, plan_slide

CLASSES = 150
WARM_UPS = 5
RUNS = 50
FLUSH_BYTES = 256 * 2**20
COPY_BYTES = 2**30
SPIN_CYCLES = 1_000_000


@dataclass(frozen=True)
class Shape:
    """One model at one picture size.

    Attributes:
        name: for people.
        channels: width of the encoder.
        heads: of its attention.
        grid: patches on a side of the picture.
    """

    name: str
    channels: int
    heads: int
    grid: int

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return self.grid**2


SHAPES = [
    Shape("ViT-S 512", 384, 6, 32),
    Shape("ViT-S 768", 384, 6, 48),
    Shape("ViT-B 512", 768, 12, 32),
    Shape("ViT-B 768", 768, 12, 48),
]
WIDE_HEADS = [Shape("head of 80", 640, 8, 32), Shape("head of 96", 768, 8, 32), Shape("head of 128", 1024, 8, 32)]
"""Attention takes other heads than ViT-S's and ViT-B's of 64 channels with other kernels."""


class Kernel:
    """A call of the C interface with its workspace."""

    def __init__(self, name: str, params: ctypes.Structure, tensors: list[torch.Tensor]) -> None:
        library = interface.declare(load_ctypes())
        size = getattr(library, f"{name}_workspace")(ctypes.byref(params))
        self._tensors = [*tensors, torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")]
        self._library = library
        self._call = getattr(library, name)
        self._arguments = [ctypes.byref(params), *(tensor.data_ptr() for tensor in self._tensors), size]

    def __call__(self) -> None:
        """Queue the kernel on the current stream."""
        status = self._call(*self._arguments, torch.cuda.current_stream().cuda_stream)
        if status != 0:
            text = self._library.algm_status_string(status).decode()
            cause = self._library.algm_last_cuda_error().decode()
            raise RuntimeError(f"{self._call.__name__}: {text} ({cause})")


@dataclass(frozen=True)
class Times:
    """Median milliseconds of what was queued, with an L2 cache that holds none of the data and with a warm one."""

    cold: float
    warm: float


def measure(run: Callable[[], object], flush: torch.Tensor) -> Times:
    """Time `run` on the device.

    Before a cold run the cache is filled by reading: written lines would have to go to memory during the run.
    """
    return Times(
        _median(run, lambda: torch.amax(flush)),
        _median(run, run),
    )


def _median(run: Callable[[], object], before: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM_UPS + RUNS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(SPIN_CYCLES)
        before()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times[WARM_UPS:])


def copy_bandwidth(flush: torch.Tensor) -> float:
    """Bytes per millisecond, read and written together, of a large device copy."""
    source = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / measure(lambda: target.copy_(source), flush).cold


def ints(*shape: int) -> torch.Tensor:
    """Uninitialised int32 tensor."""
    return torch.empty(shape, dtype=torch.int32, device="cuda")


def halves(*shape: int) -> torch.Tensor:
    """Uninitialised float16 tensor."""
    return torch.empty(shape, dtype=torch.float16, device="cuda")


def noise(*shape: int) -> torch.Tensor:
    """Random float16 tensor."""
    return torch.randn(shape, dtype=torch.float16, device="cuda")


def packed_images(batch: int, patches: int, appended: int = 0) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images after the merge, with 30 to 90 % of the patches: their lengths (on the host), cu_seqlens, all tokens."""
    kept = torch.linspace(0.3, 0.9, batch)[torch.randperm(batch)]
    lengths = (kept * patches).int() + 1 + appended
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().cuda()
    return lengths, cu_seqlens, int(lengths.sum())


def time_local_merge(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, int]:
    """Milliseconds of AlgmLocalMerge with 53 % of the windows merging, and the bytes of its floor."""
    x = noise(batch, 1 + shape.patches, shape.channels)
    windows = x[:, 1:].view(batch, shape.grid // 2, 2, shape.grid // 2, 2, shape.channels)
    merging = torch.rand(batch, shape.grid // 2, 1, shape.grid // 2, 1, 1, device="cuda") < 0.53
    windows.copy_(torch.where(merging, windows[:, :, :1, :, :1] + 0.1 * windows, windows))
    params = interface.AlgmLocalMergeParams(interface.FLOAT16, batch, shape.channels, shape.grid, shape.grid, 2, 2, 1)
    threshold, count = torch.tensor(0.5, device="cuda"), ints()
    outputs = [torch.empty_like(x), ints(x.shape[0] * x.shape[1]), ints(batch + 1), ints(batch, shape.patches), count]
    kernel = Kernel("algm_local_merge", params, [x, threshold, *outputs])
    time = measure(kernel, flush)
    return time, x.nbytes + int(count) * shape.channels * 2


def time_global_merge(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, Times]:
    """Milliseconds of AlgmGlobalMerge with half of the sources merging, and of cuBLAS for the similarities alone."""
    lengths, cu_seqlens, tokens = packed_images(batch, shape.patches)
    x = noise(tokens, shape.channels)
    x[2::4] = x[1::4][: len(x[2::4])] + 0.1 * x[2::4]
    params = interface.AlgmGlobalMergeParams(
        interface.FLOAT16, batch, tokens, shape.channels, shape.patches, 5, 1, shape.patches + 1
    )
    sizes = torch.ones(tokens, dtype=torch.int32, device="cuda")
    token_map = torch.zeros(batch, shape.patches, dtype=torch.int32, device="cuda")
    outputs = [torch.empty_like(x), torch.empty_like(sizes), ints(batch + 1), torch.empty_like(token_map), ints()]
    kernel = Kernel("algm_global_merge", params, [x, sizes, cu_seqlens, token_map, *outputs])
    # As many operations as the unlike images have; sources and destinations are memory of their own, as in x.
    length = float((lengths.double() / 2).square().mean().sqrt())
    half = (batch, -(-round(length) // 8) * 8, shape.channels)
    sources, destinations = (noise(*half) for _ in range(2))
    product = halves(batch, half[1], half[1])
    cublas = measure(lambda: torch.bmm(sources, destinations.transpose(1, 2), out=product), flush)
    return measure(kernel, flush), cublas


def time_attention(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, Times]:
    """Milliseconds of AlgmPackedAttention, and of PyTorch's variable-length attention.

    Raises:
        RuntimeError: their results differ, so that the times mean nothing.
    """
    lengths, cu_seqlens, tokens = packed_images(batch, shape.patches)
    qkv = noise(tokens, 3 * shape.channels)
    params = interface.AlgmPackedAttentionParams(
        interface.FLOAT16, batch, tokens, shape.channels, shape.heads, shape.patches + 1
    )
    y = torch.full((tokens, shape.channels), torch.nan, device="cuda", dtype=torch.float16)
    kernel = Kernel("algm_packed_attention", params, [qkv, cu_seqlens, y])
    q, k, v = qkv.view(tokens, 3, shape.heads, -1).unbind(1)
    longest = int(lengths.max())
    attention, _ = torch_attention()
    kernel()
    difference = (y - attention(q, k, v, cu_seqlens, longest).reshape(y.shape)).abs().max()
    if not difference < 0.01:
        raise RuntimeError(f"packed attention differs from PyTorch's by {float(difference)}")
    return measure(kernel, flush), measure(lambda: attention(q, k, v, cu_seqlens, longest), flush)


def torch_attention() -> tuple[Callable[..., torch.Tensor], str]:
    """PyTorch's variable-length attention of q, k, v, cu_seqlens and the longest length, and what it is called."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before PyTorch 2.10: what it would call
        return _flash_attention, "aten._flash_attention_forward (this PyTorch has no torch.nn.attention.varlen)"

    def attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, longest: int
    ) -> torch.Tensor:
        result = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest)
        assert isinstance(result, torch.Tensor)
        return result

    return attention, "torch varlen"


def _flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, longest: int
) -> torch.Tensor:
    forward = torch.ops.aten._flash_attention_forward
    result: torch.Tensor = forward(q, k, v, cu_seqlens, cu_seqlens, longest, longest, 0.0, False, False)[0]
    return result


def time_append(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, int]:
    """Milliseconds of AlgmAppendTokens, and the bytes of its floor."""
    _, cu_seqlens, tokens = packed_images(batch, shape.patches)
    x = noise(tokens, shape.channels)
    appended = noise(CLASSES, shape.channels)
    y = halves(tokens + batch * (CLASSES - 1), shape.channels)
    params = interface.AlgmAppendTokensParams(interface.FLOAT16, batch, tokens, shape.channels, CLASSES, 1)
    kernel = Kernel("algm_append_tokens", params, [x, cu_seqlens, appended, y, ints(batch + 1)])
    return measure(kernel, flush), x.nbytes + y.nbytes


def time_unmerge(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, int]:
    """Milliseconds of AlgmUnmerge, and the bytes of its floor."""
    lengths, cu_seqlens, tokens = packed_images(batch, shape.patches, appended=CLASSES)
    x = noise(tokens, shape.channels)
    share = torch.rand(batch, shape.patches).sort(dim=1).values
    token_map = (share * (lengths[:, None] - CLASSES)).int().cuda()
    grid = halves(batch, shape.patches, shape.channels)
    tail = halves(batch, CLASSES, shape.channels)
    params = interface.AlgmUnmergeParams(interface.FLOAT16, batch, tokens, shape.channels, shape.patches, CLASSES, 0)
    kernel = Kernel("algm_unmerge", params, [x, cu_seqlens, token_map, grid, tail])
    return measure(kernel, flush), x.nbytes + grid.nbytes + tail.nbytes + token_map.nbytes


def time_labels(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, int]:
    """Milliseconds of AlgmLabels on logits without structure (the slow case), and the bytes of its floor."""
    logits = noise(batch, shape.grid, shape.grid, CLASSES)
    size = 16 * shape.grid
    labels = ints(batch, size, size)
    params = interface.AlgmLabelsParams(interface.FLOAT16, batch, shape.grid, shape.grid, CLASSES, size, size)
    return measure(Kernel("algm_labels", params, [logits, labels]), flush), logits.nbytes + labels.nbytes


def slide_plan(shape: Shape, batch: int) -> WindowPlan:
    """One picture of `batch` windows (to the next multiple of 4) that overlap by a sixteenth."""
    side = 16 * shape.grid
    step = 15 * shape.grid
    return plan_slide((side + 3 * step, side + (max(4, batch) // 4 - 1) * step), (side, side), step)


def time_cut_windows(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, int]:
    """Milliseconds of algm_cut_windows for one picture, and the bytes of its floor."""
    plan = slide_plan(shape, batch)
    canvas = torch.randint(256, (*plan.canvas, 3), dtype=torch.uint8, device="cuda")
    windows = torch.empty(len(plan), *plan.window, 3, dtype=torch.uint8, device="cuda")
    anchors = torch.tensor(plan.anchors, dtype=torch.int32, device="cuda")
    params = interface.AlgmCutWindowsParams(*plan.canvas, len(plan), *plan.window)
    time = measure(Kernel("algm_cut_windows", params, [canvas, anchors, windows]), flush)
    return time, canvas.nbytes + windows.nbytes


def time_slide_labels(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[Times, int]:
    """Milliseconds of algm_slide_labels for one picture, logits without structure, and the bytes of its floor."""
    plan = slide_plan(shape, batch)
    logits = noise(len(plan), CLASSES, shape.grid, shape.grid)
    labels = torch.empty(plan.source, dtype=torch.uint8, device="cuda")
    rows, columns = axis_operators(plan, 16)
    grids = len(plan.rows), len(plan.columns), CLASSES, shape.grid, shape.grid
    tiles, supports = zip(rows.nodes.shape, columns.nodes.shape, strict=True)
    params = interface.AlgmSlideLabelsParams(interface.FLOAT16, *grids, *plan.source, *tiles, *supports)
    finite = torch.empty((), dtype=torch.int32, device="cuda")
    kernel = Kernel("algm_slide_labels", params, [logits, *uploaded(rows), *uploaded(columns), labels, finite])
    return measure(kernel, flush), logits.nbytes + labels.nbytes


def uploaded(axis: AxisOperator) -> list[torch.Tensor]:
    """The operator's arrays on the device."""
    arrays = axis.starts, axis.supports, axis.nodes, axis.shares
    return [torch.from_numpy(array.copy()).cuda() for array in arrays]


Timer = Callable[[Shape, int, torch.Tensor], tuple[Times, "Times | int"]]
TIMERS: dict[str, Timer] = {
    "local_merge": time_local_merge,
    "append_tokens": time_append,
    "unmerge": time_unmerge,
    "cut_windows": time_cut_windows,
    "labels": time_labels,
    "slide_labels": time_slide_labels,
    "global_merge": time_global_merge,
    "packed_attention": time_attention,
}


def measure_all(
    batch: int, kernels: Sequence[str] = tuple(TIMERS), keep: Callable[[dict[str, Any]], None] = lambda results: None
) -> tuple[dict[str, Any], list[str]]:
    """Kernels at all shapes, up to the first that fails.

    Args:
        batch: images of a batch.
        kernels: names, in `TIMERS`.
        keep: called with the results so far whenever a kernel is done.

    Returns:
        The results, and the names of the kernels that come behind the one that failed.
    """
    flush = torch.ones(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    bandwidth = copy_bandwidth(flush)
    rivals = {"global_merge": "cuBLAS", "packed_attention": torch_attention()[1]}
    rows: list[dict[str, Any]] = []
    results = {
        "device": torch.cuda.get_device_name(),
        "batch": batch,
        "copy_gigabytes_per_second": round(bandwidth / 1e6, 1),
        "kernels": rows,
    }
    for place, name in enumerate(kernels):
        for shape in SHAPES + (WIDE_HEADS if name == "packed_attention" else []):
            row: dict[str, Any] = {"shape": shape.name, "kernel": name, "against": rivals.get(name, "device copy")}
            rows.append(row | _figures(row, TIMERS[name], batch, flush, bandwidth, shape))
            if "error" in rows[-1]:
                return results, list(kernels[place + 1 :])
        keep(results)
    return results, []


def measured_apart(batch: int, kernels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of kernels that a process of its own measures; one row without figures each where it ends without any."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--batch", str(batch), "--only", *kernels, "--json", str(file)]
        status = subprocess.run(command, check=False).returncode
        if not file.is_file():
            return [{"kernel": name, "error": f"not measured: exit code {status}"} for name in kernels]
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["kernels"]
        return rows


def _figures(
    row: dict[str, Any], timer: Timer, batch: int, flush: torch.Tensor, bandwidth: float, shape: Shape
) -> dict[str, Any]:
    label = f"{row['shape']:10} {row['kernel']:17}"
    try:
        time, floor = timer(shape, batch, flush)
    except Exception as error:  # whatever it is, the other kernels are worth measuring: see measured_apart
        traceback.print_exc()
        print(f"{label} failed: {error}")
        return {"error": f"{type(error).__name__}: {error}"}
    cold = floor.cold if isinstance(floor, Times) else floor / bandwidth
    print(f"{label} {time.cold:8.4f} ms, {row['against']} {cold:8.4f} ms, share {cold / time.cold:.2f}", flush=True)
    figures = {"ms": time.cold, "floor_ms": cold, "warm_ms": time.warm}
    if isinstance(floor, Times):
        figures["warm_floor_ms"] = floor.warm
    return {name: round(value, 4) for name, value in figures.items()} | {"share": round(cold / time.cold, 3)}


def main() -> int:
    """Measure, print, and write JSON where asked to."""
    parser = recording_parser(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=TIMERS, default=list(TIMERS), help="kernels (default: all)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 4
    keep = partial(write_record, options.json)  # what is done is kept when the time is up
    results, left = measure_all(options.batch, options.only, keep)
    keep(results)
    if left:
        results["kernels"] += measured_apart(options.batch, left)
        keep(results)
    return int(any("error" in row for row in results["kernels"]))


if __name__ == "__main__":
    raise SystemExit(main())
