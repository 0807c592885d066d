"""Who may import whom: the four packages, and the third-party packages that each may need."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Ours. exporter and engines check what they make with the code that users run, so they may import runtime.
MAY_IMPORT = {
    "plugins": set(),
    "runtime": {"plugins"},
    "engines": {"plugins", "runtime"},
    "exporter": {"plugins", "runtime"},
}
THIRD_PARTY = {
    "plugins": {"numpy", "tensorrt", "tensorrt_rtx"},
    "runtime": {
        *("numpy", "cv2", "PIL", "tqdm", "matplotlib", "supervision"),
        *("onnxruntime", "openvino", "cuda"),
    },
    "engines": {
        *("numpy", "onnx", "google", "onnx_graphsurgeon", "onnxruntime", "tqdm"),
        *("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
    },
    "exporter": {"numpy", "torch", "onnx", "onnxscript", "yaml"},
}
# These come in only inside the function that needs them: the package must import without them.
LAZY_ONLY = {
    *("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime", "openvino", "cuda"),
    *("matplotlib", "supervision"),
}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, and whether at the top level."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            yield node.module, id(node) in top


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_the_table_allows(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files(package)
        for name, _ in imports(file)
        if name.startswith("algm_trt.") and name.split(".")[1] not in MAY_IMPORT[package] | {package}
    ]
    assert wrong == []


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_third_party_packages_are_those_of_the_table(package: str) -> None:
    known = THIRD_PARTY[package] | set(sys.stdlib_module_names) | {"algm_trt"}
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files(package)
        for name, _ in imports(file)
        if name.split(".")[0] not in known
    ]
    assert wrong == []


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_heavy_runtimes_are_imported_where_they_are_used(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files(package)
        for name, top in imports(file)
        if top and name.split(".")[0] in LAZY_ONLY
    ]
    assert wrong == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_package_is_typed_and_every_file_says_what_it_holds(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    silent = [
        str(file.relative_to(ROOT))
        for file in files(package)
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert silent == []


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxscript", "yaml", "tensorrt"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, check=False)


def test_inference_imports_without_torch_and_onnx() -> None:
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files("runtime") if file.stem != "__init__"]
    modules = [".".join(("algm_trt", *part)) for part in parts]
    done = run("import importlib\n" + "\n".join(f"importlib.import_module('{name}')" for name in modules))
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_checkpoint_runs_without_the_packages_of_the_export() -> None:
    code = "from algm_trt.exporter.torch_engine import TorchEngine\nprint({'onnx', 'onnxscript'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_export_without_torch_says_what_to_install() -> None:
    done = run("from algm_trt.exporter.cli import main\nsys.exit(main(['checkpoint.pth']))")
    assert done.returncode == 4
    assert re.fullmatch(r"algm-export: (torch|onnx) is not installed: pip install 'algm-trt\[export\]'\n", done.stderr)
