r"""Fills `.carry/` for a GPU machine without a network, and says what fits into one transfer.

    python benchmarks/carry.py --lean --headers TENSORRT_10/include TENSORRT_11/include \
        --pictures PHOTOGRAPHS --official CHECKOUT --checkpoint FOLDER --camvid CAMVID

Only what is named is made anew; the rest stays. Without arguments it shows what is there. Git ignores `.carry/`;
`gpu_all.sh` uses what it finds in it. The folder is in groups, one for each call on the GPU machine; exit code 1 when a
group and the checkout together are larger than --limit.

- tensorrt: runtime libraries of the tensorrt-lean wheels (--lean, from PyPI), compressed, and NVIDIA's headers;
- model: 32 photographs, the official code, trained checkpoints;
- training: CamVid's training and test frames, and the checkpoints again;
- rtx-1, rtx-2: TensorRT-RTX (--rtx, from PyPI), compressed, in two pieces, and plans of the sample that are built with
  it here, with the plugin library that ALGM_PLUGINS_LIB names or that is installed;
- wheels: packages for Python 3.12 (--wheel NAME ..., from PyPI, without what they need), where that machine lacks some.
"""

from __future__ import annotations

import argparse
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from parts.pictures import load_pictures, save_pictures

ROOT: Final = Path(__file__).parents[1]
LIMIT: Final = 64
"""MiB of one transfer."""
BUILT: Final = ("build", "dist", "masks")
"""Folders of the checkout that git ignores."""
GROUPS: Final = {
    "tensorrt": ("tensorrt",),
    "model": ("pictures.npz", "official", "checkpoints"),
    "training": ("camvid", "checkpoints"),
    "rtx-1": ("rtx/packages.tar.xz.0",),
    "rtx-2": ("rtx/packages.tar.xz.1", "rtx/plans"),
    "wheels": ("wheels",),
}
LEAN: Final = ("10.16.1.11", "11.4.0.106")
RTX: Final = "1.7.1.116"
RTX_PACKAGES: Final = {
    "tensorrt_rtx_cu13_libs": "tensorrt_rtx_libs",
    "tensorrt_rtx_cu13_bindings": "tensorrt_rtx_bindings",
}
RTX_FIRST_PIECE: Final = 48 * 2**20
RTX_BATCH: Final = (1, 4, 4)
"""A plan has kernels per range of batch sizes, so one range makes it half as large as two."""
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PYTHON: Final = "3.12"
_MAJOR: Final = re.compile(r"(?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)")


