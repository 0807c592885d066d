"""Changes to kernels that wait for a measurement: `python benchmarks/kernel_experiments.py [--json FILE]`, on a GPU.

Each patch of `benchmarks/experiments` begins with the kernels that it concerns and what is predicted. It is applied to
a copy of the sources, the library is compiled, the kernels are checked against the NumPy reference, and timed as by
`kernels.py`, next to those of the library without it (ALGM_PLUGINS_LIB). A patch that is decided goes, kept or not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from parts.record import recording_parser, write_record

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "benchmarks" / "experiments"
TESTS = {"global_merge": "global_merge", "local_merge": "local_merge", "packed_attention": "attention"}
"""What the tests of a kernel have in their names."""


@dataclass(frozen=True)
class Experiment:
    """A patch, and what it says of itself.

    Attributes:
        path: of the patch.
        kernels: names of the kernels that it changes, as `kernels.py` has them.
        purpose: what is changed, and what is predicted.
    """

    path: Path
    kernels: tuple[str, ...]
    purpose: str

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """Read a patch's own words: a line of kernels, then text up to the first difference."""
        words = path.read_text(encoding="utf-8").split("diff --git", 1)[0]
        first, rest = words.split("\n", 1)
        return cls(path, tuple(first.removeprefix("Kernels:").split()), " ".join(rest.split()))

    def patched(self, folder: Path) -> Path:
        """The packages with the patch applied, as `algm_trt` in a folder; the folder for PYTHONPATH.

        Raises:
            CalledProcessError: the patch does not fit the sources any more.
        """
        package = folder / "algm_trt"
        for name in ("exporter", "plugins", "engines", "runtime"):
            shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # in no repository, whatever is above it
        apply = ["git", "apply"] if shutil.which("git") else ["patch", "--quiet", "-p1", "-i"]
        subprocess.run([*apply, str(self.path)], cwd=package, check=True, env=alone)
        return folder


def experiments() -> list[Experiment]:
    """All of them; by name, which is in the order of what they promise."""
    return [Experiment.read(path) for path in sorted(PATCHES.glob("*.patch"))]


def run(experiment: Experiment, library: Path, arch: str) -> dict[str, Any]:
    """Build, check and time one; what fails is in `error`."""
    found: dict[str, Any] = {"name": experiment.path.stem, "kernels": experiment.kernels, "why": experiment.purpose}
    with TemporaryDirectory(prefix="algm-experiment-") as name:
        folder = Path(name)
        changed = folder / library.name
        try:
            source = str(experiment.patched(folder))
            build = "import sys; from algm_trt.plugins.build import main; sys.exit(main())"
            _call([sys.executable, "-c", build, "--arch", arch, "-o", str(changed), "-j", str(os.cpu_count())], source)
            chosen = " or ".join(TESTS[kernel] for kernel in experiment.kernels)
            tests = ["tests/plugins/test_kernels_gpu.py", "-m", "gpu", "-k", chosen, "-q", "-o", "minversion=7"]
            checked = _call([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests], library=changed)
            found["tests"] = next(line for line in reversed(checked.splitlines()) if " passed" in line)
            before, after = (_times(experiment.kernels, one, folder) for one in (library, changed))
        except subprocess.CalledProcessError as error:
            return found | {"error": (error.stdout or str(error))[-1000:]}
        except StopIteration:
            return found | {"error": "no test ran"}
    rows = []
    for key, row in before.items():
        rows.append(row | {"changed_ms": after[key]["ms"], "changed_warm_ms": after[key]["warm_ms"]})
    return found | {"rows": rows}


def _times(kernels: Sequence[str], library: Path, folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of `kernels.py`, by shape and kernel."""
    file = folder / "times.json"
    _call([sys.executable, "benchmarks/kernels.py", "--only", *kernels, "--json", str(file)], library=library)
    return {(row["shape"], row["kernel"]): row for row in json.loads(file.read_text(encoding="utf-8"))["kernels"]}


def _call(command: Sequence[str], source: str = "", library: Path | None = None) -> str:
    """What a command said.

    Raises:
        CalledProcessError: it failed; what it said is in `stdout`.
    """
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    given = {"ALGM_PLUGINS_LIB": str(library)} if library else {}
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


def main() -> int:
    """Run all experiments, print their times, and write JSON where asked to."""
    import torch

    parser = recording_parser(__doc__)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 4
    library = Path(os.environ["ALGM_PLUGINS_LIB"])
    arch = "{}{}".format(*torch.cuda.get_device_capability())
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "experiments": []}
    for experiment in experiments():
        found = run(experiment, library, arch)
        results["experiments"].append(found)
        print(found["name"], found.get("error", found.get("tests")))
        for row in found.get("rows", ()):
            print(f"  {row['shape']:10} {row['kernel']:17} {row['ms']:8.4f} -> {row['changed_ms']:8.4f} ms", flush=True)
        write_record(options.json, results)  # what is done is kept when the time is up
    return int(any("error" in found for found in results["experiments"]))


if __name__ == "__main__":
    raise SystemExit(main())
