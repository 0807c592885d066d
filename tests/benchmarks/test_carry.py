"""Filling `.carry/`: what is copied, what is left out, and what is too large for one transfer."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import carry
import pytest

from algm_trt.runtime.engine_record import read_record


def listed(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def written(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_every_group_holds_what_gpu_all_looks_for(
    drawn_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headers = written(tmp_path / "include", "NvInfer.h", "readme.md")
    (headers / "NvInferVersion.h").write_text("#define TRT_MAJOR_ENTERPRISE 11 //!< major\n")
    code = written(tmp_path / "checkout", "algm/patch/a.py", "segm/model/vit.py", "algm/__pycache__/a.pyc", "notes")
    trained = written(tmp_path / "camvid", "checkpoint.pth", "variant.yml", "log.txt")
    root = tmp_path / ".carry"
    command = ["--root", str(root), "--headers", str(headers), "--official", str(code), "--checkpoint", str(trained)]
    command += ["--camvid", str(drawn_camvid), "--pictures", str(drawn_camvid / "images" / "train")]
    assert carry.main(command) == 0
    files = listed(root)
    assert {name for name in files if not name.startswith("camvid")} == {
        *("tensorrt/headers/11/NvInfer.h", "tensorrt/headers/11/NvInferVersion.h", "pictures.npz"),
        *("official/algm/patch/a.py", "official/segm/model/vit.py"),
        *("checkpoints/camvid/checkpoint.pth", "checkpoints/camvid/variant.yml"),
    }
    assert sum(name.startswith("camvid") for name in files) == 16
    said = capsys.readouterr().out
    assert "TOO LARGE" not in said
    assert ".carry/checkpoints" in said


def test_what_is_named_again_replaces_what_was_there(tmp_path: Path) -> None:
    root, checkout = tmp_path / ".carry", written(tmp_path / "checkout", "algm/a.py", "segm/b.py")
    for folder in (checkout, checkout / "algm"):
        folder.chmod(0o555)
    assert carry.main(["--root", str(root), "--official", str(checkout)]) == 0
    (checkout / "algm").chmod(0o755)
    (checkout / "algm" / "a.py").rename(checkout / "algm" / "c.py")
    assert carry.main(["--root", str(root), "--official", str(checkout)]) == 0
    assert listed(root) == {"official/algm/c.py", "official/segm/b.py"}


def test_a_group_that_is_too_large_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / ".carry"
    written(root, "camvid/images/a.png")
    limit = carry.checkout_bytes() / 2**20
    assert carry.main(["--root", str(root), "--limit", str(limit + 0.001)]) == 0
    (root / "camvid" / "images" / "b.png").write_bytes(bytes(2048))
    assert carry.main(["--root", str(root), "--limit", str(limit + 0.001)]) == 1
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["training"].endswith("TOO LARGE")
    assert rows["model"].endswith("fits")


def test_tensorrt_rtx_travels_in_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wheel(package: str, folder: Path) -> None:
        name = package.split("==")[0]
        with zipfile.ZipFile(folder / f"{name}-{carry.RTX}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{carry.RTX_PACKAGES[name]}/part.so.1", name * 1000)
            archive.writestr(f"{name}.dist-info/METADATA", "left out")

    monkeypatch.setattr(carry, "download", wheel)
    monkeypatch.setattr(carry, "rtx_plans", lambda folder: None)
    root = tmp_path / ".carry"
    for _ in range(2):
        assert carry.main(["--root", str(root), "--rtx"]) == 0
    assert listed(root) == {"rtx/packages.tar.xz.0", "rtx/packages.tar.xz.1"}
    whole = b"".join((root / "rtx" / f"packages.tar.xz.{number}").read_bytes() for number in range(2))
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r|xz") as archive:
        archive.extractall(tmp_path / "there", filter="data")
    assert listed(tmp_path / "there") == {f"{module}/part.so.1" for module in carry.RTX_PACKAGES.values()}


@pytest.mark.rtx
def test_the_plans_that_travel(plugin_library: Path, tmp_path: Path) -> None:
    carry.rtx_plans(tmp_path / "plans")
    assert listed(tmp_path / "plans") == {
        f"{name}.plan{suffix}" for name in ("plugins", "bodies") for suffix in ("", ".json")
    }
    for name, plugins in (("plugins", True), ("bodies", False)):
        assert (read_record(tmp_path / "plans" / f"{name}.plan").plugins is not None) == plugins


@pytest.mark.parametrize("option", ["--headers", "--official", "--checkpoint", "--camvid"])
def test_a_folder_without_what_is_wanted_is_named(tmp_path: Path, option: str) -> None:
    with pytest.raises(SystemExit, match=str(tmp_path)):
        carry.main(["--root", str(tmp_path / ".carry"), option, str(tmp_path)])
