"""Finding and loading the plugin library: what happens where it is missing, unfit, or already loaded."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from algm_trt.plugins import interface, library
from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.plugins.library import (
    INTERFACE_VERSION,
    LIBRARY_NAME,
    LIBRARY_VARIABLE,
    PluginLibraryError,
    cache_library,
    find_library,
    last_error,
    library_candidates,
    load_ctypes,
    load_library,
    missing_operators,
)
from algm_trt.plugins.spec import OPS


@dataclass
class Creator:
    name: str
    plugin_version: str = "1"
    plugin_namespace: str = "algm"


@dataclass
class Registry:
    """A registry that takes a library, or does not."""

    takes: tuple[str, ...] = tuple(OPS)
    loaded: list[str] = field(default_factory=list)
    all_creators: list[object] = field(
        default_factory=lambda: [Creator("AlgmLabels", plugin_namespace="other"), object()]
    )

    def load_library(self, plugin_path: str) -> object:
        self.loaded.append(plugin_path)
        self.all_creators += [Creator(name) for name in self.takes]
        return object()


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the library: no variable, an empty package folder, an empty cache."""
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library.plugins, "__path__", [str(tmp_path / "package")])
    return tmp_path


@pytest.fixture(scope="session")
def foreign_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library that answers as interface version 999."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: a library of another version cannot be made")
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "other.c").write_text("int algm_version(void) { return 999; }\n")
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / LIBRARY_NAME), str(folder / "other.c")]
    subprocess.run(command, check=True)
    return folder / LIBRARY_NAME


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not a library")
    return path


def test_missing_library_lists_the_places_and_the_cure(empty_machine: Path) -> None:
    with pytest.raises(PluginLibraryError) as caught:
        find_library()
    message = str(caught.value)
    assert [str(path) in message for path in library_candidates()] == [True, True]
    assert "algm-build-plugins" in message
    assert LIBRARY_VARIABLE in message
    assert caught.value.exit_code == MissingDependencyError.exit_code == 4


def test_named_library_is_the_only_candidate(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(cache_library())
    monkeypatch.setenv(LIBRARY_VARIABLE, str(empty_machine / "absent.so"))
    with pytest.raises(PluginLibraryError, match=r"absent\.so"):
        find_library()
    monkeypatch.setenv(LIBRARY_VARIABLE, str(touch(empty_machine / "mine.so")))
    assert find_library() == empty_machine / "mine.so"


def test_library_of_the_package_comes_before_the_cache(empty_machine: Path) -> None:
    cached = touch(cache_library())
    assert find_library() == cached
    packaged = touch(empty_machine / "package" / LIBRARY_NAME)
    assert find_library() == packaged


def test_cache_is_in_the_home_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_library().parents[1] == tmp_path / ".cache" / "algm-trt"


def test_machines_of_other_processors_share_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose x86-64 and Arm machines have one home folder."""
    places = set()
    for processor in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda name=processor: name)
        places.add(cache_library())
    assert len(places) == 2
    assert {place.name for place in places} == {LIBRARY_NAME}


def test_a_user_without_a_home_has_a_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """No $HOME, and a number of the user that the system does not know: env -i, services."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 99)
    assert cache_library().parts[:3] == ("/", ".cache", "algm-trt")


def test_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginLibraryError, match="cannot be loaded"):
        load_ctypes(touch(tmp_path / LIBRARY_NAME))


def test_library_for_another_processor_says_so(foreign_library: Path, tmp_path: Path) -> None:
    """The system's loader says that there is no such file."""
    content = bytearray(foreign_library.read_bytes())
    content[18:20] = (0xBEEF).to_bytes(2, "little")  # the processor, e_machine
    other = tmp_path / LIBRARY_NAME
    other.write_bytes(content)
    with pytest.raises(PluginLibraryError, match=f"another kind of processor than {platform.machine()}; run algm-b"):
        load_ctypes(other)
    with pytest.raises(PluginLibraryError, match="No such file"):
        load_ctypes(tmp_path / "absent.so")


def test_library_of_another_version_is_refused(foreign_library: Path) -> None:
    with pytest.raises(PluginLibraryError, match="has interface 999, this package needs"):
        load_ctypes(foreign_library)


def test_library_loads_once(plugin_library: Path) -> None:
    loaded = load_ctypes(plugin_library)
    assert loaded is load_ctypes(plugin_library)
    assert loaded.algm_version() == INTERFACE_VERSION
    assert isinstance(last_error(plugin_library), str)


def test_library_shows_only_its_interface(plugin_library: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not on PATH: the library's symbols cannot be listed")
    listed = subprocess.run(["nm", "-D", str(plugin_library)], capture_output=True, text=True, check=True).stdout
    defined = [line.split()[-1] for line in listed.splitlines() if line.split()[-2] in "TDBVWRi"]
    assert {"getCreators", "setLoggerFinder", "algm_version", "algm_plugin_error"} <= set(defined)
    assert [name for name in defined if not name.startswith(("algm_", "getCreators", "setLoggerFinder"))] == []
    # Neither TensorRT nor a shared CUDA runtime is needed to load it.
    undefined = [line.split()[-1] for line in listed.splitlines() if line.split()[-2] == "U"]
    assert [name for name in undefined if "nvinfer" in name or name.startswith("cuda")] == []


def test_library_is_small_enough_to_travel_with_every_plan(plugin_library: Path) -> None:
    assert plugin_library.stat().st_size < 30e6


def test_library_of_older_sources_is_refused_in_one_line(tmp_path: Path) -> None:
    """The same interface version, from before a function was added."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: an older library cannot be made")
    source = tmp_path / "older.c"
    known = [name for name in interface.FUNCTIONS if name != "algm_cut_windows"]
    text = "".join(f"int {name}(void) {{ return 0; }}\nint {name}_workspace(void) {{ return 0; }}\n" for name in known)
    source.write_text(f"int algm_version(void) {{ return {INTERFACE_VERSION}; }}\n{text}")
    path = tmp_path / LIBRARY_NAME
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    with pytest.raises(PluginLibraryError) as caught:
        interface.declare(load_ctypes(path))
    message = str(caught.value)
    assert message.startswith(f"{path} has no algm_cut_windows: it is older than this package; run algm-build-plugins")
    assert "\n" not in message


def test_registry_gets_the_library_once(plugin_library: Path) -> None:
    registry = Registry()
    assert missing_operators(registry) == list(OPS)
    assert load_library(registry, plugin_library) == plugin_library
    assert load_library(registry, plugin_library) == plugin_library
    assert registry.loaded == [str(plugin_library)]


def test_registry_that_refuses_is_reported(plugin_library: Path) -> None:
    registry = Registry(takes=tuple(OPS)[1:])
    with pytest.raises(PluginLibraryError, match="did not take AlgmLocalMerge from"):
        load_library(registry, plugin_library)


def test_operators_of_a_parent_registry_count() -> None:
    registry = Registry()
    registry.all_creators_recursive = [Creator(name) for name in OPS]  # type: ignore[attr-defined]
    assert missing_operators(registry) == []
