"""The arguments that algm-infer, algm-bench and algm-eval share."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.pipeline_arguments import add_reading_arguments, add_window_arguments, pipeline_options
from algm_trt.runtime.pipeline_options import PipelineOptions


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_window_arguments(parser)
    add_reading_arguments(parser, workers="threads")
    return parser.parse_args(arguments)


def test_without_arguments_all_is_as_in_python() -> None:
    assert pipeline_options(parsed()) == PipelineOptions()
    assert parsed().max_pixels == DEFAULT_MAX_PIXELS


def test_arguments_become_options_of_their_names() -> None:
    arguments = parsed("--mode", "slide", "--stride", "7", "--workers", "3")
    expected = PipelineOptions(mode="slide", stride=7, threshold=0.5, batch_size=4, workers=3, short_side=64)
    assert pipeline_options(arguments, threshold=0.5, batch_size=4, short_side=64) == expected
    with pytest.raises(UsageError, match="stride makes sense in mode slide only"):
        pipeline_options(parsed("--mode", "whole", "--stride", "7"))


@pytest.mark.parametrize("module", ["cli", "bench.cli", "evaluation.cli"])
def test_help_of_every_command_needs_no_heavy_import(module: str) -> None:
    code = (
        f"import sys\nfrom algm_trt.runtime.{module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'PIL', 'torch', 'tqdm'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    words = " ".join(done.stdout.split())
    assert "(default: 100 million); windows are cut from up to 268,435,456 pixels" in words
    assert all(f" {option} " in words for option in ("--mode {slide,whole}", "--stride N", "--workers N"))
