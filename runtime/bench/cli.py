"""The command algm-bench: speed of models, thresholds, batch sizes and backends, measured against each other."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.plugins.arguments import command_parser, numbers, positive_int
from algm_trt.plugins.command import remark, run_command, say
from algm_trt.plugins.errors import PartialFailureError, UsageError
from algm_trt.plugins.stopping import exit_code
from algm_trt.runtime.engine_arguments import add_engine_arguments, engine_options
from algm_trt.runtime.limits import LAYOUTS
from algm_trt.runtime.pipeline_arguments import (
    add_reading_arguments,
    add_window_arguments,
    pipeline_options,
    pixels_or_native,
)

if TYPE_CHECKING:
    from algm_trt.runtime.bench.report import BenchOptions

_PROBLEMS_SHOWN = 20
_EPILOG = """\
models: [BACKEND[-DEVICE][-PRECISION]:]MODEL
  model.onnx, model.plan         with --backend, --device and --cpu-precision
  onnxruntime:model.onnx         with a backend of its own, to compare backends in one table;
  openvino-bf16:model.onnx       a prefix replaces these three options: onnxruntime-cpu, onnxruntime-cuda, openvino,
                                 openvino-bf16, tensorrt
  checkpoint.pth, checkpoint.pth:dense   in PyTorch, as trained or without merging

pictures: unlike ones, since pictures merge unlike numbers of tokens
  (default)                      drawn scenes of the model's size, busy and calm
  --data FOLDER                  photographs, those in subfolders too
  --data FOLDER --labels DIR     with ground truth: files of equal names, values are the model's class ids
  --data ROOT --dataset NAME     a data set: mean IoU of it all as in algm-eval, speed on some pictures from all over it
  --repeat-one                   the first picture stands for all: the official way of measuring, and marked as such
Of a folder or a data set, --pictures are taken at equal distances: neighbours are often alike, frames of a video for
example. Pictures are timed and scored at the short side of the official evaluation, that of --dataset or else the
model's, as algm-eval and algm-infer show them; --short-side says otherwise.

streams: unless --streams is given, the model alone computes one window at a time, on all threads of a CPU, and the
whole job as many side by side as algm-infer does. With it both compute so many, the model alone in batches as large.

Every model, threshold and batch size takes its turn in every round, in one process; figures are medians and quartiles
over rounds. The model alone runs on windows in memory (at most 64 of them, or one batch), at equal distances over all
that the whole job cuts; the whole job goes from picture files to files written in a temporary folder. Models of unlike
sizes are compared by the whole job only. --plot draws images/s of the model alone at the largest batch against the mean
IoU, or without ground truth against the tokens kept.

exit codes: 0 measured; 1 failed; 2 wrong usage; 4 the machine lacks something that is asked for; 5 some variants or
pictures were left out: they are named; 130 interrupted or 143 terminated, with the scores and figures that were
complete by then if there are any.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    interrupted = "interrupted before anything was measured"
    return run_command("algm-bench", lambda: _bench(_parser().parse_args(argv)), interrupted=interrupted)


def _bench(arguments: argparse.Namespace) -> int:
    # Imported here: --help and usage errors need none of it.
    from algm_trt.runtime.bench.plot import check_plot, draw_plot
    from algm_trt.runtime.bench.run import run_bench
    from algm_trt.runtime.bench.table import report_lines
    from algm_trt.runtime.files import check_writable, write_report
    from algm_trt.runtime.machine import busy_warning, load_average

    options = _options(arguments)
    if arguments.plot:
        check_plot(arguments.plot)
    for target in filter(None, (arguments.json, arguments.plot)):
        check_writable(target)
    warning = busy_warning(load_average())
    if warning and not arguments.quiet:
        remark(f"algm-bench: {warning}")
    report = run_bench(options)
    try:
        if not arguments.quiet:
            say("\n".join(report_lines(report)))
    finally:  # whoever reads what is printed may be gone
        if arguments.json:
            write_report(arguments.json, json.dumps(report.to_dict(), indent=1) + "\n")
        if arguments.plot and report.results:
            draw_plot(report, arguments.plot)
    for problem in report.problems[:_PROBLEMS_SHOWN]:
        remark(f"algm-bench: {problem}")
    if report.stopped_by:
        before = "the figures are of the turns before" if report.results else "the scores are of the models before"
        remark(f"algm-bench: interrupted; {before}")
        return exit_code(report.stopped_by)
    return PartialFailureError.exit_code if report.problems else 0


