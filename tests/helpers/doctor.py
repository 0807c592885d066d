"""For the tests of the doctor: machines made up, environments that lack or break things, functions for children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from algm_trt.engines.doctor.fatbin import Architectures
from algm_trt.engines.doctor.isolated import Answer
from algm_trt.engines.doctor.machine import PROBES, Library, Machine
from algm_trt.plugins.errors import MissingDependencyError, UsageError

COMMAND = (sys.executable, "-c", "import sys; from algm_trt.engines.doctor.cli import main; sys.exit(main())")
TESTS = str(Path(__file__).parents[1])

ABSENT = Answer(None, "it is not installed", True, 0.1)
BROKEN = Answer(None, "it cannot be loaded: no such symbol", False, 0.1)


def gives(**value: Any) -> Answer:
    """The answer of a probe that found something."""
    return Answer(value, "", False, 0.1)


def machine(**changes: Any) -> Machine:
    """A machine with all that inference on a CPU needs and no more."""
    answers = dict.fromkeys(PROBES, ABSENT) | {
        "onnxruntime": gives(version="1.30.0", providers=["CPUExecutionProvider"]),
        "pictures": gives(opencv="5.0.0", pillow="13.0.0"),
    }
    library = Library(None, None, None, "the plugin library is not here; run algm-build-plugins")
    return replace(Machine(answers, library, ("onnxruntime",), 8000), **changes)


def with_answers(at: Machine, **answers: Answer) -> Machine:
    """A machine with other answers of some probes."""
    return replace(at, answers={**at.answers, **answers})


def with_gpu(at: Machine, capability: int = 89, name: str = "NVIDIA L4") -> Machine:
    """A machine with one GPU."""
    gpu = {"name": name, "capability": capability, "memory_mib": 23034}
    return with_answers(at, driver=gives(version="580.65", cuda="99.0", status=0, gpus=[gpu]))


def with_library(at: Machine, problem: str = "") -> Machine:
    """A machine with a plugin library for compute capabilities 80 and 89."""
    path = Path("/lib/libalgm_plugins.so")
    library = Library(path, None if problem else 1, Architectures((80, 89), (89,)), problem)
    return replace(at, library=library)


def environment(folder: Path, site: str = "", **variables: str) -> dict[str, str]:
    """Variables of a command whose interpreter runs `site` first, with an empty cache."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(site)
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("ALGM_PLUGINS_LIB", "PYTHONPATH")}
    return {**kept, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(cache), **variables}


def blocking(*packages: str) -> str:
    """Site code for an interpreter in which these packages are not installed."""
    return f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(packages)!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Blocker())
"""


def doctor(variables: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def shared_library(folder: Path, source: str, name: str = "libalgm_plugins.so") -> Path:
    """A library compiled from C."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.c"
    file.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, file], check=True)
    return folder / name


# Functions that children run.


def echo(*arguments: Any) -> Any:
    return list(arguments)


def noisy() -> str:
    print("a library says hello on stdout")
    os.write(1, b"and so does its C code\n")
    sys.stderr.write("and here\n")
    return "fine"


def failing() -> None:
    raise ValueError("it\ndoes not\nwork")


def silent_failure() -> None:
    raise RuntimeError


def misused() -> None:
    raise UsageError("wrong size")


def lacking() -> None:
    raise MissingDependencyError("no device: plug one in")


def importing() -> None:
    import a_package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401


def crashing() -> None:
    sys.stderr.write("something about memory\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def leaving() -> None:
    os._exit(7)


def hanging(file: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(str(child.pid))
    time.sleep(600)
