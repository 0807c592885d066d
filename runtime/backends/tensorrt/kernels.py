"""Slide mode on the device: windows cut from canvases, and labels at the source size from the windows' logits.

The kernels are in the plugin library (`plugins/native/slide`); their CPU twin is `runtime/windows.py` and
`runtime/field.py`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import interface
from algm_trt.plugins.library import PluginLibraryError, load_ctypes
from algm_trt.runtime.backends.tensorrt.transfers import Link
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.cuda import CudaError, Device
from algm_trt.runtime.field import axis_operators, label_dtype
from algm_trt.runtime.window_runner import NotFiniteError
from algm_trt.runtime.windows import WindowPlan


def load_kernels() -> SlideKernels | None:
    """The kernels of the plugin library, or None without a library that has them."""
    try:
        return SlideKernels(interface.declare(load_ctypes()))
    except PluginLibraryError:
        return None


class SlideKernels:
    """Calls into the plugin library; every one is queued on a stream of the caller's."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def cut(
        self,
        canvas: int,
        canvas_size: tuple[int, int],
        anchors: int,
        windows: int,
        window_size: tuple[int, int],
        *,
        count: int,
        stream: int,
    ) -> None:
        """Cut windows from a canvas.

        Args:
            canvas: address of (H, W, 3) uint8.
            canvas_size: (H, W).
            anchors: address of (count, 2) int32 top left corners.
            windows: address of (count, h, w, 3) uint8.
            window_size: (h, w).
            count: number of windows.
            stream: to queue on.

        Raises:
            CudaError: the kernel cannot be run.
        """
        params = interface.AlgmCutWindowsParams(*canvas_size, count, *window_size)
        status = self._library.algm_cut_windows(ctypes.byref(params), canvas, anchors, windows, None, 0, stream)
        self._check(status, "cutting windows")

    def labels(
        self, device: Device, link: Link, plan: WindowPlan, logits: int, card: ModelCard
    ) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
        """Labels of one picture, as `LogitField.labels`.

        Args:
            device: to take memory from.
            link: to copy and run on.
            plan: the picture's windows.
            logits: address of (n, K, gh, gw) float32.
            card: of the model: K classes on a grid of (gh, gw) patches.

        Returns:
            (H0, W0) uint8 up to 256 classes, else uint16; None if the kernel does not take this plan.

        Raises:
            NotFiniteError: some logits are not finite numbers.
            CudaError: the kernel cannot be run.
        """
        rows, columns = axis_operators(plan, card.patch_size)
        classes = len(card.classes)
        params = interface.AlgmSlideLabelsParams(
            *(interface.FLOAT32, len(plan.rows), len(plan.columns), classes, *card.grid, *plan.source),
            *(len(rows.supports), len(columns.supports), rows.nodes.shape[1], columns.nodes.shape[1]),
        )
        workspace_bytes = self._library.algm_slide_labels_workspace(ctypes.byref(params))
        axes = [array for axis in (rows, columns) for array in (axis.starts, axis.supports, axis.nodes, axis.shares)]
        packed, offsets = _packed(axes)
        labels: NDArray[Any] = np.empty(plan.source, label_dtype(classes))
        finite = np.zeros((), np.int32)
        size = packed.nbytes + _padded(finite.nbytes) + _padded(labels.nbytes)
        buffer = device.allocate(size + workspace_bytes, "labels")
        flag, workspace = buffer.address + packed.nbytes, buffer.address + size
        result = flag + _padded(finite.nbytes)
        try:
            link.upload(packed, buffer.address)
            status = self._library.algm_slide_labels(
                *(ctypes.byref(params), logits, *(buffer.address + offset for offset in offsets), result, flag),
                *(workspace, workspace_bytes, link.stream.handle),
            )
            if status == interface.STATUS_UNSUPPORTED:
                return None
            self._check(status, "computing labels")
            link.download(flag, finite)
            if not finite:
                raise NotFiniteError
            link.download(result, labels)
        finally:
            link.stream.synchronize()
            buffer.release()
        return labels

    def _check(self, status: int, what: str) -> None:
        if status != interface.STATUS_OK:
            reason = self._library.algm_status_string(status).decode()
            said = self._library.algm_last_cuda_error().decode()
            raise CudaError(f"{what} failed on the GPU: {reason} (CUDA: {said})")


def _packed(arrays: list[NDArray[Any]]) -> tuple[NDArray[np.uint8], list[int]]:
    """Arrays one after another, each on a boundary of 256 bytes, and where they begin."""
    offsets = np.cumsum([0, *(_padded(array.nbytes) for array in arrays)]).tolist()
    packed = np.zeros(offsets[-1], np.uint8)
    for array, offset in zip(arrays, offsets, strict=False):
        packed[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
    return packed, offsets[:-1]


def _padded(size: int) -> int:
    return -(-size // interface.WORKSPACE_ALIGNMENT) * interface.WORKSPACE_ALIGNMENT
