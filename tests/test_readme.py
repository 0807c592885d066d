"""Pages for users: their links lead somewhere, their commands have the options shown; --help has all exit codes.

Their figures: tests/benchmarks/test_readme_figures.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from algm_trt.engines.cli import main as build_engine
from algm_trt.engines.doctor.cli import main as doctor
from algm_trt.engines.sample import SAMPLE_MODEL, recorded
from algm_trt.exporter.cli import main as export
from algm_trt.plugins.build import main as build_plugins
from algm_trt.runtime.bench.cli import main as bench
from algm_trt.runtime.cli import main as infer
from algm_trt.runtime.evaluation.cli import main as evaluate

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "algm-bench": bench,
    "algm-build-engine": build_engine,
    "algm-build-plugins": build_plugins,
    "algm-doctor": doctor,
    "algm-eval": evaluate,
    "algm-export": export,
    "algm-infer": infer,
}
PAGES = ["README.md", "examples/README.md", "benchmarks/README.md"]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"(algm-[a-z]+(?:-[a-z]+)?) ([^`#\n]*)")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = LINK.findall(path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_shown(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))
    assert shown
    for command, rest in shown:
        with pytest.raises(SystemExit):
            COMMANDS[command](["--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", rest):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{command} has no {option}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_the_exit_codes_of_a_stop(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        COMMANDS[command](["--help"])
    codes = capsys.readouterr().out.split("exit codes: ")[1]
    assert {"0", "1", "2", "130", "143"} <= set(re.findall(r"\d+", codes))


def test_the_model_file_runs_as_shown_for_other_programs() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### The model file in other programs")[1]
    code = section.split("```python\n")[1].split("```")[0]
    assert '"model.onnx"' in code
    kept = recorded()
    names: dict[str, Any] = {"images": kept.images}
    exec(code.replace("model.onnx", SAMPLE_MODEL.as_posix()), names)
    assert names["labels"].shape == kept.labels.shape
    assert (names["token_counts"][:, 0] == kept.token_counts[:, 0]).all()
