"""Times of the kernels on a GPU against floors: `python benchmarks/kernels.py [--json FILE] [--batch 32]`.

FP16, a batch of unlike images (30 to 90 % of the tokens kept, 60 % on average), ViT-S and ViT-B widths, 512 x 512 and
768 x 768. The slide mode's kernels take one picture of as many windows as the batch has images. Each time is the median
over runs between CUDA events, with the L2 cache overwritten before each run.

Floors: bytes that must be read and written once, over the bandwidth that a device copy reaches here; for attention and
the similarity product, PyTorch on the same lengths (`torch.nn.attention.varlen`, cuBLAS by `torch.bmm` at the mean
length). `share` is floor / time: 1 is the floor itself.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import write_record

from algm_trt.plugins import interface
from algm_trt.plugins.library import load_ctypes
from algm_trt.runtime.field import AxisOperator, axis_operators
from algm_trt.runtime.windows import WindowPlan, plan_slide

CLASSES = 150
WARM_UPS = 5
RUNS = 30
FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Shape:
    """One model at one picture size."""

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


class Kernel:
    """A call of the C interface with its workspace."""

    def __init__(self, name: str, params: ctypes.Structure, tensors: list[torch.Tensor]) -> None:
        library = load_ctypes()
        query = getattr(library, f"{name}_workspace")
        query.restype = ctypes.c_size_t
        size = query(ctypes.byref(params))
        self._tensors = [*tensors, torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")]
        self._call = getattr(library, name)
        self._arguments = [
            ctypes.byref(params),
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in self._tensors),
            ctypes.c_size_t(size),
        ]

    def __call__(self) -> None:
        """Queue the kernel on the current stream."""
        status = self._call(*self._arguments, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        if status != 0:
            raise RuntimeError(f"{self._call.__name__} returned status {status}")


def milliseconds(run: Callable[[], object], flush: torch.Tensor) -> float:
    """Median time of `run` with a cold L2 cache."""
    times = []
    for i in range(WARM_UPS + RUNS):
        flush.fill_(i % 7)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times[WARM_UPS:])


def copy_bandwidth(flush: torch.Tensor) -> float:
    """Bytes per millisecond, read and written together, of a large device copy."""
    source = torch.empty(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source), flush)


def ints(*shape: int) -> torch.Tensor:
    """Uninitialised int32 tensor."""
    return torch.empty(shape, dtype=torch.int32, device="cuda")


def packed_lengths(batch: int, patches: int) -> torch.Tensor:
    """Tokens of each image after the merge, from 30 to 90 % of the patches."""
    kept = torch.linspace(0.3, 0.9, batch)[torch.randperm(batch)]
    return (kept * patches).int() + 1


def time_local_merge(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of AlgmLocalMerge with 53 % of the windows merging, and the bytes of its floor."""
    x = torch.randn(batch, 1 + shape.patches, shape.channels, device="cuda", dtype=torch.float16)
    windows = x[:, 1:].view(batch, shape.grid // 2, 2, shape.grid // 2, 2, shape.channels)
    merging = torch.rand(batch, shape.grid // 2, 1, shape.grid // 2, 1, 1, device="cuda") < 0.53
    windows.copy_(torch.where(merging, windows[:, :, :1, :, :1] + 0.1 * windows, windows))
    params = interface.AlgmLocalMergeParams(interface.FLOAT16, batch, shape.channels, shape.grid, shape.grid, 2, 2, 1)
    threshold, count = torch.tensor(0.5, device="cuda"), ints()
    outputs = [torch.empty_like(x), ints(x.shape[0] * x.shape[1]), ints(batch + 1), ints(batch, shape.patches), count]
    kernel = Kernel("algm_local_merge", params, [x, threshold, *outputs])
    time = milliseconds(kernel, flush)
    return time, x.nbytes + int(count) * shape.channels * 2


def time_global_merge(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of AlgmGlobalMerge, and of cuBLAS for the similarity product alone."""
    lengths = packed_lengths(batch, shape.patches)
    tokens = int(lengths.sum())
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().cuda()
    x = torch.randn(tokens, shape.channels, device="cuda", dtype=torch.float16)
    x[2::4] = x[1::4][: len(x[2::4])] + 0.1 * x[2::4]
    params = interface.AlgmGlobalMergeParams(
        interface.FLOAT16, batch, tokens, shape.channels, shape.patches, 5, 1, shape.patches + 1
    )
    sizes = torch.ones(tokens, dtype=torch.int32, device="cuda")
    token_map = torch.zeros(batch, shape.patches, dtype=torch.int32, device="cuda")
    outputs = [torch.empty_like(x), torch.empty_like(sizes), ints(batch + 1), torch.empty_like(token_map), ints()]
    kernel = Kernel("algm_global_merge", params, [x, sizes, cu_seqlens, token_map, *outputs])
    half = torch.randn(batch, tokens // batch // 2, shape.channels, device="cuda", dtype=torch.float16)
    return milliseconds(kernel, flush), milliseconds(lambda: torch.bmm(half, half.transpose(1, 2)), flush)


def time_attention(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of AlgmPackedAttention, and of PyTorch's variable-length attention."""
    from torch.nn.attention.varlen import varlen_attn

    lengths = packed_lengths(batch, shape.patches)
    tokens = int(lengths.sum())
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().cuda()
    qkv = torch.randn(tokens, 3 * shape.channels, device="cuda", dtype=torch.float16)
    params = interface.AlgmPackedAttentionParams(
        interface.FLOAT16, batch, tokens, shape.channels, shape.heads, shape.patches + 1
    )
    y = torch.empty(tokens, shape.channels, device="cuda", dtype=torch.float16)
    kernel = Kernel("algm_packed_attention", params, [qkv, cu_seqlens, y])
    q, k, v = qkv.view(tokens, 3, shape.heads, -1).unbind(1)
    longest = int(lengths.max())
    torch_time = milliseconds(lambda: varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest), flush)
    return milliseconds(kernel, flush), torch_time


def time_append(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of AlgmAppendTokens, and the bytes of its floor."""
    lengths = packed_lengths(batch, shape.patches)
    tokens = int(lengths.sum())
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().cuda()
    x = torch.randn(tokens, shape.channels, device="cuda", dtype=torch.float16)
    appended = torch.randn(CLASSES, shape.channels, device="cuda", dtype=torch.float16)
    y = torch.empty(tokens + batch * (CLASSES - 1), shape.channels, device="cuda", dtype=torch.float16)
    params = interface.AlgmAppendTokensParams(interface.FLOAT16, batch, tokens, shape.channels, CLASSES, 1)
    kernel = Kernel("algm_append_tokens", params, [x, cu_seqlens, appended, y, ints(batch + 1)])
    return milliseconds(kernel, flush), x.nbytes + y.nbytes


def time_unmerge(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of AlgmUnmerge, and the bytes of its floor."""
    lengths = packed_lengths(batch, shape.patches) + CLASSES
    tokens = int(lengths.sum())
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().cuda()
    x = torch.randn(tokens, shape.channels, device="cuda", dtype=torch.float16)
    share = torch.rand(batch, shape.patches).sort(dim=1).values
    token_map = (share * (lengths[:, None] - CLASSES)).int().cuda()
    grid = torch.empty(batch, shape.patches, shape.channels, device="cuda", dtype=torch.float16)
    tail = torch.empty(batch, CLASSES, shape.channels, device="cuda", dtype=torch.float16)
    params = interface.AlgmUnmergeParams(interface.FLOAT16, batch, tokens, shape.channels, shape.patches, CLASSES, 0)
    kernel = Kernel("algm_unmerge", params, [x, cu_seqlens, token_map, grid, tail])
    return milliseconds(kernel, flush), x.nbytes + grid.nbytes + tail.nbytes + token_map.nbytes


def time_labels(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of AlgmLabels on logits without structure (the slow case), and the bytes of its floor."""
    logits = torch.randn(batch, shape.grid, shape.grid, CLASSES, device="cuda", dtype=torch.float16)
    size = 16 * shape.grid
    labels = ints(batch, size, size)
    params = interface.AlgmLabelsParams(interface.FLOAT16, batch, shape.grid, shape.grid, CLASSES, size, size)
    return milliseconds(Kernel("algm_labels", params, [logits, labels]), flush), logits.nbytes + labels.nbytes


def slide_plan(shape: Shape, batch: int) -> WindowPlan:
    """One picture of `batch` windows (to the next multiple of 4) that overlap by a sixteenth."""
    side = 16 * shape.grid
    step = 15 * shape.grid
    return plan_slide((side + 3 * step, side + (max(4, batch) // 4 - 1) * step), (side, side), step)


def time_cut_windows(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of algm_cut_windows for one picture, and the bytes of its floor."""
    plan = slide_plan(shape, batch)
    canvas = torch.randint(256, (*plan.canvas, 3), dtype=torch.uint8, device="cuda")
    windows = torch.empty(len(plan), *plan.window, 3, dtype=torch.uint8, device="cuda")
    anchors = torch.tensor(plan.anchors, dtype=torch.int32, device="cuda")
    params = interface.AlgmCutWindowsParams(*plan.canvas, len(plan), *plan.window)
    time = milliseconds(Kernel("algm_cut_windows", params, [canvas, anchors, windows]), flush)
    return time, canvas.nbytes + windows.nbytes


def time_slide_labels(shape: Shape, batch: int, flush: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of algm_slide_labels for one picture, logits without structure, and the bytes of its floor."""
    plan = slide_plan(shape, batch)
    logits = torch.randn(len(plan), CLASSES, shape.grid, shape.grid, device="cuda", dtype=torch.float16)
    labels = torch.empty(plan.source, dtype=torch.uint8, device="cuda")
    rows, columns = axis_operators(plan, 16)
    grids = len(plan.rows), len(plan.columns), CLASSES, shape.grid, shape.grid
    tiles, supports = zip(rows.nodes.shape, columns.nodes.shape, strict=True)
    params = interface.AlgmSlideLabelsParams(interface.FLOAT16, *grids, *plan.source, *tiles, *supports)
    finite = torch.empty((), dtype=torch.int32, device="cuda")
    kernel = Kernel("algm_slide_labels", params, [logits, *uploaded(rows), *uploaded(columns), labels, finite])
    return milliseconds(kernel, flush), logits.nbytes + labels.nbytes


def uploaded(axis: AxisOperator) -> list[torch.Tensor]:
    """The operator's arrays on the device."""
    arrays = axis.starts, axis.supports, axis.nodes, axis.shares
    return [torch.from_numpy(array.copy()).cuda() for array in arrays]


def measure(batch: int) -> dict[str, Any]:
    """All kernels at all shapes."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    bandwidth = copy_bandwidth(flush)
    rows = []
    against_copy = {"local_merge": time_local_merge, "append_tokens": time_append, "unmerge": time_unmerge}
    against_copy["cut_windows"] = time_cut_windows
    slow_cases = {"labels": time_labels, "slide_labels": time_slide_labels}
    against_torch = {"global_merge": time_global_merge, "packed_attention": time_attention}
    for shape in SHAPES:
        for name, timer in (against_copy | slow_cases).items():
            time, floor_bytes = timer(shape, batch, flush)
            rows.append(_row(shape, name, time, floor_bytes / bandwidth, "device copy"))
        for name, timer in against_torch.items():
            time, other = timer(shape, batch, flush)
            rows.append(_row(shape, name, time, other, "cuBLAS" if name == "global_merge" else "torch varlen"))
    return {
        "device": torch.cuda.get_device_name(),
        "batch": batch,
        "copy_gigabytes_per_second": round(bandwidth / 1e6, 1),
        "kernels": rows,
    }


def _row(shape: Shape, kernel: str, time: float, floor: float, against: str) -> dict[str, Any]:
    row = {"shape": shape.name, "kernel": kernel, "ms": round(time, 4), "floor_ms": round(floor, 4)}
    print(f"{shape.name:10} {kernel:17} {time:8.4f} ms, {against} {floor:8.4f} ms, share {floor / time:.2f}")
    return row | {"against": against, "share": round(floor / time, 3)}


def main() -> int:
    """Measure, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 4
    results = measure(options.batch)
    if options.json:
        write_record(options.json, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
