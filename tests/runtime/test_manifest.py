"""results.jsonl: lines, resuming, killed runs, shards, locks."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture
from helpers.shares import refuse_locks_as_smb_does

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime import manifest as manifest_module
from algm_trt.runtime.manifest import Manifest, part_suffix
from algm_trt.runtime.records import Record, Tally, Totals, input_state
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.sources import Source
from algm_trt.runtime.writers import WrittenFile


def make_source(folder: Path, name: str) -> Source:
    path = folder / f"{name}.jpg"
    if not path.exists():
        path.write_text(name)
    return Source(path, name, "image")


def make_record(folder: Path, source: Source, *, status: str = "ok", run: str = "run1") -> Record:
    labels = folder / "labels" / f"{source.name}.png"
    labels.parent.mkdir(exist_ok=True)
    labels.write_bytes(b"labels of " + source.name.encode("utf-8", "surrogateescape"))
    size, changed = input_state(source.path)
    return Record(
        path=str(source.path),
        name=source.name,
        status=status,
        run=run,
        error=None if status == "ok" else "broken",
        tokens=(10.0, 8.0, 4.0),
        windows=3,
        class_pixels={"0": 5, "7": 2},
        files=(WrittenFile(f"labels/{source.name}.png", labels.stat().st_size),),
        input_bytes=size,
        input_mtime_ns=changed,
    )


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    return [make_source(tmp_path, name) for name in ("a", "b", "c")]


def write_run(folder: Path, sources: list[Source], **changes: str) -> None:
    with Manifest(folder, sources, "run1", resume=False) as manifest:
        for source in sources:
            manifest.append(make_record(folder, source, **changes))


def resumed(folder: Path, sources: list[Source], run: str = "run1") -> set[str]:
    with Manifest(folder, sources, run, resume=True) as manifest:
        return manifest.done


def names_in(path: Path) -> list[str]:
    return [json.loads(line)["name"] for line in path.read_text().splitlines()]


def test_lines_are_in_the_file_when_append_returns(tmp_path: Path, sources: list[Source]) -> None:
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        for count, source in enumerate(sources, start=1):
            manifest.append(make_record(tmp_path, source))
            assert len((tmp_path / "results.jsonl").read_text().splitlines()) == count
            assert manifest.totals.ok == count
    line = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert line["status"] == "ok"
    assert line["files"] == [{"path": "labels/a.png", "bytes": 11, "count": None}]


def test_records_survive_their_text(tmp_path: Path) -> None:
    source = Source(tmp_path / os.fsdecode(b"odd\xff\n\xc3\xa9.jpg"), os.fsdecode(b"odd\xff\n\xc3\xa9"), "image")
    record = make_record(tmp_path, source)
    text = record.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert Record.from_json(text) == record


def test_without_resume_a_run_begins_anew(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        assert manifest.done == set()
    assert names_in(tmp_path / "results.jsonl") == []


def test_resume_keeps_what_is_done_and_whole(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    assert resumed(tmp_path, sources) == {"a", "b", "c"}
    assert names_in(tmp_path / "results.jsonl") == ["a", "b", "c"]


def test_resume_does_again_what_another_model_or_other_options_did(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    assert resumed(tmp_path, sources, run="run2") == set()


def test_resume_tries_failures_again(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources, status="error")
    assert resumed(tmp_path, sources) == set()
    assert names_in(tmp_path / "results.jsonl") == []


def test_resume_notices_missing_and_short_files(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    (tmp_path / "labels/a.png").unlink()
    (tmp_path / "labels/b.png").write_text("short")
    assert resumed(tmp_path, sources) == {"c"}


def test_resume_notices_inputs_that_changed_or_vanished(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    os.utime(sources[0].path, ns=(1, 1))
    sources[1].path.unlink()
    assert resumed(tmp_path, sources) == {"c"}


def test_resume_keeps_inputs_from_a_distant_future(tmp_path: Path, sources: list[Source]) -> None:
    os.utime(sources[0].path, (0, 13_600_000_000))  # seconds: in the year 2400
    write_run(tmp_path, sources)
    assert resumed(tmp_path, sources) == {"a", "b", "c"}


def test_resume_notices_another_input_of_the_same_name(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    other = replace(sources[0], path=sources[1].path)
    assert resumed(tmp_path, [other, *sources[1:]]) == {"b", "c"}


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_resume_takes_a_killed_run_s_last_line_for_what_it_is(tmp_path: Path, sources: list[Source], cut: int) -> None:
    write_run(tmp_path, sources)
    path = tmp_path / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    complete = cut == -1  # only the line's end is missing
    assert resumed(tmp_path, sources) == ({"a", "b", "c"} if complete else {"a", "b"})
    with Manifest(tmp_path, sources, "run1", resume=True) as manifest:
        manifest.append(make_record(tmp_path, sources[2]))
    assert all(Record.from_json(line) for line in path.read_text().splitlines())


def test_resume_survives_a_file_of_something_else(tmp_path: Path, sources: list[Source]) -> None:
    (tmp_path / "results.jsonl").write_bytes(b'\xff\xfe{}\n[]\n{"name": 3}\nnull\n')
    assert resumed(tmp_path, sources) == set()


def test_resume_keeps_one_line_per_input(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text() * 2)
    assert resumed(tmp_path, sources) == {"a", "b", "c"}
    assert names_in(path) == ["a", "b", "c"]


def test_what_a_run_killed_at_its_beginning_left_does_not_count(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    path = tmp_path / "results.jsonl"
    path.rename(tmp_path / ".results.jsonl.part")
    assert resumed(tmp_path, sources) == set()
    assert path.read_text() == ""


def test_lines_about_other_inputs_stay_while_they_are_true(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    with Manifest(tmp_path, [sources[2], make_source(tmp_path, "d")], "run1", resume=True) as manifest:
        assert (manifest.done, manifest.others, manifest.totals.ok) == ({"c"}, 2, 3)


def test_an_input_that_has_another_name_by_now_counts_once(tmp_path: Path, sources: list[Source]) -> None:
    write_run(tmp_path, sources)
    renamed = replace(sources[0], name="a.jpg")
    with Manifest(tmp_path, [renamed, *sources[1:]], "run1", resume=True) as manifest:
        assert (manifest.done, manifest.others, manifest.totals.ok) == ({"b", "c"}, 0, 2)


def test_a_folder_of_frames_is_checked_by_number_and_bytes(tmp_path: Path, sources: list[Source]) -> None:
    frames = tmp_path / "labels" / "clip"
    frames.mkdir(parents=True)
    for index in range(3):
        (frames / f"{index}.png").write_text("frame")
    record = replace(make_record(tmp_path, sources[0]), files=(WrittenFile("labels/clip", 15, 3),))
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        manifest.append(record)
    assert resumed(tmp_path, sources) == {"a"}
    (frames / "2.png").unlink()
    (frames / "1.png").write_text("frame" * 2)
    assert resumed(tmp_path, sources) == set()


def test_shards_have_files_of_their_own(tmp_path: Path, sources: list[Source]) -> None:
    assert part_suffix(None) == ""
    with (
        Manifest(tmp_path, sources[:2], "run1", resume=False, part=(1, 2)) as first,
        Manifest(tmp_path, sources[2:], "run1", resume=False, part=(2, 2)) as second,
    ):
        first.append(make_record(tmp_path, sources[0]))
        second.append(make_record(tmp_path, sources[2]))
        assert first.write_summary({}).name == "summary-1-of-2.json"
    assert names_in(tmp_path / "results-1-of-2.jsonl") == ["a"]
    assert names_in(tmp_path / "results-2-of-2.jsonl") == ["c"]


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_cannot_write_the_same_file(tmp_path: Path, sources: list[Source], resume: bool) -> None:
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        manifest.append(make_record(tmp_path, sources[0]))
        with pytest.raises(AlgmError, match="another run is writing"):
            Manifest(tmp_path, sources, "run1", resume=resume)
        manifest.append(make_record(tmp_path, sources[1]))
    assert names_in(tmp_path / "results.jsonl") == ["a", "b"]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_a_run_of_another_machine_on_an_smb_share_is_seen(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks_as_smb_does(monkeypatch)
    with Manifest(tmp_path, sources, "run1", resume=False), pytest.raises(AlgmError, match="another run is writing"):
        Manifest(tmp_path, sources, "run1", resume=False)


def test_a_line_keeps_the_lock_on_an_smb_share(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing any copy of a locked descriptor ends the lock there."""
    monkeypatch.setattr(os, "dup", lambda _: pytest.fail("the lock is lost"))
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        manifest.append(make_record(tmp_path, sources[0]))


