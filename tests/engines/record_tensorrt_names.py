"""Write `tensorrt_names.json`: the names that NVIDIA's Python modules really have, for the classes that we use.

    pip download --no-deps -d WHEELS tensorrt_cu12_bindings==10.9.0.34
    pip download --no-deps -d WHEELS tensorrt_cu13_bindings==VERSION       # 10.16.1.11 and 11.4.0.106
    pip download --no-deps -d WHEELS tensorrt_lean_cu13_bindings==VERSION  # the same two
    python tests/engines/record_tensorrt_names.py WHEELS

The wheels of bindings are on PyPI, the libraries below them are not. The modules need only nine C functions of those to
be imported; a C compiler makes libraries that have these names and do nothing. Nothing is called, names are listed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.tensorrt_api import BOTH, INSPECTOR, REGISTRY, RTX, RUNTIME, TENSORRT

NAMES = Path(__file__).with_name("tensorrt_names.json")
TABLES = (BOTH, TENSORRT, RUNTIME, INSPECTOR, REGISTRY, RTX)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvinfer_lean")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def names_of(wheel: Path) -> dict[str, list[str]]:
    """Members per class that a wheel's module has; in a process of its own, since two modules cannot be loaded."""
    command = [sys.executable, __file__, "--one", str(wheel)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def list_names(wheel: Path, folder: Path) -> dict[str, list[str]]:
    """Unpack, import, list."""
    (folder / "names.c").write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    major = wheel.name.split("-")[1].split(".")[0]
    for library in LIBRARIES:
        file = folder / f"lib{library}.so.{major}"
        soname = f"-Wl,-soname,{file.name}"
        subprocess.run(["cc", "-shared", "-fPIC", soname, "-o", file, folder / "names.c"], check=True)
        ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
    zipfile.ZipFile(wheel).extractall(folder)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("tensorrt_lean_bindings" if "lean" in wheel.name else "tensorrt_bindings")
    found = {"": sorted(name for name in dir(module) if not name.startswith("_"))}
    for name in sorted({name for table in TABLES for name in table} - {""}):
        holder = module
        for part in name.split("."):
            holder = getattr(holder, part, None)
        if holder is not None:
            found[name] = [member for member in dir(holder) if not member.startswith("_")]
    return found


def main() -> None:
    if sys.argv[1] == "--one":
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(list_names(Path(sys.argv[2]), Path(folder))))
        return
    names = {}
    for file in sorted(Path(sys.argv[1]).glob("tensorrt_*.whl")):
        kind = "lean" if "lean" in file.name else "full"
        names[f"{kind} {file.name.split('-')[1]}"] = names_of(file)
    lines = []
    for wheel, found in sorted(names.items()):
        classes = ",\n".join(f"  {json.dumps(holder)}: {json.dumps(members)}" for holder, members in found.items())
        lines.append(f" {json.dumps(wheel)}: {{\n{classes}\n }}")
    NAMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
