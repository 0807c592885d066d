"""The command algm-infer: pictures, folders and videos to masks with an exported model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.plugins.arguments import command_parser, positive_int
from algm_trt.plugins.command import remark, run_command, say
from algm_trt.plugins.errors import PartialFailureError, UsageError
from algm_trt.runtime.engine_arguments import add_engine_arguments, engine_options
from algm_trt.runtime.limits import MAX_WORKERS
from algm_trt.runtime.paths import printable
from algm_trt.runtime.pipeline_arguments import (
    add_reading_arguments,
    add_window_arguments,
    pipeline_options,
    pixels_or_native,
)

if TYPE_CHECKING:
    from algm_trt.runtime.job import JobReport

_EPILOG = """\
kinds of --save:
  labels      palette PNG of class ids (16-bit grey above 256 classes)
  overlay     JPEG of the picture under the class colours
  color       PNG of the class colours
  probs       class probabilities, (K, H, W) float16 .npy
  npz         arrays labels, confidence, token_counts and classes
  coco        COCO data set of the picture: an annotation with run lengths per class that is there, JSON
  tokens      PNG of the merged tokens in their mean colours
  submission  grey PNG of the values in label files of the model's data set, as evaluation servers want them: 1 to 150
              for ADE20K, labelIds for Cityscapes, COCO's ids less 1 for COCO-Stuff; class ids for others

A list file has a path per line, relative to its own folder. Behind -- inputs may begin with a dash.

Windows are cut from pictures at the size of the official evaluation, which the model file knows where its checkpoint
came with a variant.yml, or with --short-side native at their own; those that are smaller than a window are enlarged.
Labels have the size of the picture.

Files go to OUT/KIND/NAME.*, where NAME is that of the input without its suffix, with the subfolders that it was found
in; the suffix stays where two would be equal. A video becomes OUT/overlay/NAME.mp4 and a folder of frames for every
other kind.

A line per input goes to OUT/results.jsonl, totals to OUT/summary.json; with --shard I/N these are results-I-of-N.jsonl
and summary-I-of-N.json. In a line, seconds are those of all threads together, and tokens are means over the windows:
before merging, after the local merge, after the global ones.

exit codes: 0 all done; 1 failed; 2 wrong usage; 4 the machine lacks something that the model needs;
5 some inputs failed (also with --fail-fast): results.jsonl says why; 130 interrupted or 143 terminated, --resume
goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = _marked_inputs(sys.argv[1:] if argv is None else argv)
    interrupted = "interrupted; what is done stays valid, --resume goes on from there"
    return run_command("algm-infer", lambda: _infer(_parser().parse_intermixed_args(given)), interrupted=interrupted)


def _marked_inputs(argv: Sequence[str]) -> list[str]:
    """Arguments without the first `--`, and with those behind it as inputs, which may begin with a dash.

    argparse drops `--` before it looks for inputs among options.
    """
    if "--" not in argv:
        return list(argv)
    cut = list(argv).index("--")
    return [*argv[:cut], *(f"./{text}" if text.startswith("-") else text for text in argv[cut + 1 :])]


