"""The timing cache: a file that several builds share, of one version and kind of GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from algm_trt.engines.bindings import load_builder
from algm_trt.engines.gpu import Gpu
from algm_trt.engines.timing_cache import TimingCache, default_timing_cache
from algm_trt.runtime.backends.tensorrt.bindings import TensorRT


def test_timing_caches_differ_by_version_and_gpu() -> None:
    one, two = TensorRT(None, "tensorrt", "10.9.0.34"), TensorRT(None, "tensorrt", "11.4.0.106")
    gpu = Gpu("NVIDIA H100 80GB/HBM3", 90, 81559)
    assert default_timing_cache(one, gpu).name == "timing-10.9.0.34-nvidia-h100-80gb-hbm3.cache"
    assert default_timing_cache(two, gpu) != default_timing_cache(one, gpu)


class Timings:
    """A timing cache as TensorRT keeps one: it serialises to what was measured."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def combine(self, other: Timings, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.content += other.content
        return True

    def serialize(self) -> bytes:
        return self.content


class Config:
    """The calls of a builder's configuration that a timing cache needs; `refused` is of another GPU."""

    def __init__(self, refused: bytes | None = None) -> None:
        self.refused = refused
        self.cache = Timings(b"unset")

    def create_timing_cache(self, content: bytes) -> Timings:
        return Timings(content)

    def set_timing_cache(self, cache: Timings, ignore_mismatch: bool) -> bool:
        assert isinstance(cache, Timings)
        assert not ignore_mismatch
        fits = cache.content != self.refused
        if fits:
            self.cache = cache
        return fits

    def get_timing_cache(self) -> Timings:
        return self.cache


def test_timings_of_builds_at_the_same_time_all_count(tmp_path: Path) -> None:
    path = tmp_path / "t.cache"
    one, two = Config(), Config()
    caches = [TimingCache(path, one), TimingCache(path, two)]
    one.cache.content, two.cache.content = b"1", b"2"
    for cache in caches:
        cache.save()
    assert sorted(path.read_bytes()) == sorted(b"12")
    later = Config()
    assert TimingCache(path, later).note == ""
    assert later.cache.content == path.read_bytes()


def test_timings_of_another_gpu_are_a_note_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "t.cache"
    path.write_bytes(b"another")
    config = Config(refused=b"another")
    assert f"{path} does not fit this TensorRT and GPU" in TimingCache(path, config).note
    assert config.cache.content == b""


def test_timing_cache_that_cannot_be_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "t.cache"
    path.touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    config = Config()
    assert f"{path} cannot be read (Permission denied)" in TimingCache(path, config).note
    assert config.cache.content == b""


@pytest.fixture
def config() -> Iterator[Any]:
    """A real builder's configuration. TensorRT-RTX has the calls, with nothing behind them, and says so."""
    trt = load_builder("rtx").module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        yield builder.create_builder_config()


@pytest.mark.rtx
def test_timing_cache_is_saved_and_read_again(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.cache"
    first = TimingCache(path, config)
    assert first.note == ""
    first.save()
    assert path.stat().st_size > 0
    second = TimingCache(path, config)
    second.save()
    assert (first.note, second.note) == ("", "")
    assert [file.name for file in path.parent.iterdir()] == ["t.cache"]


@pytest.mark.rtx
def test_timing_cache_that_cannot_be_written_is_a_note(config: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = TimingCache(tmp_path / "file" / "t.cache", config)
    cache.save()
    assert "cannot be written" in cache.note