def test_of_two_runs_that_begin_at_once_one_is_refused(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, sources[:2])
    read_lines = Manifest._lines

    def lines_while_another_run_begins(manifest: Manifest) -> Iterator[Record]:
        monkeypatch.setattr(Manifest, "_lines", read_lines)
        with pytest.raises(AlgmError, match="another run is writing"):
            Manifest(tmp_path, sources, "run1", resume=True)
        yield from read_lines(manifest)

    monkeypatch.setattr(Manifest, "_lines", lines_while_another_run_begins)
    with Manifest(tmp_path, sources, "run1", resume=True) as manifest:
        manifest.append(make_record(tmp_path, sources[2]))
    assert names_in(tmp_path / "results.jsonl") == ["a", "b", "c"]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_the_summary_of_an_earlier_run_does_not_outlive_the_beginning_of_the_next(
    tmp_path: Path, sources: list[Source]
) -> None:
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        summary = manifest.write_summary({"ending": "complete"})
    with Manifest(tmp_path, sources, "run1", resume=True):
        assert not summary.exists()


def test_a_full_disk_of_a_server_is_an_error_of_the_line(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS takes every line, and says when a descriptor is closed that the server could not."""

    def closed(descriptor: int) -> None:
        real_close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real_close = os.close
    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        monkeypatch.setattr(os, "close", closed)
        with pytest.raises(AlgmError, match="No space left on device: free space, then --resume goes on"):
            manifest.append(make_record(tmp_path, sources[0]))


def test_a_disk_that_was_full_for_the_run_before_does_not_count(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats the failure when the results file of that run is closed again, though nothing was written."""

    class OnFullServer(FileIO):
        def close(self) -> None:
            known = not self.closed and str(self.name).endswith("/results.jsonl")
            super().close()
            if known:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_run(tmp_path, sources)
    monkeypatch.setattr(manifest_module, "FileIO", OnFullServer)
    assert resumed(tmp_path, sources) == {"a", "b", "c"}


def test_a_full_disk_is_one_clear_error(tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: FileIO, record: Record) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Manifest(tmp_path, sources, "run1", resume=False) as manifest:
        monkeypatch.setattr(manifest_module, "_write_line", full)
        with pytest.raises(AlgmError, match=r"cannot write .*results\.jsonl: No space left on device"):
            manifest.append(make_record(tmp_path, sources[0]))


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path, sources: list[Source]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AlgmError, match="cannot write"):
        Manifest(tmp_path / "file", sources, "run1", resume=False)