def _infer(arguments: argparse.Namespace) -> int:
    # Imported here: --help and usage errors need none of it.
    from algm_trt.runtime.engine import open_engine
    from algm_trt.runtime.job import JobOptions, run_job
    from algm_trt.runtime.output_folder import check_overwriting, prepare_folder, without_outputs
    from algm_trt.runtime.segmenter import Segmenter
    from algm_trt.runtime.sources import find_sources, parse_shard, shard
    from algm_trt.runtime.window_runner import usual_batch
    from algm_trt.runtime.writers import parse_kinds

    engine = engine_options(arguments)
    options = JobOptions(
        pipeline=pipeline_options(
            arguments,
            threshold=arguments.threshold,
            batch_size=arguments.batch_size or 1,
            short_side=arguments.short_side,
        ),
        kinds=parse_kinds(arguments.save),
        resume=arguments.resume,
        fail_fast=arguments.fail_fast,
        part=None if arguments.shard is None else parse_shard(arguments.shard),
        max_pixels=arguments.max_pixels,
        quiet=arguments.quiet,
        engine=engine,
    )

    def tell(text: str) -> None:
        if not arguments.quiet:
            remark(f"algm-infer: {text}")

    found = find_sources(arguments.inputs, recursive=arguments.recursive, tell=tell)
    sources = without_outputs(found, arguments.output)
    if not sources:
        raise UsageError(f"all inputs are outputs of earlier runs in {arguments.output}: name pictures, or another OUT")
    if options.part:
        sources = shard(sources, *options.part)
    check_overwriting(sources, arguments.output, options.kinds)
    prepare_folder(arguments.output, options.kinds)
    with Segmenter(open_engine(arguments.engine, engine)) as segmenter:
        if arguments.batch_size is None:
            pipeline = replace(options.pipeline, batch_size=usual_batch(segmenter.engine))
            options = replace(options, pipeline=pipeline)
        report = run_job(segmenter, arguments.engine, sources, arguments.output, options)
    if not arguments.quiet:
        say("\n".join(_closing_lines(report, options.kinds, arguments.output)))
    return PartialFailureError.exit_code if report.failures else 0


def _closing_lines(report: JobReport, kinds: Sequence[str], folder: Path) -> list[str]:
    """What a run says at its end."""
    summary = report.summary
    done = f"{summary['ok']} of {summary['inputs']} inputs done"
    before = f" ({summary['done_before']} before)" if summary["done_before"] else ""
    rate = f" in {summary['seconds']:.1f} s, {summary['images_per_second']:.2f} images/s"
    lines = [f"{done}{before}{rate}"]
    if report.failures:
        stopped = ", stopped there" if summary["ending"] != "complete" else ""
        lines.append(f"{report.failures} failed{stopped}: see {printable(report.results_path)}")
    tokens = summary["tokens"]
    if tokens:
        path = f"{tokens['grid']:.0f} -> {tokens['after_local']:.0f} -> {tokens['after_global']:.0f}"
        lines.append(f"tokens kept: {tokens['share_kept']:.0%} ({path} per window)")
    if side := summary["options"]["short_side"]:
        lines.append(f"shown at a short side of {side} pixels; --short-side native takes pictures as they are")
    if summary["ok"]:
        lines.append(f"written: {', '.join(printable(folder / kind) for kind in kinds)}")
    if report.example:
        lines.append(f"open: {printable(report.example)}")
    return lines


def _parser() -> argparse.ArgumentParser:
    description = "Segment pictures, folders and videos with a model that algm-export wrote."
    parser = command_parser("algm-infer", description, _EPILOG)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="picture, video, folder, pattern, or list file (.txt)")
    add("-i", action="store_true", help="may stand before inputs, as in the official segm.inference")
    add("--engine", type=Path, required=True, metavar="MODEL", help="model.onnx, or model.plan of algm-build-engine")
    add("-o", "--output", type=Path, default=Path("masks"), metavar="OUT", help="output folder (default: masks)")
    add("--save", default="labels,overlay", metavar="KINDS", help="files to write (default: labels,overlay); see below")
    add_window_arguments(parser)
    add(
        "--short-side",
        type=pixels_or_native,
        metavar="N",
        help="resize pictures to N pixels on their short side before windows are cut, or native (default: as the model "
        "was trained and evaluated, which algm-export says, or native)",
    )
    add("--threshold", type=float, metavar="T", help="similarity at which tokens merge (default: the model's)")
    add(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help="windows per run of the model; CPUs take them one by one (default: what a plan was optimised for, else 1)",
    )
    add_engine_arguments(parser)
    workers = f"threads to read, and as many to write (default: one per core, at most {MAX_WORKERS})"
    add_reading_arguments(parser, workers=workers)
    add("--recursive", action="store_true", help="read subfolders too, but not what earlier runs wrote")
    add("--resume", action="store_true", help="skip what an earlier run with the same model, options and part finished")
    add("--shard", metavar="I/N", help="take part I of N of the inputs, so that N runs share the work")
    add("--fail-fast", action="store_true", help="stop at the first input that fails")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
