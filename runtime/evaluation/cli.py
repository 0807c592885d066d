"""The command algm-eval: what models reach on pictures with ground truth, and what changes between them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.plugins.arguments import command_parser, numbers, positive_int
from algm_trt.plugins.command import remark, run_command
from algm_trt.plugins.errors import PartialFailureError
from algm_trt.plugins.stopping import exit_code
from algm_trt.runtime.engine_arguments import add_engine_arguments, engine_options
from algm_trt.runtime.limits import LAYOUTS, MAX_WORKERS
from algm_trt.runtime.pipeline_arguments import (
    add_reading_arguments,
    add_window_arguments,
    pipeline_options,
    pixels_or_native,
)

if TYPE_CHECKING:
    from algm_trt.runtime.evaluation.report import EvaluationJob

_EPILOG = """\
layouts below ROOT, with the default of --split in the paths (validation, val, val2017, test; folder has none):
  ade20k          [ADEChallengeData2016/]images/validation, annotations/validation; 0 is ignored, 1..150 are the classes
  cityscapes      leftImg8bit/val/CITY/*_leftImg8bit.png, gtFine/val/CITY/*_gtFine_labelTrainIds.png or *_labelIds.png
  pascal_context  [VOCdevkit/VOC2010/]JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext/val.txt
  coco_stuff      [images/]val2017, stuffthingmaps_trainval2017/val2017 (pixelmaps) or annotations/val2017
  coco_panoptic   [images/]val2017, annotations/panoptic_val2017.json and its folder; categories are the classes
  camvid          images/test, labels/test, test.txt (or SegNet's test, testannot); 11 is ignored
  folder          images, labels: files of equal names; values are the model's class ids, --ignore names another

Pictures are first resized as the official evaluation does, proportions kept: short side 512 on ade20k (640 for models
of 640 pixels) and COCO, 1024 on cityscapes, 520 on pascal_context; camvid and folder are taken as they are. Then come
windows. --mode whole resizes once, to the model's size. Labels are scored at the size of the picture on disk.
The mean IoU is over the classes that occur in the ground truth or the prediction. The boundary F-score matches outlines
within 0.75 % of the picture's diagonal, counted over all pictures; --json also has the mean over the pictures' scores,
as Csurka et al. (BMVC 2013) and published figures have it. Images/s are whole pictures per second: inside the model
alone, and of the whole run with decoding and scoring.

models: [BACKEND[-DEVICE][-PRECISION]:]MODEL
  model.onnx, model.plan         with --backend, --device and --cpu-precision
  openvino-bf16:model.onnx       with a backend of its own, to compare backends in one run; a prefix replaces these
                                 three options: onnxruntime-cpu, onnxruntime-cuda, openvino, openvino-bf16, tensorrt
  checkpoint.pth                 in PyTorch, as it was trained
  checkpoint.pth:dense           the same without merging
  checkpoint.pth:coupled         windows of a batch merge equally many tokens, as in the official code, which has
                                 batches of 4; --window-batch-coupled is the same for all models, checkpoints then

Every run after the first is compared with the first: share of equal labels, change of the mean IoU and of the IoU per
class. In brackets are percentiles 2.5 and 97.5 of the change in 1000 resamples of the pictures (paired bootstrap, fixed
seed); pictures that are alike, such as frames of one video, make the interval too narrow. A row is printed and files
are written whenever a run is complete, so that a failure or Ctrl-C in a later one costs that one alone.

exit codes: 0 all pictures scored; 1 failed; 2 wrong usage; 4 the machine lacks something that a model needs;
5 some pictures could not be scored, or a model after the first run failed: they are named and not part of the figures;
130 interrupted or 143 terminated, with the complete runs if there are any.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    interrupted = "interrupted before the first run was complete"
    return run_command("algm-eval", lambda: _evaluate(_parser().parse_args(given), given), interrupted=interrupted)


def _evaluate(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    # Imported here: --help and usage errors need none of it.
    from algm_trt.runtime.evaluation.job import run_evaluation
    from algm_trt.runtime.evaluation.output import Output
    from algm_trt.runtime.files import check_writable

    job = _job(arguments)
    for target in filter(None, (arguments.json, arguments.per_picture)):
        check_writable(target)
    output = Output(arguments.json, arguments.per_picture, ["algm-eval", *argv], quiet=arguments.quiet)
    report = run_evaluation(job, arguments.drift, output.follow)
    output.finish(report)
    if report.stopped_by:
        remark(f"algm-eval: interrupted; {len(report.runs)} of {len(report.planned)} runs are complete")
        return exit_code(report.stopped_by)
    failed = report.failed or any(run.evaluation.failures for run in report.runs)
    return PartialFailureError.exit_code if failed else 0


def _job(arguments: argparse.Namespace) -> EvaluationJob:
    """What the arguments ask for.

    Raises:
        UsageError: arguments that exclude each other.
    """
    from algm_trt.runtime.evaluation.evaluate import EvaluationOptions
    from algm_trt.runtime.evaluation.multiscale import Protocol
    from algm_trt.runtime.evaluation.report import EvaluationJob
    from algm_trt.runtime.evaluation.sets import Places

    return EvaluationJob(
        models=tuple(arguments.models),
        root=arguments.data,
        dataset=arguments.dataset,
        places=Places(
            split=arguments.split,
            images=arguments.images,
            labels=arguments.labels,
            image_suffix=arguments.image_suffix,
            label_suffix=arguments.label_suffix,
            ignore=arguments.ignore,
            label_map=arguments.label_map,
        ),
        options=EvaluationOptions(
            protocol=Protocol(scales=arguments.scales, flip=arguments.flip),
            pipeline=pipeline_options(arguments, batch_size=arguments.batch_size or 1),
            window_batch_coupled=arguments.window_batch_coupled,
            max_pixels=arguments.max_pixels,
            quiet=arguments.quiet,
        ),
        short_side=arguments.short_side,
        thresholds=arguments.thresholds,
        limit=arguments.limit,
        engine=engine_options(arguments),
        usual_batches=arguments.batch_size is None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("algm-eval", "Score models on a data set with ground truth.", _EPILOG)
    _add_data(parser)
    add = parser.add_argument
    add_window_arguments(parser)
    shown = "pixels, or native (default: the data set's official one; for folder the first model's)"
    add("--short-side", type=pixels_or_native, metavar="N", help=shown)
    add("--scales", type=numbers, default=(1.0,), metavar="S,...", help="averaged; official: 0.5,0.75,1,1.25,1.5,1.75")
    add("--flip", action="store_true", help="average each scale with its mirror image")
    add("--thresholds", type=numbers, default=(), metavar="T,...", help="merging similarities (default: the model's)")
    add(
        "--window-batch-coupled",
        action="store_true",
        help="checkpoints only: windows of a batch merge equally many tokens, as in the official code (batch of 4)",
    )
    add(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help="windows per run of the model (default: what a plan was optimised for, else 1)",
    )
    add_engine_arguments(parser)
    add_reading_arguments(parser, workers=f"threads that read and score (default: cores, at most {MAX_WORKERS})")
    add("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    add("--per-picture", type=Path, metavar="FILE", help="write a line per run and picture as CSV")
    add("--drift", type=Path, metavar="DIR", help="draw the ten pictures of each run that drifted most from the first")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model.onnx, an engine file, or checkpoint.pth[:dense|:coupled]; see below",
    )
    add("--data", type=Path, required=True, metavar="ROOT", help="folder of the data set")
    add("--dataset", choices=LAYOUTS, required=True, help="its layout; see below")
    add("--split", metavar="NAME", help="part of the data set; see below for the defaults")
    add("--images", type=Path, metavar="DIR", help="folder of the pictures, if not the layout's; not relative to ROOT")
    add("--labels", type=Path, metavar="DIR", help="the same of the label files; for coco_panoptic the JSON file")
    add("--image-suffix", default="", metavar="END", help="end of the pictures' names, such as _img.jpg")
    add("--label-suffix", default="", metavar="END", help="end of the label files' names, such as _gt.png")
    add("--ignore", type=int, metavar="VALUE", help="stored value that does not count")
    add("--label-map", type=Path, metavar="FILE", help='JSON {"stored value": class id, or null to ignore}')
    add("--limit", type=positive_int, metavar="N", help="take N pictures only, at equal distances in the set")


if __name__ == "__main__":
    sys.exit(main())
