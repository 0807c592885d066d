"""TensorRT's timing cache as a file that several builds may share: measured kernels are not measured again.

TensorRT-RTX has no timings; this is for the target tensorrt and was not run by us with a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from algm_trt.engines.gpu import Gpu
from algm_trt.engines.locking import update_file
from algm_trt.plugins.cache_folder import cache_folder
from algm_trt.runtime.backends.tensorrt.bindings import TensorRT


def default_timing_cache(tensorrt: TensorRT, gpu: Gpu) -> Path:
    """A file per TensorRT version and kind of GPU: neither can use the timings of another."""
    kind = "".join(letter if letter.isalnum() else "-" for letter in gpu.name.lower())
    return cache_folder() / f"timing-{tensorrt.version}-{kind}.cache"


class TimingCache:
    """The cache of one build, from a file and back to it.

    Attributes:
        path: of the file; it need not exist.
        note: what was wrong with it, or "".
    """

    def __init__(self, path: Path, config: Any) -> None:
        self.path = path
        self.note = ""
        self._config = config
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            content = b""
            self.note = f"the timing cache {path} cannot be read ({error.strerror}): kernels are timed again"
        # A file of another version or GPU gives an empty cache or a refusal; either way it starts from nothing.
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            self.note = f"the timing cache {path} does not fit this TensorRT and GPU: kernels are timed again"
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)

    def save(self) -> None:
        """Add what this build measured to the file, and keep what others added meanwhile."""
        mine = self._config.get_timing_cache()

        def merged(content: bytes) -> bytes:
            theirs = self._config.create_timing_cache(content) if content else None
            if theirs is not None:
                mine.combine(theirs, False)
            return bytes(mine.serialize())

        try:
            update_file(self.path, merged)
        except OSError as error:
            self.note = f"the timing cache {self.path} cannot be written ({error.strerror or error})"
