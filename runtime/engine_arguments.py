"""The options of every command that runs a model: which backend, where, and how."""

from __future__ import annotations

import argparse

from algm_trt.plugins.arguments import positive_int
from algm_trt.runtime.engine_options import BACKENDS, CPU_PRECISIONS, DEVICES, EngineOptions


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --backend, --device, --cpu-precision, --threads and --streams."""
    add = parser.add_argument
    add("--backend", choices=BACKENDS, default="auto", help="what runs the model (default: auto, by file and machine)")
    add("--device", choices=DEVICES, default="auto", help="where the model runs (default: auto)")
    add("--cpu-precision", choices=CPU_PRECISIONS, default="fp32", help="bf16 needs OpenVINO (default: fp32)")
    add("--threads", type=positive_int, metavar="N", help="CPU threads of the model (default: the backend's)")
    add(
        "--streams",
        type=positive_int,
        metavar="N",
        help="windows that a CPU runs side by side, each on its part of the threads (default: one per core, at most 8)",
    )


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """The options that these arguments ask for.

    Raises:
        UsageError: arguments that exclude each other.
    """
    return EngineOptions(
        backend=arguments.backend,
        device=arguments.device,
        threads=arguments.threads,
        cpu_precision=arguments.cpu_precision,
        streams=arguments.streams,
    )