def _options(arguments: argparse.Namespace) -> BenchOptions:
    """What the arguments ask for.

    Raises:
        UsageError: arguments that exclude each other.
    """
    from algm_trt.runtime.bench.report import BenchOptions
    from algm_trt.runtime.evaluation.sets import Places
    from algm_trt.runtime.job import JobOptions
    from algm_trt.runtime.writers import parse_kinds

    if arguments.synthetic and arguments.data:
        raise UsageError("--synthetic draws pictures, --data takes them from a folder: leave one of them out")
    if arguments.labels and not arguments.data:
        raise UsageError("--labels names the ground truth of --data: give both")
    dataset = arguments.dataset or ("folder" if arguments.labels else None)
    if dataset is None and (arguments.split or arguments.limit):
        raise UsageError("--split and --limit are for pictures with ground truth: give --dataset or --labels")
    images = arguments.data if arguments.labels and not arguments.dataset else None
    return BenchOptions(
        models=tuple(arguments.models),
        data=arguments.data,
        dataset=dataset,
        places=Places(split=arguments.split, images=images, labels=arguments.labels),
        limit=arguments.limit,
        pictures=arguments.pictures,
        batches=arguments.batch,
        thresholds=arguments.thresholds,
        short_side=arguments.short_side,
        repeat_one=arguments.repeat_one,
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        seed=arguments.seed,
        whole_job=not arguments.no_job,
        job=JobOptions(
            pipeline=pipeline_options(arguments),
            kinds=parse_kinds(arguments.save),
            max_pixels=arguments.max_pixels,
            quiet=True,
        ),
        engine=engine_options(arguments),
        quiet=arguments.quiet,
    )


def _counts(text: str) -> tuple[int, ...]:
    """An argument such as 1,8,32."""
    return tuple(positive_int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    description = "Measure models against each other: images/s, latency, tokens, GFLOPs, and where the time goes."
    parser = command_parser("algm-bench", description, _EPILOG)
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="model.onnx, an engine file, or checkpoint.pth[:dense]; see below")
    _add_pictures(parser)
    add("--batch", type=_counts, default=(1,), metavar="B,...", help="windows per run of a model (default: 1)")
    add("--thresholds", type=numbers, default=(), metavar="T,...", help="merging similarities (default: the model's)")
    add("--rounds", type=positive_int, default=5, metavar="N", help="turns of each variant (default: 5)")
    add("--warmup", type=positive_int, default=1, metavar="N", help="untimed turns of each before that (default: 1)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the order within the rounds (default: 0)")
    add("--no-job", action="store_true", help="measure the model alone, not the whole job")
    add("--save", default="labels,overlay", metavar="KINDS", help="files of the whole job (default: labels,overlay)")
    add_window_arguments(parser)
    shown = "pixels, or native (default: as --dataset has it, else the model)"
    add("--short-side", type=pixels_or_native, metavar="N", help=shown)
    workers = "threads to read, and as many to write (default: as algm-infer)"
    add_reading_arguments(parser, workers=workers, larger="leave out")
    add_engine_arguments(parser)
    add("--json", type=Path, metavar="FILE", help="write all figures and raw times as JSON")
    add("--plot", type=Path, metavar="FILE", help="draw the trade-off as .png, .svg or .pdf; needs matplotlib")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="FOLDER", help="pictures, or the root of --dataset")
    add("--synthetic", action="store_true", help="drawn scenes (the default without --data)")
    add("--dataset", choices=LAYOUTS, help="layout of --data with ground truth, as in algm-eval")
    add("--labels", type=Path, metavar="DIR", help="folder of the label files of --data")
    add("--split", metavar="NAME", help="part of the data set")
    add("--limit", type=positive_int, metavar="N", help="mean IoU over N pictures only, at equal distances")
    add("--pictures", type=positive_int, metavar="N", help="pictures to time (default: 16, or the largest batch)")
    add("--repeat-one", action="store_true", help="one picture stands for all: the official way of measuring")


if __name__ == "__main__":
    sys.exit(main())
