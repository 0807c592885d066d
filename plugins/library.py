"""The native library of the operators: where it lies, loading it for TensorRT and for ctypes.

The library is in the wheel where nvcc was there at installation; elsewhere `algm-build-plugins` makes it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

from algm_trt import plugins
from algm_trt.plugins.cache_folder import cache_folder
from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.plugins.spec import OPS, PLUGIN_NAMESPACE, PLUGIN_VERSION

LIBRARY_NAME: Final = "libalgm_plugins.so"
LIBRARY_VARIABLE: Final = "ALGM_PLUGINS_LIB"
INTERFACE_VERSION: Final = 1
"""What `algm_version()` of a library must return to work with this package."""

CURE: Final = f"run algm-build-plugins (needs nvcc), or set {LIBRARY_VARIABLE} to a library that was built elsewhere"
"""What to do about a library that is missing or unfit; ends a message."""


class PluginLibraryError(MissingDependencyError):
    """The plugin library is missing, of another version, or cannot be loaded. Exit code 4."""


class PluginRegistry(Protocol):
    """The part of TensorRT's IPluginRegistry that is used here."""

    @property
    def all_creators(self) -> Iterable[Any]:
        """Creators that the registry has, without those of its parent."""
        ...

    def load_library(self, plugin_path: str) -> object:
        """Load a library that exports getCreators; None when that fails."""
        ...


def cache_library() -> Path:
    """Where `algm-build-plugins` puts the library unless told otherwise: the user's cache.

    By interface version and processor: x86-64 and Arm machines of a cluster share a home folder.
    """
    return cache_folder() / f"interface-{INTERFACE_VERSION}-{platform.machine()}" / LIBRARY_NAME


def library_candidates() -> list[Path]:
    """Places where the library is looked for, in order. A set ALGM_PLUGINS_LIB is the only one."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return [Path(named)]
    # An editable installation has two folders: the sources and what was built.
    beside = [Path(folder) / LIBRARY_NAME for folder in plugins.__path__]
    return [*beside, cache_library()]


def find_library() -> Path:
    """Path of the plugin library.

    Raises:
        PluginLibraryError: it is in none of the places; the message lists them and says how to get it.
    """
    candidates = library_candidates()
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    tried = ", ".join(map(str, candidates))
    if os.environ.get(LIBRARY_VARIABLE):
        raise PluginLibraryError(
            f"there is no plugin library at {tried} ({LIBRARY_VARIABLE}); unset the variable or {CURE}"
        )
    raise PluginLibraryError(f"the plugin library is not here; looked for {tried}; {CURE}")


def load_ctypes(path: Path | None = None) -> ctypes.CDLL:
    """The library's C interface (`native/algm.h`) through ctypes; a second call gives the same object.

    Args:
        path: the library; None looks for it.

    Raises:
        PluginLibraryError: it is missing, cannot be loaded, or has another interface version.
    """
    return _open((path or find_library()).resolve())


def load_library(registry: PluginRegistry, path: Path | None = None) -> Path:
    """Register the operators with TensorRT, unless the registry has them already.

    A builder and a runtime have a registry each; a child of the global one sees what that has loaded.

    Args:
        registry: `builder.get_plugin_registry()`, `runtime.get_plugin_registry()` or `tensorrt.get_plugin_registry()`.
        path: the library; None looks for it.

    Returns:
        Path of the library, for `config.plugins_to_serialize`.

    Raises:
        PluginLibraryError: it is missing or unfit, or TensorRT does not take it.
    """
    library = (path or find_library()).resolve()
    _open(library)
    # TensorRT logs errors when asked for a creator that it lacks, or to load a library twice: look first.
    if missing_operators(registry):
        registry.load_library(str(library))
    missing = missing_operators(registry)
    if missing:
        raise PluginLibraryError(
            f"TensorRT did not take {', '.join(missing)} from {library}; its log says why. "
            "The library serves TensorRT 10.9 and later"
        )
    return library


def missing_operators(registry: PluginRegistry) -> list[str]:
    """Names of our operators that a registry (with its parents, where it can list them) does not have."""
    creators = getattr(registry, "all_creators_recursive", None)
    have = {
        (creator.name, creator.plugin_version, creator.plugin_namespace)
        for creator in (registry.all_creators if creators is None else creators)
        if hasattr(creator, "plugin_namespace")
    }
    return [name for name in OPS if (name, PLUGIN_VERSION, PLUGIN_NAMESPACE) not in have]


def last_error(path: Path | None = None) -> str:
    """What a plugin complained about last in this process, such as an attribute out of range; "" when nothing.

    TensorRT itself only says "could not create the plugin".
    """
    ask = load_ctypes(path).algm_plugin_error
    ask.restype = ctypes.c_char_p
    return str(ask().decode())


@cache
def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        version = library.algm_version()
    except (OSError, AttributeError) as error:
        cause = str(error)
        if path.is_file() and cause.startswith(f"{path}: cannot open shared object file: No such file"):
            cause = f"it was built for another kind of processor than {platform.machine()}"  # the loader passes it over
        raise PluginLibraryError(f"{path} cannot be loaded as the plugin library: {cause}; {CURE}") from error
    if version != INTERFACE_VERSION:
        raise PluginLibraryError(f"{path} has interface {version}, this package needs {INTERFACE_VERSION}; {CURE}")
    return library
