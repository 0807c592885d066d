"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.shares import refuse_locks_as_smb_does, take_locks_away

from algm_trt.runtime.file_lock import lock_alone
from algm_trt.runtime.files import check_writable, draft_of, renamed_together, write_report


def test_files_appear_together_at_the_end(tmp_path: Path) -> None:
    targets = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.jpg"]
    with renamed_together() as temporary:
        for target in targets:
            draft = temporary(target)
            assert draft.parent == target.parent
            assert draft.suffix == target.suffix
            draft.write_text("new")
            assert not target.exists()
    assert [target.read_text() for target in targets] == ["new", "new"]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["x.jpg", "x.png"]


def test_an_error_leaves_the_old_files_and_no_drafts(tmp_path: Path) -> None:
    old = tmp_path / "x.png"
    old.write_text("old")

    def write_half() -> None:
        with renamed_together() as temporary:
            temporary(old).write_text("half")
            temporary(tmp_path / "frames", folder=True).mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_replaces_the_folder_of_its_name(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    target.mkdir()
    (target / "old.png").write_text("old")
    with renamed_together() as temporary:
        draft = temporary(target, folder=True)
        draft.mkdir()
        (draft / "new.png").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new.png"]


def test_a_draft_that_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    with renamed_together() as temporary:
        draft = temporary(tmp_path / "x.png")
        draft.write_text("whole")
    draft.write_text("left behind by a killed run")
    with draft.open() as left, renamed_together() as temporary:
        assert temporary(tmp_path / "x.png") == draft
        assert not os.path.samestat(os.fstat(left.fileno()), draft.stat())  # NFS repeats failures of the old file
        draft.write_text("whole again")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_removed_draft_that_somebody_reads_on_an_smb_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its name until it is closed, and cannot be opened."""
    real_open, taken = os.open, draft_of(tmp_path / "x.png")

    def opened(path: Path, flags: int, *arguments: Any, **named: Any) -> int:
        if path == taken:
            raise FileExistsError if flags & os.O_EXCL else FileNotFoundError
        return real_open(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", opened)
    with renamed_together() as temporary:
        temporary(tmp_path / "x.png").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_draft_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = draft_of(tmp_path / "x.png")
    draft.write_bytes(b"another's")
    real_open = os.open

    def opened(path: Path, flags: int, *rest: int) -> int:
        if path == draft and not flags & os.O_EXCL:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", opened)
    with renamed_together() as temporary:
        temporary(tmp_path / "x.png").write_bytes(b"ours")
    assert ((tmp_path / "x.png").read_bytes(), draft.read_bytes()) == (b"ours", b"another's")


def test_a_folder_in_the_place_of_a_draft_is_removed(tmp_path: Path) -> None:
    (draft_of(tmp_path / "x.png") / "inside").mkdir(parents=True)
    with renamed_together() as temporary:
        temporary(tmp_path / "x.png").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_draft_of_a_folder_that_a_killed_run_left_is_made_anew(tmp_path: Path) -> None:
    left = draft_of(tmp_path / "frames")
    left.mkdir()
    (left / "old.png").touch()
    with renamed_together() as temporary:
        draft = temporary(tmp_path / "frames", folder=True)
        draft.mkdir()
        (draft / "new.png").touch()
    assert [path.name for path in tmp_path.rglob("*.png")] == ["new.png"]


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    (target / "of the user").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), renamed_together() as temporary:
        temporary(target).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["x.png", "of the user"]


def test_nothing_is_renamed_where_one_name_is_taken_by_something_else(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.write_text("the user's")

    def write(target: Path, as_folder: bool) -> None:
        with renamed_together() as temporary:
            temporary(tmp_path / "first").write_text("new")
            draft = temporary(target, folder=as_folder)
            draft.mkdir() if as_folder else draft.touch()

    with pytest.raises(IsADirectoryError, match="folder"):
        write(folder, False)
    with pytest.raises(NotADirectoryError, match="file"):
        write(file, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert file.read_text() == "the user's"


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(OSError, match="is no file that could be replaced"), renamed_together() as temporary:
            temporary(path)
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_report_goes_where_its_name_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, pipe = tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to("real/out.json")
    write_report(link, b"bytes")
    assert link.read_bytes() == b"bytes"
    write_report(link, "ä")
    assert (link.is_symlink(), (tmp_path / "real" / "out.json").read_bytes()) == (True, "ä".encode())
    os.mkfifo(pipe)
    check_writable(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text, encoding="utf-8")
        write_report(pipe, "whole")
        assert read.result(timeout=60) == "whole"
    check_writable(Path("/dev/null"))
    write_report(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()


def test_a_report_on_standard_output_stands_behind_what_is_there(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from algm_trt.runtime.files import write_report; print('a table', flush=True); "
        "write_report(Path('/dev/stdout'), 'a report')"
    )
    with (tmp_path / "out").open("ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "a table\na report"


def test_files_have_the_permissions_that_the_user_gives_new_ones(tmp_path: Path) -> None:
    mask = os.umask(0o002)
    try:
        with renamed_together() as temporary:
            temporary(tmp_path / "x.png").touch()
    finally:
        os.umask(mask)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o664


def test_locks_leave_the_content_alone(tmp_path: Path) -> None:
    """On SMB shares nobody can write what is locked, not even the owner through another descriptor."""
    content = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 2**50, 0)
    with renamed_together() as temporary, temporary(tmp_path / "x.txt").open("wb") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, content)
        assert not lock_alone(file.fileno())


def test_a_lock_of_another_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks_as_smb_does(monkeypatch)
    check_that_two_writers_do_not_meet(tmp_path / "x.txt")


def test_machines_do_not_meet_where_locks_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_locks_away(monkeypatch)
    names = cycle(["one", "two"])
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=next(names)))
    check_that_two_writers_do_not_meet(tmp_path / "x.txt")


def test_an_emulation_of_linux_that_locks_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fcntl, "fcntl", unknown)
    check_that_two_writers_do_not_meet(tmp_path / "x.txt")


def check_that_two_writers_do_not_meet(target: Path) -> None:
    with renamed_together() as first:
        first(target).write_text("first")
        with renamed_together() as second:
            second(target).write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_somebody_reads_on_an_smb_share_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_elsewhere(monkeypatch, times=3)
    write_report(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new"


def test_a_file_that_stays_open_on_an_smb_share_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_elsewhere(monkeypatch, times=1000)
    monkeypatch.setattr("algm_trt.runtime.files._PATIENCE_SECONDS", 0.1)
    with pytest.raises(PermissionError):
        write_report(tmp_path / "x.json", "new")
    assert list(tmp_path.iterdir()) == []


def open_elsewhere(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let renaming fail as it does on SMB shares where the file of the new name is open."""
    real_replace, left = Path.replace, [*range(times)]

    def replace(draft: Path, path: Path) -> Path:
        if left:
            left.pop()
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_replace(draft, path)

    monkeypatch.setattr(Path, "replace", replace)


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with renamed_together() as first, renamed_together() as second:
        first(tmp_path / "x.png").write_text("first")
        second(tmp_path / "x.png").write_text("second")  # finds the first draft taken
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_who_write_the_same_file_at_once_do_not_meet(tmp_path: Path) -> None:
    check_that_two_writers_do_not_meet(tmp_path / "x.png")


def test_many_threads_write_the_same_file_whole(tmp_path: Path) -> None:
    target, sizes = tmp_path / "x.txt", range(1, 200_000, 9973)
    target.write_text("0")

    def write(size: int) -> str:
        with renamed_together() as temporary:
            temporary(target).write_text(f"{size} " * size)
        return target.read_text()

    with ThreadPoolExecutor(8) as pool:
        for text in pool.map(write, [*sizes] * 5):
            assert text == f"{text.split(maxsplit=1)[0]} " * int(text.split(maxsplit=1)[0])
    assert list(tmp_path.iterdir()) == [target]


def test_names_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 251 + ".png")
    with renamed_together() as temporary:
        temporary(target).write_text("long")
    assert target.read_text() == "long"