def test_tallies_count_windows_tokens_and_pixels() -> None:
    results = [Segmenter(FakeEngine())(color_picture(*size)) for size in ((45, 71), (32, 32))]
    total = Tally.of(results[0]) + Tally.of(results[1])
    counts = np.concatenate([result.token_counts for result in results])
    labels = np.concatenate([result.labels.ravel() for result in results])
    assert total.windows == len(counts)
    assert total.token_means() == tuple(np.round(counts.mean(axis=0), 2))
    assert total.class_pixels == {str(index): int((labels == index).sum()) for index in np.unique(labels)}
    assert Tally().token_means() is None


def test_counting_a_large_picture_takes_little_memory() -> None:
    rows = np.arange(3001)[:, None] % 150
    labels = np.broadcast_to(rows, (3001, 2003)).astype(np.uint8)
    result = replace(
        Segmenter(FakeEngine())(color_picture(32, 32)),
        labels=labels,
        classes=tuple(f"c{index}" for index in range(150)),
    )
    tracemalloc.start()
    pixels = Tally.of(result).class_pixels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.nbytes
    assert pixels == {str(index): 2003 * (21 if index == 0 else 20) for index in range(150)}


def test_totals_leave_out_failures(tmp_path: Path, sources: list[Source]) -> None:
    totals = Totals()
    totals.add(make_record(tmp_path, sources[0]))
    totals.add(make_record(tmp_path, sources[1], status="error"))
    assert (totals.ok, totals.failed) == (1, 1)
    assert totals.tally.token_means() == (10.0, 8.0, 4.0)
    assert totals.tally.class_pixels == {"0": 5, "7": 2}


def test_totals_count_the_frames_of_videos_alone(tmp_path: Path, sources: list[Source]) -> None:
    totals = Totals()
    for frames in (7, None, 2):
        totals.add(replace(make_record(tmp_path, sources[0]), frames=frames))
    assert (totals.ok, totals.frames, totals.tally.windows) == (3, 9, 9)


def test_a_line_without_windows_adds_nothing() -> None:
    assert Record("a.jpg", "a", "ok", "run1").tally() == Tally()


@pytest.mark.parametrize(
    "change",
    [
        {"name": ["a"]},
        {"path": 5},
        {"tokens": [5.0, 4.0]},
        {"tokens": ["5", 4, 3]},
        {"windows": "many"},
        {"windows": 10**400},
        {"class_pixels": [1]},
        {"class_pixels": {"1": None}},
        {"frames": "2"},
        {"files": [{"path": "labels/a\0.png", "bytes": 11}]},
    ],
    ids=str,
)
def test_resume_does_again_what_a_line_of_another_kind_is_about(
    tmp_path: Path, sources: list[Source], change: dict[str, object]
) -> None:
    write_run(tmp_path, sources)
    path = tmp_path / "results.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *others, ""]))
    assert resumed(tmp_path, sources) == {"b", "c"}


def test_resume_reads_no_more_of_a_line_than_a_line_can_have(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "_LONGEST_LINE", 2**12)
    write_run(tmp_path, sources)
    path = tmp_path / "results.jsonl"
    path.write_text("[" * 2**14 + "\n" + path.read_text())
    lengths = []
    read = Record.from_json
    monkeypatch.setattr(Record, "from_json", lambda line: lengths.append(len(line)) or read(line))
    assert resumed(tmp_path, sources) == {"a", "b", "c"}
    assert max(lengths) == 2**12