def download(package: str, folder: Path) -> None:
    """Fetch a package's wheel for the GPU machine's Python, whatever runs here.

    Raises:
        SystemExit: pip failed, and has said why.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    if subprocess.run([*command, "--dest", str(folder), package], check=False).returncode:
        raise SystemExit(f"{package} could not be downloaded for Python {PYTHON}")


def lean_library(version: str, folder: Path) -> None:
    """`libnvinfer_lean.so.MAJOR.xz` of a version; nothing happens if it is there."""
    name = f"libnvinfer_lean.so.{version.split('.')[0]}"
    target = folder / f"{name}.xz"
    if target.is_file():
        print(f"{target.name} is there already")
        return
    with TemporaryDirectory() as text:
        download(f"tensorrt_lean_cu13_libs=={version}", Path(text))
        (wheel,) = Path(text).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (entry for entry in archive.namelist() if entry.endswith(name))
            content = archive.read(member)
    folder.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".part")
    draft.write_bytes(lzma.compress(content, preset=9))
    draft.replace(target)


def rtx_packages(folder: Path) -> None:
    """What an import of TensorRT-RTX needs, as a compressed archive in two pieces; nothing happens if it is there."""
    pieces = [folder / f"packages.tar.xz.{number}" for number in range(2)]
    if all(piece.is_file() for piece in pieces):
        print(f"TensorRT-RTX {RTX} is there already")
        return
    with TemporaryDirectory() as text:
        archive = Path(text) / "packages.tar.xz"
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            for package, module in RTX_PACKAGES.items():
                download(f"{package}=={RTX}", Path(text))
                (wheel,) = Path(text).glob(f"{package}-*.whl")
                with zipfile.ZipFile(wheel) as content:
                    content.extractall(text, [name for name in content.namelist() if name.startswith(f"{module}/")])
                packed.add(Path(text) / module, module)
        whole = archive.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    for piece, part in zip(pieces, (whole[:RTX_FIRST_PIECE], whole[RTX_FIRST_PIECE:]), strict=True):
        piece.write_bytes(part)


def rtx_plans(folder: Path) -> None:
    """Plans of the sample for every GPU that TensorRT-RTX builds for by default, with the plugins and without."""
    from algm_trt.engines import BatchRange, BuildOptions, build_engine
    from algm_trt.engines.sample import SAMPLE_MODEL

    fresh(folder).mkdir(parents=True)
    for name, plugins in (("plugins", True), ("bodies", False)):
        options = BuildOptions("fp16", (BatchRange(*RTX_BATCH),), target="rtx", plugins=plugins)
        build_engine(SAMPLE_MODEL, folder / f"{name}.plan", options)


def headers(source: Path, folder: Path) -> None:
    """NVIDIA's headers, into a folder by major version.

    Raises:
        SystemExit: the folder holds no headers of TensorRT.
    """
    file = source / "NvInferVersion.h"
    found = _MAJOR.search(file.read_text()) if file.is_file() else None
    if found is None:
        raise SystemExit(f"{source}: no NvInferVersion.h that tells a version; name the folder 'include' of TensorRT")
    target = fresh(folder / found[1])
    target.mkdir(parents=True)
    for header in source.glob("*.h"):
        shutil.copy(header, target)


def pictures(source: Path, target: Path) -> None:
    """32 photographs of 512 x 512 pixels."""
    save_pictures(target, *load_pictures(source, 32, 512))


def official(checkout: Path, target: Path) -> None:
    """The model code of an official checkout.

    Raises:
        SystemExit: it is not there.
    """
    for name in ("algm", "segm"):
        if not (checkout / name).is_dir():
            raise SystemExit(f"{checkout}: no folder {name}; name a checkout of the official code")
    fresh(target)
    for name in ("algm", "segm"):
        shutil.copytree(checkout / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def checkpoint(source: Path, folder: Path) -> None:
    """A trained checkpoint with its variant.yml.

    Raises:
        SystemExit: one of both is missing.
    """
    files = [source / name for name in ("checkpoint.pth", "variant.yml")]
    if missing := [file for file in files if not file.is_file()]:
        raise SystemExit(f"{missing[0]} is missing")
    target = fresh(folder / source.resolve().name)
    target.mkdir(parents=True)
    for file in files:
        shutil.copy(file, target)


def camvid(source: Path, target: Path) -> None:
    """CamVid without its validation frames.

    Raises:
        SystemExit: a split is missing.
    """
    splits = [Path(kind) / split for kind in ("images", "labels") for split in ("train", "test")]
    for split in splits:
        if not (source / split).is_dir():
            raise SystemExit(f"{source / split} is missing: CAMVID holds images/ and labels/ with train/ and test/")
    fresh(target)
    for split in splits:
        shutil.copytree(source / split, target / split)


def fresh(path: Path) -> Path:
    """The path, with nothing there."""
    if path.is_dir():
        # Copies of read-only folders are read-only too.
        for folder in [path, *(entry for entry in path.rglob("*") if entry.is_dir())]:
            folder.chmod(0o755)
        shutil.rmtree(path)
    return path


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def checkout_bytes() -> int:
    """Size of what travels in any case: the checkout without hidden folders and what was built; bytecode counts."""
    return sum(bytes_of(path) for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in BUILT)


def report(root: Path, limit: float) -> int:
    """Print the size of every group; 1 if one is too large, else 0."""
    checkout = checkout_bytes() / 2**20
    print(f"checkout {checkout:.1f} MiB; limit of a transfer {limit:g} MiB, checkout included")
    status = 0
    for group, names in GROUPS.items():
        paths = [root / name for name in names if (root / name).exists()]
        size = sum(map(bytes_of, paths)) / 2**20
        fits = checkout + size <= limit
        status |= not fits
        print(f"{group:9} {size:6.1f} MiB  {'fits' if fits else 'TOO LARGE'}")
        for path in paths:
            print(f"    {bytes_of(path) / 2**20:6.1f} MiB  {path.relative_to(root.parent)}")
    return status


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lean", nargs="*", metavar="VERSION", help=f"of tensorrt-lean (default: {' '.join(LEAN)})")
    parser.add_argument("--rtx", action="store_true", help=f"TensorRT-RTX {RTX} and plans built with it")
    parser.add_argument("--headers", nargs="+", type=Path, default=[], metavar="FOLDER", help="with NvInferVersion.h")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of photographs")
    parser.add_argument("--official", type=Path, metavar="CHECKOUT", help="of the official code")
    parser.add_argument("--checkpoint", nargs="+", type=Path, default=[], metavar="FOLDER", help="trained checkpoints")
    parser.add_argument("--camvid", type=Path, metavar="FOLDER", help="images/ and labels/ with train/ and test/")
    parser.add_argument("--wheel", nargs="+", default=[], metavar="NAME", help="packages that the machine lacks")
    parser.add_argument("--limit", type=float, default=LIMIT, help="MiB of a transfer (default: %(default)s)")
    parser.add_argument("--root", type=Path, default=ROOT / ".carry", help="folder to fill (default: .carry)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Fill, report."""
    given = parse(argv)
    root: Path = given.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    for version in LEAN if given.lean == [] else given.lean or ():
        lean_library(version, root / "tensorrt")
    if given.rtx:
        rtx_packages(root / "rtx")
        rtx_plans(root / "rtx" / "plans")
    for folder in given.headers:
        headers(folder, root / "tensorrt" / "headers")
    if given.pictures:
        pictures(given.pictures, root / "pictures.npz")
    if given.official:
        official(given.official, root / "official")
    for folder in given.checkpoint:
        checkpoint(folder, root / "checkpoints")
    if given.camvid:
        camvid(given.camvid, root / "camvid")
    if given.wheel:
        fresh(root / "wheels")
    for package in given.wheel:
        download(package, root / "wheels")
    return report(root, given.limit)


if __name__ == "__main__":
    raise SystemExit(main())
