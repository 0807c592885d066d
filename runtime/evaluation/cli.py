"""The command algm-eval: what models reach on pictures with ground truth, and what changes between them."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.plugins.errors import PartialFailureError
from algm_trt.runtime.command import VersionAction, numbers, positive_int, run_command, say
from algm_trt.runtime.engine_arguments import add_engine_arguments, engine_options
from algm_trt.runtime.evaluation.layouts import LAYOUTS
from algm_trt.runtime.limits import MAX_WORKERS
from algm_trt.runtime.paths import printable
from algm_trt.runtime.pipeline_arguments import add_reading_arguments, add_window_arguments, pipeline_options

if TYPE_CHECKING:
    from algm_trt.runtime.evaluation.job import Report, Run

_FAILURES_SHOWN = 20
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
within 0.75 % of the picture's diagonal. Images/s are whole pictures per second: inside the model alone, and of the
whole run with decoding and scoring.

A checkpoint (.pth) runs in PyTorch as it was trained; CHECKPOINT.pth:dense runs it without merging.
Every run after the first is compared with the first: share of equal labels, change of IoU per class.

exit codes: 0 all pictures scored; 1 failed; 2 wrong usage; 4 the machine lacks something that a model needs;
5 some pictures could not be scored: they are named and not part of the figures; 130 interrupted, 143 terminated.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    return run_command("algm-eval", lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    # Imported here: --help and usage errors need none of it.
    from algm_trt.runtime.evaluation.evaluate import WINDOWS_COUPLED, EvaluationOptions
    from algm_trt.runtime.evaluation.job import EvaluationJob, run_evaluation
    from algm_trt.runtime.evaluation.multiscale import Protocol
    from algm_trt.runtime.evaluation.sets import Places
    from algm_trt.runtime.files import check_writable, renamed_together
    from algm_trt.runtime.machine import environment

    coupled = arguments.window_batch_coupled
    batch_size = arguments.batch_size or (WINDOWS_COUPLED if coupled else 1)
    job = EvaluationJob(
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
            pipeline=pipeline_options(arguments, batch_size=batch_size),
            window_batch_coupled=coupled,
            max_pixels=arguments.max_pixels,
            quiet=arguments.quiet,
        ),
        short_side=arguments.short_side,
        thresholds=arguments.thresholds,
        limit=arguments.limit,
        engine=engine_options(arguments),
        usual_batches=arguments.batch_size is None and not coupled,
    )
    if arguments.json:
        check_writable(arguments.json)
    report = run_evaluation(job, arguments.drift)
    if not arguments.quiet:
        say(sys.stdout, "\n".join(_lines(report)))
    if arguments.json:
        with renamed_together() as temporary:
            text = json.dumps(environment() | report.to_dict(), indent=1)
            temporary(arguments.json).write_text(f"{text}\n", encoding="utf-8")
    failures = {failure.name: failure for run in report.runs for failure in run.evaluation.failures}
    for failure in list(failures.values())[:_FAILURES_SHOWN]:
        say(sys.stderr, f"algm-eval: {printable(failure.name)} left out ({failure.kind}): {failure.error}")
    if failures:
        say(sys.stderr, f"algm-eval: {len(failures)} of {len(report.data.samples)} pictures are not in the figures")
    return PartialFailureError.exit_code if failures else 0


def _lines(report: Report) -> list[str]:
    """What the command says at its end."""
    protocol, split = report.options.protocol, f" {report.data.split}" if report.data.split else ""
    side = f"slide, short side {protocol.short_side}" if protocol.short_side else "slide, pictures as they are"
    shown = [side if report.options.pipeline.mode == "slide" else "whole"]
    shown += [f"scales {','.join(f'{scale:g}' for scale in protocol.scales)}"] if protocol.scales != (1.0,) else []
    shown += ["flip"] if protocol.flip else []
    return [
        f"{report.data.dataset}{split}: {len(report.data.samples)} pictures, {', '.join(shown)}",
        "",
        *_table(report.runs),
        "",
        *_class_table(report),
        *(line for run in report.runs if run.drift for line in _drift_lines(report, run)),
    ]


def _table(runs: Sequence[Run]) -> list[str]:
    """A line per run, numbered for the table of classes."""
    titles = [f"({number}) {run.title}" for number, run in enumerate(runs, start=1)]
    width = max(map(len, titles))
    head = f"{'model':<{width}}  {'mIoU':>6}  {'pixel':>6}  {'mean':>6}  {'bound.':>6}  {'tokens':>6}  {'images/s':>15}"
    units = f"{'':<{width}}  {'':>6}  {'acc.':>6}  {'acc.':>6}  {'F':>6}  {'kept':>6}  {'model':>7} {'all':>7}"
    lines = [head, units]
    for title, found in zip(titles, (run.evaluation for run in runs), strict=True):
        scores = (
            found.scores.mean_iou,
            found.scores.pixel_accuracy,
            found.scores.mean_accuracy,
            found.boundary.mean_f_score,
            found.tokens_kept,
        )
        figures = "  ".join(_percent(score) for score in scores)
        speeds = f"{found.images_per_model_second:7.2f} {found.images_per_second:7.2f}"
        lines.append(f"{title:<{width}}  {figures}  {speeds}")
    return lines


def _class_table(report: Report) -> list[str]:
    """IoU per class, a column per run."""
    width = max(len("IoU per class"), *(len(name) for name in report.class_names))
    columns = [f"({number})" for number in range(1, len(report.runs) + 1)]
    lines = [f"{'IoU per class':<{width}}  {'  '.join(f'{column:>6}' for column in columns)}"]
    values = [run.evaluation.scores.iou for run in report.runs]
    for number, name in enumerate(report.class_names):
        lines.append(f"{name:<{width}}  {'  '.join(_percent(iou[number]) for iou in values)}")
    return lines


def _drift_lines(report: Report, run: Run) -> list[str]:
    assert run.drift is not None
    first = report.runs[0]
    change = run.evaluation.scores.mean_iou - first.evaluation.scores.mean_iou
    equal = f"{run.drift.share_equal:.3%} of labels equal" if run.drift.pictures else "no picture in common"
    moved = "" if math.isnan(change) else f", mIoU {100 * change:+.2f}"
    lines = ["", f"{run.title} against {first.title}: {equal}{moved}"]
    by_class = zip(run.evaluation.scores.iou - first.evaluation.scores.iou, report.class_names, strict=True)
    lost = sorted((float(value), name) for value, name in by_class if value < 0)
    if lost:
        lines.append(f"  IoU lost most: {', '.join(f'{name} {100 * value:+.2f}' for value, name in lost[:3])}")
    worst = [f"{printable(report.data.samples[index].name)} {share:.1%}" for index, share in run.drift.worst()[:3]]
    if worst:
        lines.append(f"  labels differ most: {', '.join(worst)}")
    return lines


def _percent(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{100 * value:6.2f}"


def _short_side(text: str) -> int:
    if text == "native":
        return 0
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; native takes pictures as they are") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="algm-eval",
        description="Score models on a data set with ground truth.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data(parser)
    add = parser.add_argument
    add_window_arguments(parser)
    add("--short-side", type=_short_side, metavar="N", help="pixels, or native (default: the data set's official one)")
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
    add("--drift", type=Path, metavar="DIR", help="draw the ten pictures of each run that drifted most from the first")
    add("-q", "--quiet", action="store_true", help="print errors only")
    add("--version", action=VersionAction, nargs=0, help="print the version")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="model.onnx, an engine file, or checkpoint.pth[:dense]")
    add("--data", type=Path, required=True, metavar="ROOT", help="folder of the data set")
    add("--dataset", choices=LAYOUTS, required=True, help="its layout; see below")
    add("--split", metavar="NAME", help="part of the data set; see below for the defaults")
    add("--images", type=Path, metavar="DIR", help="folder of the pictures, if not the layout's; not relative to ROOT")
    add("--labels", type=Path, metavar="DIR", help="the same of the label files; for coco_panoptic the JSON file")
    add("--image-suffix", default="", metavar="END", help="end of the pictures' names, such as _img.jpg")
    add("--label-suffix", default="", metavar="END", help="end of the label files' names, such as _gt.png")
    add("--ignore", type=int, metavar="VALUE", help="stored value that does not count")
    add("--label-map", type=Path, metavar="FILE", help='JSON {"stored value": class id, or null to ignore}')
    add("--limit", type=positive_int, metavar="N", help="take the first N pictures only")
