"""The operators of domain `algm` on CUDA tensors: the kernels of the plugin library, called through ctypes.

`algm_trt.exporter.ops` registers `dispatcher(...)` as the CUDA implementation of each operator. The library is looked
for when the first CUDA tensor arrives, or earlier with `register_kernels`. Without it, or where there is no kernel for
a type or a head dimension, the plain PyTorch function runs, and one warning line says so and why.

The two merges read their count back from the device, which waits for the stream: once per merge.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from algm_trt.plugins import interface
from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.library import PluginLibraryError, find_library, load_ctypes

Outputs = Tensor | tuple[Tensor, ...]

_DTYPES: Final = {torch.float32: interface.FLOAT32, torch.float16: interface.FLOAT16}


class NoKernelError(AlgmError):
    """The kernels do not cover this type or head dimension."""


class Kernels:
    """The six operators by the kernels of one library; arguments and results as in `algm_trt.exporter.ops`.

    Tensors lie where the library runs: in CUDA memory (work is queued on the current stream of their device), or, with
    the library that the tests compile for the CPU, in host memory. Activations are float32 or float16.

    Attributes:
        path: the library.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Load a library.

        Args:
            path: the library; None looks for it.

        Raises:
            PluginLibraryError: it is missing, cannot be loaded, or has another interface version.
        """
        self.path = (path or find_library()).resolve()
        self._library = interface.declare(load_ctypes(self.path))

    def local_merge(
        self, x: Tensor, threshold: Tensor, grid: Sequence[int], window: Sequence[int], extra_tokens: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`x` (B, E+N0, C), `threshold` () -> y (T1, C), sizes (T1), cu_seqlens (B+1), token_map (B, N0), count ()."""
        batch, per_image, channels = x.shape
        params = interface.AlgmLocalMergeParams(_dtype(x), batch, channels, *grid, *window, extra_tokens)
        inputs = [_dense(x), threshold.to(x.device, torch.float32)]
        outputs = _merge_outputs(x, batch * per_image, batch, per_image - extra_tokens)
        self._launch("algm_local_merge", params, [*inputs, *outputs])
        return _cut(*outputs)

    def global_merge(
        self,
        x: Tensor,
        sizes: Tensor,
        cu_seqlens: Tensor,
        token_map: Tensor,
        layer: int,
        extra_tokens: int,
        max_tokens: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Packed tokens -> fewer packed tokens: y (T2, C), sizes, cu_seqlens, token_map (composed), count ()."""
        (rows, channels), (batch, patches) = x.shape, token_map.shape
        params = interface.AlgmGlobalMergeParams(
            _dtype(x), batch, rows, channels, patches, layer, extra_tokens, max_tokens
        )
        inputs = [_dense(x), *(_integers(tensor, x) for tensor in (sizes, cu_seqlens, token_map))]
        outputs = _merge_outputs(x, rows, batch, patches)
        self._launch("algm_global_merge", params, [*inputs, *outputs])
        return _cut(*outputs)

    def packed_attention(self, qkv: Tensor, cu_seqlens: Tensor, heads: int, max_tokens: int) -> Tensor:
        """`qkv` (T, 3C) -> (T, C): softmax attention inside each image."""
        rows, width = qkv.shape
        params = interface.AlgmPackedAttentionParams(
            _dtype(qkv), len(cu_seqlens) - 1, rows, width // 3, heads, max_tokens
        )
        y = qkv.new_empty(rows, width // 3)
        self._launch("algm_packed_attention", params, [_dense(qkv), _integers(cu_seqlens, qkv), y])
        return y

    def append_tokens(self, x: Tensor, cu_seqlens: Tensor, tokens: Tensor, drop: int) -> tuple[Tensor, Tensor]:
        """Leave out `drop` leading tokens of each image, append tokens (K, C): y and its cu_seqlens."""
        (rows, channels), batch, appended = x.shape, len(cu_seqlens) - 1, len(tokens)
        params = interface.AlgmAppendTokensParams(_dtype(x), batch, rows, channels, appended, drop)
        y = x.new_empty(rows + batch * (appended - drop), channels)
        new_cu_seqlens = x.new_empty(batch + 1, dtype=torch.int32)
        inputs = [_dense(x), _integers(cu_seqlens, x), _dense(tokens.to(x.dtype))]
        self._launch("algm_append_tokens", params, [*inputs, y, new_cu_seqlens])
        return y, new_cu_seqlens

    def unmerge(
        self, x: Tensor, cu_seqlens: Tensor, token_map: Tensor, appended: int, drop: int
    ) -> tuple[Tensor, Tensor]:
        """Packed tokens (T, C) -> grid (B, N0, C) and the last `appended` tokens of each image (B, K, C)."""
        (rows, channels), (batch, patches) = x.shape, token_map.shape
        params = interface.AlgmUnmergeParams(_dtype(x), batch, rows, channels, patches, appended, drop)
        grid, tail = x.new_empty(batch, patches, channels), x.new_empty(batch, appended, channels)
        inputs = [_dense(x), _integers(cu_seqlens, x), _integers(token_map, x)]
        self._launch("algm_unmerge", params, [*inputs, grid, tail])
        return grid, tail

    def labels(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (B, h, w, K) -> labels (B, H, W) int32: bilinear, then argmax."""
        batch, height, width, classes = logits.shape
        params = interface.AlgmLabelsParams(_dtype(logits), batch, height, width, classes, *size)
        found = logits.new_empty(batch, *size, dtype=torch.int32)
        self._launch("algm_labels", params, [_dense(logits), found])
        return found

    def _launch(self, name: str, params: ctypes.Structure, tensors: Sequence[Tensor]) -> None:
        """Queue one operator; the tensors are dense and in the order of the header."""
        device = tensors[0].device
        with _current(device):
            size = int(getattr(self._library, f"{name}_workspace")(ctypes.byref(params)))
            # Freed when this function returns: torch's allocator hands it out again only in the order of the stream.
            room = torch.empty(size + interface.WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=device) if size else None
            status = getattr(self._library, name)(
                ctypes.byref(params),
                *(tensor.data_ptr() for tensor in tensors),
                _aligned(room.data_ptr()) if room is not None else None,
                size,
                torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None,
            )
        if status != interface.STATUS_OK:
            raise self._error(name, status, params)

    def _error(self, name: str, status: int, params: ctypes.Structure) -> AlgmError:
        reason = self._library.algm_status_string(status).decode()
        given = ", ".join(f"{field[0]} {getattr(params, field[0])}" for field in params._fields_)
        if status == interface.STATUS_UNSUPPORTED:
            return NoKernelError(f"{name} ({given}): {reason}")
        said = self._library.algm_last_cuda_error().decode()
        return AlgmError(f"{name} ({given}) failed: {reason}; last error of CUDA: {said}")


class _Installed:
    """The kernels that CUDA tensors go to; looked for once."""

    def __init__(self) -> None:
        self._kernels: Kernels | None = None
        self._looked = False

    def install(self, kernels: Kernels | None) -> None:
        self._kernels, self._looked = kernels, True

    def get(self) -> Kernels | None:
        if not self._looked:
            try:
                self.install(Kernels())
            except PluginLibraryError as error:
                self.install(None)
                _warn(f"the operators of algm run without their kernels on this GPU, which is slow: {error}")
        return self._kernels


_installed = _Installed()


def register_kernels(library: Path | None = None) -> Path:
    """Load the kernels for CUDA tensors now instead of at first use, and fail where that would only warn.

    Args:
        library: the plugin library; None looks for it.

    Returns:
        Path of the library.

    Raises:
        PluginLibraryError: it is missing, cannot be loaded, or has another interface version.
    """
    kernels = Kernels(library)
    _installed.install(kernels)
    return kernels.path


def dispatcher(name: str, plain: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """What `algm::name` does with CUDA tensors.

    Args:
        name: method of `Kernels`.
        plain: the operator in PyTorch; takes its place where there are no kernels.
    """

    def run(*arguments: Any) -> Outputs:
        kernels = _installed.get()
        if kernels is None:
            return plain(*arguments)
        try:
            result: Outputs = getattr(kernels, name)(*arguments)
        except NoKernelError as error:
            _warn(f"algm::{name} runs without its kernel, which is slow: {error}")
            return plain(*arguments)
        return result

    return run


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _dtype(x: Tensor) -> int:
    if x.dtype not in _DTYPES:
        raise NoKernelError(f"the kernels take float32 and float16, not {str(x.dtype).removeprefix('torch.')}")
    return _DTYPES[x.dtype]


def _dense(x: Tensor) -> Tensor:
    """The same values, contiguous and aligned as the kernels need it."""
    x = x.contiguous()
    return x if x.data_ptr() % interface.TENSOR_ALIGNMENT == 0 else x.clone()


def _integers(tensor: Tensor, like: Tensor) -> Tensor:
    """Contiguous int32 where `like` lies."""
    return tensor.to(like.device, torch.int32).contiguous()


def _merge_outputs(x: Tensor, rows: int, batch: int, patches: int) -> list[Tensor]:
    """Room for y, sizes, cu_seqlens, token_map and count of a merge that merges nothing."""
    shapes = ((rows,), (batch + 1,), (batch, patches), ())
    return [x.new_empty(rows, x.shape[-1]), *(x.new_empty(shape, dtype=torch.int32) for shape in shapes)]


def _cut(
    y: Tensor, sizes: Tensor, cu_seqlens: Tensor, token_map: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs of a merge without the rows that are not in use; waits for the device."""
    rows = int(count)
    return y[:rows], sizes[:rows], cu_seqlens, token_map, count


def _aligned(address: int) -> int:
    return address + -address % interface.WORKSPACE_ALIGNMENT


def _current(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