def test_whether_a_file_can_be_written_is_found_out_before(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.json"
    check_writable(target)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(IsADirectoryError, match=f"^{tmp_path} is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match=f"^cannot write into {tmp_path / 'file'}: Not a directory"):
        check_writable(tmp_path / "file" / "out.json")


def test_a_nameless_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.plan"
    target.parent.mkdir()
    target.write_text("old")
    with renamed_together() as temporary:
        temporary(target, nameless=True).write_text("new")
        assert list(target.parent.iterdir()) == [target]
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_nameless_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    def write_half() -> None:
        with renamed_together() as temporary:
            temporary(tmp_path / "x.plan", nameless=True).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_process_that_is_killed_leaves_no_nameless_file(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from algm_trt.runtime.files import renamed_together\n"
        "with renamed_together() as temporary:\n"
        "    temporary(Path(sys.argv[1]), nameless=True).write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.plan")], check=False)
    assert child.returncode == -9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["nameless files", "hard links", "/proc"])
def test_file_systems_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real_open = os.open

    def opened(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real_open(path, flags, *arguments, **named)

    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if missing == "nameless files":
        monkeypatch.setattr(os, "open", opened)
    elif missing == "hard links":
        monkeypatch.setattr(os, "link", link)
    else:
        monkeypatch.setattr("algm_trt.runtime.files._DESCRIPTORS", str(tmp_path / "none") + "/")
    for text in ("first", "second"):
        with renamed_together() as temporary:
            temporary(tmp_path / "x.plan", nameless=True).write_text(text)
        assert (tmp_path / "x.plan").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["x.plan"]


def test_a_nameless_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.plan").mkdir()

    def write() -> None:
        with renamed_together() as temporary:
            temporary(tmp_path / "x.plan", nameless=True).write_text("new")

    with pytest.raises(IsADirectoryError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["x.plan"]


def test_threads_write_one_nameless_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"

    def write(number: int) -> None:
        with renamed_together() as temporary:
            temporary(target, nameless=True).write_text(f"{number} " * 50_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    text = target.read_text()
    assert text == f"{text.split(maxsplit=1)[0]} " * 50_000
    assert list(tmp_path.iterdir()) == [target]
