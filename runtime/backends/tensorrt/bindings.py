"""TensorRT and TensorRT-RTX behind one name: which module to import, and what has to be there first.

Both have the same Python interface apart from what `tests/helpers/tensorrt_api.py` lists, so one builder and one
runtime serve both.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from algm_trt.plugins.cache_folder import cache_folder
from algm_trt.plugins.errors import MissingDependencyError

Target = Literal["tensorrt", "rtx"]

OLDEST_TENSORRT: Final = (10, 9)
CURE: Final = "pip install 'algm-trt[tensorrt]'"
RTX_CURE: Final = "pip install 'algm-trt[rtx]'"
_LEAN: Final = ("tensorrt_lean", "tensorrt_lean_bindings")
"""The lean runtime; PyPI has its bindings without the package around them."""
_RTX_LIBRARIES: Final = "tensorrt_rtx_libs"
_UNVERSIONED: Final = "libtensorrt_rtx.so"


@dataclass(frozen=True)
class TensorRT:
    """A TensorRT module that was imported.

    Attributes:
        module: `tensorrt`, `tensorrt_lean` or `tensorrt_rtx`, or the bindings below one of the last two.
        target: "tensorrt" or "rtx".
        version: such as "10.16.1.11".
    """

    module: Any
    target: Target
    version: str

    @property
    def product(self) -> str:
        """NVIDIA's name of it."""
        return "TensorRT-RTX" if self.target == "rtx" else "TensorRT"

    @property
    def name(self) -> str:
        """For people, such as "TensorRT 10.16.1.11"."""
        return f"{self.product} {self.version}"


def load_tensorrt(*, needs: str, meanwhile: str, lean: bool = False) -> TensorRT:
    """Import full TensorRT.

    Args:
        needs: a class that the module must have, such as "Builder".
        meanwhile: what works without it, to end the message with.
        lean: whether TensorRT's lean runtime will do where the full one is not.

    Raises:
        MissingDependencyError: it is not installed, too old, or cannot be loaded; the message has the cure.
    """
    module = None
    problems: list[ImportError | OSError] = []
    for name in ("tensorrt", *(_LEAN if lean else ())):
        try:
            module = importlib.import_module(name)
            break
        except (ImportError, OSError) as error:
            problems.append(error)
    if module is None:
        # A module that is there but broken says more than one that is missing.
        cause = min(problems, key=lambda problem: isinstance(problem, ModuleNotFoundError))
        raise MissingDependencyError(
            f"TensorRT is not installed here ({cause}): {CURE}, on a machine with an NVIDIA GPU; {meanwhile}"
        ) from cause
    version = str(getattr(module, "__version__", "0"))
    if version_numbers(version)[:2] < OLDEST_TENSORRT or not hasattr(module, needs):
        raise MissingDependencyError(
            f"TensorRT {version} lacks what is needed here, take 10.9 or later: {CURE}; {meanwhile}"
        )
    return TensorRT(module, "tensorrt", version)


def load_tensorrt_rtx() -> TensorRT:
    """Import TensorRT-RTX.

    Raises:
        MissingDependencyError: it is not installed or cannot be loaded; the message has the cure.
    """
    names = [name for name in ("tensorrt_rtx", "tensorrt_rtx_bindings") if importlib.util.find_spec(name)]
    if not names:
        raise MissingDependencyError(f"TensorRT-RTX is not installed: {RTX_CURE}, on Linux (x86-64, 64-bit Arm)")
    try:
        _offer_unversioned_library()
        module = importlib.import_module(names[0])
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"TensorRT-RTX cannot be loaded ({error}): {RTX_CURE}") from error
    return TensorRT(module, "rtx", str(module.__version__))


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, at most four: "10.16.1.11.post1" gives (10, 16, 1, 11)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


@cache
def _offer_unversioned_library() -> None:
    """Make `libtensorrt_rtx.so` loadable for TensorRT-RTX's ONNX parser, which ends the process when it is not.

    With a plugin in the graph the parser opens its own library by the name without version, which the wheel does not
    carry. What was found by trying: opening the library under that name first does not help, because the loader
    compares names and not files, and LD_LIBRARY_PATH is read only when a process starts. But the parser looks in the
    folder that it was opened from itself. So the libraries are opened here, before the package does it, through
    symbolic links in a folder of our own that has the missing name as well; nothing is written into site-packages.
    """
    found = importlib.util.find_spec(_RTX_LIBRARIES)
    if found is None or found.origin is None:
        return
    libraries = Path(found.origin).parent
    if (libraries / _UNVERSIONED).exists() or not (libraries / f"{_UNVERSIONED}.1").exists():
        return
    if _RTX_LIBRARIES in sys.modules:
        raise MissingDependencyError(
            f"TensorRT-RTX was imported before algm_trt, so its parser cannot find {_UNVERSIONED}: call algm_trt "
            f"first, or run: ln -s {_UNVERSIONED}.1 {libraries / _UNVERSIONED}"
        )
    folder = _linked(libraries)
    for name in (f"{_UNVERSIONED}.1", "libtensorrt_onnxparser_rtx.so.1"):
        ctypes.CDLL(str(folder / name))


def _linked(libraries: Path) -> Path:
    """A folder with links to all libraries of another: in the user's cache or, where that is closed, a passing one."""
    key = hashlib.sha256(os.fsencode(libraries)).hexdigest()[:16]
    folder = cache_folder() / f"tensorrt-rtx-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _link_all(libraries, folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="algm-rtx-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _link_all(libraries, folder)
    return folder


def _link_all(libraries: Path, folder: Path) -> None:
    links = {library.name: library for library in libraries.glob("*.so.*")}
    for name, library in (links | {_UNVERSIONED: libraries / f"{_UNVERSIONED}.1"}).items():
        link = folder / name
        if not link.is_symlink() or link.readlink() != library:
            # Another process may be doing the same: each makes its own link and moves it into place.
            draft = folder / f".{name}.{os.getpid()}"
            draft.unlink(missing_ok=True)
            draft.symlink_to(library)
            draft.replace(link)
