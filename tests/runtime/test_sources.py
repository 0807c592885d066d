"""Sources: what is read, in which order, under which names; and shards of it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.sources import Source, find_sources, parse_shard, shard

Touch = Callable[..., Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def names(*inputs: str | Path, recursive: bool = False) -> list[str]:
    return [source.name for source in find_sources([str(text) for text in inputs], recursive=recursive)]


def test_a_folder_gives_its_pictures_and_videos_in_natural_order(touch: Touch) -> None:
    root = touch("b10.jpg", "b2.PNG", "A1.webp", "notes.md", "run.sh", ".hidden.jpg", "clip.MP4", "sub/c.jpg")
    found = find_sources([str(root)], recursive=False)
    assert [source.name for source in found] == ["A1", "b2", "b10", "clip"]
    assert [source.medium for source in found] == ["image", "image", "image", "video"]
    assert found[1].path == root / "b2.PNG"


def test_what_is_left_out_is_told(touch: Touch) -> None:
    said: list[str] = []
    root = touch("a.jpg", "b.HEIC", "c.HEIC", "LICENSE", "sub/d.tga", ".hidden")
    find_sources([str(root)], recursive=True, tell=said.append)
    assert said == [f"{root}: left out, no pictures or videos by their suffix: 2 .HEIC, 1 LICENSE, 1 .tga"]
    find_sources([str(root / "a.jpg"), str(root / "*.HEIC")], recursive=True, tell=said.append)
    assert len(said) == 1


def test_what_earlier_runs_wrote_is_no_input(touch: Touch) -> None:
    run = ("results.jsonl", "summary.json", "labels/a.png", "overlay/sub/a.jpg", "more/e.jpg")
    root = touch("a.jpg", *(f"old/{name}" for name in run), "labels/b.png", "half/results.jsonl", "half/labels/c.png")
    assert names(root, recursive=True) == ["a", "half/labels/c", "labels/b", "old/more/e"]
    assert names(root / "old" / "labels") == ["a"], "where it is named, it is wanted"


def test_folder_with_subfolders(touch: Touch) -> None:
    root = touch("z.jpg", "a/b.jpg", "a/c/d.jpg", "a10/x.jpg", "a2/x.jpg", ".git/e.jpg", "a/.cache/f.jpg")
    assert names(root, recursive=True) == ["a/b", "a/c/d", "a2/x", "a10/x", "z"]
    assert names(f"{root}/", recursive=True) == names(root, recursive=True)


def test_named_files_are_taken_whatever_their_suffix(touch: Touch) -> None:
    root = touch("one.dat", "two", ".three.jpg", "film.mkv", "..jpg")
    found = find_sources(
        [str(root / name) for name in ("film.mkv", "one.dat", "two", ".three.jpg", "..jpg")], recursive=False
    )
    assert [source.name for source in found] == ["film", "one", "two", ".three", "..jpg"]
    assert [source.medium for source in found] == ["video", "image", "image", "image", "image"]


def test_relative_inputs(touch: Touch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(touch("pics/a/b.jpg", "pics/c.jpg", "top.jpg"))
    assert names("pics", recursive=True) == ["a/b", "c"]
    assert names(".", recursive=True) == ["pics/a/b", "pics/c", "top"]
    assert names("*.jpg") == ["top"]
    assert names("pics/../top.jpg") == ["top"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["x"]),
        ("*", ["x", "y"]),
        ("?.[jp]*", ["x", "y"]),
        ("s*/*.jpg", ["s1/a", "s2/b"]),
        ("s1/*", ["a"]),
        ("**", ["s1/a", "s2/b", "s2/deep/c", "x", "y"]),
        ("**/*.jpg", ["s1/a", "s2/b", "s2/deep/c", "x"]),
        ("**/**/*.jpg", ["s1/a", "s2/b", "s2/deep/c", "x"]),
        ("**/deep/*", ["s2/deep/c"]),
        ("s2/**/*.jpg", ["b", "deep/c"]),
        ("**/*.dat", ["s1/raw"]),
        (".h*/*.jpg", [".hidden/h"]),
        ("*/raw.*", None),
        ("*.tiff", None),
        ("nothing/*.jpg", None),
    ],
)
def test_patterns_match_part_by_part(touch: Touch, pattern: str, expected: list[str] | None) -> None:
    root = touch("x.jpg", "y.png", "s1/a.jpg", "s1/raw.dat", "s2/b.jpg", "s2/deep/c.jpg", "text.md", ".hidden/h.jpg")
    if expected is None:
        with pytest.raises(UsageError) as caught:
            names(root / pattern)
        assert pattern.split("/")[0] in str(caught.value)
    else:
        assert names(root / pattern) == expected


def test_many_stars_find_a_file_once_and_in_no_time(touch: Touch) -> None:
    root = touch("/".join(["a"] * 24 + ["x.jpg"]))
    start = time.perf_counter()
    assert names(root / "/".join(["**", "a"] * 7) / "**" / "*.jpg") == ["/".join(["a"] * 24 + ["x"])]
    assert time.perf_counter() - start < 5


def test_a_file_that_looks_like_a_pattern_is_a_file(touch: Touch) -> None:
    root = touch("a[1].jpg", "a1.jpg")
    assert names(root / "a[1].jpg") == ["a[1]"]


def test_a_list_file_names_paths_beside_it(touch: Touch, tmp_path: Path) -> None:
    root = touch("lists/in/a.jpg", "other/b.jpg", "far/c.mp4")
    lines = [
        b"\xef\xbb\xbf# pictures",
        b"",
        b"in/a.jpg\r",
        b"  ../other/b.jpg  ",
        str(tmp_path / "far" / "c.mp4").encode(),
        b"in/../in/a.jpg",
        b"in/missing.jpg",
    ]
    (root / "lists" / "all.lst").write_bytes(b"\n".join(lines))
    found = find_sources([str(root / "lists" / "all.lst")], recursive=False)
    far = str(tmp_path / "far" / "c").lstrip("/")
    assert [source.name for source in found] == ["in/a", "other/b", far, "in/missing"]
    assert found[2].medium == "video"
    assert found[1].path.samefile(root / "other" / "b.jpg")


def test_the_suffix_of_a_list_may_be_in_capitals(touch: Touch) -> None:
    root = touch("LIST.TXT")
    (root / "LIST.TXT").write_text("a.jpg\n")
    assert names(root / "LIST.TXT") == ["a"]


def test_odd_lines_of_a_list_fail_later(touch: Touch) -> None:
    root = touch("all.txt")
    (root / "all.txt").write_text("..\n.\n/\n../..\n")
    for source in find_sources([str(root / "all.txt")], recursive=False):
        assert ".." not in source.name.split("/")
    (root / "turn").symlink_to("turn")
    (root / "all.txt").write_text("turn/a.jpg\n")
    assert [source.name for source in find_sources([str(root / "all.txt")], recursive=False)] == ["turn/a"]


def test_every_file_once(touch: Touch) -> None:
    root = touch("a.jpg", "b.jpg", "sub/c.jpg")
    (root / "again").symlink_to(root / "sub", target_is_directory=True)
    assert names(root / "b.jpg", root, root / "sub" / ".." / "a.jpg", root / "*.jpg") == ["b", "a"]
    assert names(root / "sub", root / "again") == ["c"]


def test_links_are_followed_once(touch: Touch) -> None:
    root = touch("real/a.jpg", "real/b.jpg")
    (root / "real" / "loop").symlink_to(root, target_is_directory=True)
    (root / "real" / "loop2").symlink_to("..", target_is_directory=True)
    (root / "alias").symlink_to(root / "real", target_is_directory=True)
    (root / "real" / "c.jpg").symlink_to("a.jpg")
    (root / "real" / "dangling.jpg").symlink_to("nowhere.jpg")
    (root / "real" / "itself").symlink_to("itself")
    expected = ["real/a", "real/b", "real/c", "real/dangling"]
    assert names(root, recursive=True) == expected
    assert names(root / "**" / "*.jpg") == expected
    assert names(root / "alias", recursive=True)[:4] == ["a", "b", "c", "dangling"]
    assert names(root / "real" / "dangling.jpg") == ["dangling"]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    file.touch()
    (tmp_path / "all.lst").write_bytes(b"caf\xe9.jpg\n")
    for text in (tmp_path, tmp_path / "*.jpg", tmp_path / "all.lst", file):
        (source,) = find_sources([str(text)], recursive=False)
        assert source.path == file
        assert os.fsencode(source.name) == b"caf\xe9"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an input is empty"),
        ("missing.jpg", "missing.jpg: no such file or folder"),
        ("empty", r"empty: no picture or video in this folder .*--recursive\); it holds 1 \.md"),
        ("none/*.jpg", "matches this pattern"),
        ("empty.lst", "the list names no file"),
        ("utf16.lst", "utf16.lst: not a list in UTF-8"),
        ("long.lst", "long.lst: not a list: a line of 16385 bytes is no path"),
        ("a\0b", "no such file"),
        ("x" * 300, "too long"),
    ],
)
def test_inputs_that_name_nothing(touch: Touch, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    root = touch("empty/readme.md", "empty/sub/a.jpg", "none/readme.md", "empty.lst", "good.jpg")
    (root / "empty.lst").write_text("# nothing\n")
    (root / "long.lst").write_text("sub/a.jpg\n" + "a/" * 8190 + "a.jpg\n")
    (root / "utf16.lst").write_text("sub/a.jpg\r\n", encoding="utf-16")
    monkeypatch.chdir(root)
    with pytest.raises(UsageError, match=words) as caught:
        find_sources(["good.jpg", text], recursive=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no input"):
        find_sources([], recursive=False)


def test_unreadable_folder(touch: Touch, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch("a.jpg")

    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        names(root)


@pytest.mark.parametrize("text", ["", "**/*.jpg", "**", "**/**/*.jpg", "*/*.jpg"])
def test_folders_below_that_cannot_be_read_are_told_and_left_out(
    touch: Touch, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    root = touch("lost+found/a.jpg", "sub/b.jpg", "sub/deeper/c.jpg", "sub/d.jpg")
    good = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name in ("lost+found", "deeper"):
            raise PermissionError(13, "Permission denied", str(folder))
        return good(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    said: list[str] = []
    found = find_sources([str(root / text)], recursive=True, tell=said.append)
    assert [source.name for source in found] == ["sub/b", "sub/d"]
    refused = ["lost+found"] if text == "*/*.jpg" else ["lost+found", "sub/deeper"]
    assert sorted(said) == [f"{root}/{name}: left out, cannot be read (Permission denied)" for name in refused]
    for named in ("lost+found", "lost+found/*.jpg", "lost+found/**"):
        with pytest.raises(UsageError, match=r"lost\+found: cannot be read \(Permission denied\)"):
            names(root / named, recursive=True)


def test_a_tree_deeper_than_paths_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        folder = "x" * 250
        Path(folder).mkdir()
        os.chdir(folder)
    os.chdir(tmp_path)
    for text in (tmp_path, tmp_path / "**" / "*.jpg"):
        said: list[str] = []
        assert [source.name for source in find_sources([str(text)], recursive=True, tell=said.append)] == ["a"]
        assert len(said) == 1
        assert said[0].endswith(": left out, cannot be read (File name too long)")
    shutil.rmtree(tmp_path / ("x" * 250))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.jpg", "a.png"], {"a.jpg": "a.jpg", "a.png": "a.png"}),
        (["a.jpg", "b.png"], {"a.jpg": "a", "b.png": "b"}),
        (["s/a.jpg", "a.png"], {"s/a.jpg": "s/a", "a.png": "a"}),
        (["v.mp4", "v/0001.jpg"], {"v.mp4": "v.mp4", "v/0001.jpg": "v/0001.jpg"}),
        (["a.jpg", "a.png/b.jpg"], {"a.jpg": "a.jpg", "a.png/b.jpg": "a.png/b.jpg"}),
        (["a.jpg", "a/b.jpg"], {"a.jpg": "a", "a/b.jpg": "a/b"}),
        (["A.jpg", "a.png"], {"A.jpg": "A.jpg", "a.png": "a.png"}),
        (["A.jpg", "a.jpg", "b.jpg"], {"A.jpg": "A.jpg~1", "a.jpg": "a.jpg~2", "b.jpg": "b"}),
        (["D/x.jpg", "d/x.jpg"], {"D/x.jpg": "D/x.jpg~1", "d/x.jpg": "d/x.jpg~2"}),
    ],
)
def test_names_never_collide(touch: Touch, files: list[str], expected: dict[str, str]) -> None:
    root = touch(*files)
    found = find_sources([str(root)], recursive=True)
    assert {str(source.path.relative_to(root)): source.name for source in found} == expected


def test_a_file_called_like_a_longer_name(touch: Touch) -> None:
    root = touch("a.jpg", "a.png", "a.jpg.png", "b.jpg~1", "b.jpg", "B.jpg")
    inputs = [str(path) for path in sorted(root.iterdir())]
    found = [source.name.casefold() for source in find_sources(inputs, recursive=False)]
    assert len(set(found)) == len(inputs) == 6


def test_same_file_name_in_several_folders(touch: Touch) -> None:
    root = touch("x/p/f.jpg", "y/p/f.jpg", "z/q/f.jpg")
    files = [root / folder / "f.jpg" for folder in ("x/p", "y/p", "z/q")]
    assert names(*files[1:]) == ["p/f", "q/f"]
    assert names(*files[:2]) == ["x/p/f", "y/p/f"]
    assert names(root / "x", root / "y", recursive=True) == ["x/p/f", "y/p/f"]


def test_names_do_not_depend_on_the_order(touch: Touch) -> None:
    root = touch("a.jpg", "A.jpg", "a.png", "a.jpg.png", "s/a.jpg", "t/a.jpg", "t/a.mp4", "t/a/1.jpg")
    inputs = [str(path) for path in root.rglob("*") if path.is_file()]
    reference = {source.path: source.name for source in find_sources(inputs, recursive=False)}
    assert len({name.casefold() for name in reference.values()}) == len(inputs)
    for seed in range(5):
        random.Random(seed).shuffle(inputs)
        assert {source.path: source.name for source in find_sources(inputs, recursive=False)} == reference


def test_ten_thousand_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "all.lst").write_text("".join(f"/data/{index}/frame.png\n" for index in range(10_000)))
    found = find_sources([str(tmp_path / "all.lst")], recursive=False)
    assert [source.name for source in found[:2]] == ["data/0/frame", "data/1/frame"]
    assert len({source.name for source in found}) == 10_000


def test_shards_partition_the_list() -> None:
    sources = [Source(Path(f"{index}.jpg"), str(index), "image") for index in range(11)]
    for count in (1, 2, 3, 11, 13):
        parts = [shard(sources, index, count) for index in range(1, count + 1)]
        assert sorted(itertools.chain(*parts), key=sources.index) == sources
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(UsageError, match="3/2"):
        shard(sources, 3, 2)


def test_a_shard_is_i_of_n() -> None:
    assert parse_shard("2/8") == (2, 8)
    assert parse_shard(" 1/1 ") == (1, 1)
    for text in ("", "2", "2/", "/8", "2/8/1", "a/b", "-1/8", "1.5/2", "2 of 8", "\u0661/\u0662"):
        with pytest.raises(UsageError, match="I/N"):
            parse_shard(text)
    for text in ("0/8", "9/8", "1/0"):
        with pytest.raises(UsageError, match=f"shard {text} does not exist"):
            parse_shard(text)


def test_source_names_stay_below_the_output_folder() -> None:
    for name in ("", "/a", "a//b", "../a", "a/..", "."):
        with pytest.raises(ValueError, match="relative output name"):
            Source(Path("a.jpg"), name, "image")
