"""The command algm-export: an official checkpoint to a verified ONNX model."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.plugins.arguments import command_parser
from algm_trt.plugins.command import run_command, say
from algm_trt.plugins.errors import MissingDependencyError, VerificationError

if TYPE_CHECKING:
    from algm_trt.exporter.export import ExportReport

_EPILOG = """\
The model takes uint8 pictures and carries its model card: nothing else is needed to use it,
  algm-infer pictures/ --engine model.onnx

It ends with a comparison of PyTorch and ONNX Runtime on pictures, which is also in MODEL.onnx.json.

fp16 is for GPUs. int8 is for ONNX Runtime on a CPU: linear layers behind the local merge, or all of a dense model,
multiply bytes, and the span of the activations is taken as they come, so that no pictures are needed to calibrate it.
Such a file takes one picture at a time: in a batch the span of one would round the others.
What that costs and gains on your pictures: algm-eval and algm-bench with both models.

The classes are those of the data set that variant.yml names, or numbered. A FILE for --classes has one per line, in the
order of the ids: NAME, or NAME,R,G,B where all have a colour; or it is JSON: {"classes": [...], "palette": [[R, G, B],
...]}.

exit codes: 0 exported and verified; 1 failed; 2 wrong usage; 3 ONNX Runtime and PyTorch disagree (the files are kept);
4 a package is missing; 130 interrupted, 143 terminated.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command("algm-export", lambda: _export(_parser().parse_args(argv)))


def _export(arguments: argparse.Namespace) -> int:
    # Imported here: --help and usage errors need neither torch nor onnx.
    try:
        from algm_trt.exporter.export import export_onnx
        from algm_trt.exporter.options import ExportOptions
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed: pip install 'algm-trt[export]'") from error
    options = ExportOptions(
        size=arguments.size,
        merge_layers=arguments.merge_layers,
        merge_window=arguments.merge_window,
        threshold=arguments.threshold,
        merge=not arguments.no_merge,
        precision=arguments.precision,
        classes=arguments.classes,
        verify=not arguments.no_verify,
        verify_images=arguments.verify_images,
        force=arguments.force,
    )
    report = export_onnx(arguments.checkpoint, arguments.output, options)
    say("\n".join(_lines(report)))
    if report.verification is not None and report.verification.complaint:
        raise VerificationError(f"{report.path}: {report.verification.complaint}; see the table above")
    return 0


def _lines(report: ExportReport) -> list[str]:
    """What the command says at its end."""
    card = report.card
    lines = [f"note: {note}" for note in report.notes]
    lines.append(
        f"{card.architecture}, {len(card.classes)} classes, input {card.size[0]}x{card.size[1]}, {card.precision}"
    )
    if card.merge:
        layers = ", ".join(map(str, card.merge.layers))
        window = "x".join(map(str, card.merge.window))
        lines.append(f"merges at layers {layers} in windows of {window} from similarity {card.merge.threshold:g}")
    else:
        lines.append("dense, no merging")
    if card.short_side:
        lines.append(f"pictures are resized to a short side of {card.short_side} pixels, as in the official evaluation")
    if report.verification:
        kind = "drawn pictures (--verify-images DIR takes yours)" if report.verification.drawn else "your pictures"
        lines += ["", f"PyTorch against ONNX Runtime on {kind}:", report.verification.table(), ""]
    megabytes = report.path.stat().st_size / 1e6
    lines.append(f"written: {report.path} ({megabytes:.1f} MB, {report.nodes} nodes), {report.report_path.name}")
    lines.append(f"next: algm-infer PICTURES --engine {shlex.quote(str(report.path))}")
    return lines


def _size(text: str) -> tuple[int, int]:
    """`HxW`, or one number for both."""
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"expected HxW or one number, got '{text}'")
    return sides[0], sides[-1]


def _layers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layers such as 1,5, got '{text}'") from None


def _parser() -> argparse.ArgumentParser:
    description = "Export a Segmenter or ALGM checkpoint as ONNX with token merging inside."
    parser = command_parser("algm-export", description, _EPILOG)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="folder with checkpoint.pth and variant.yml, or the .pth file",
    )
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the ONNX file (default: model.onnx, model.fp16.onnx or model.int8.onnx beside the checkpoint)",
    )
    add("--size", type=_size, metavar="HxW", help="input size in pixels (default: the checkpoint's crop)")
    add(
        "--merge-layers",
        type=_layers,
        metavar="L,...",
        help="layers that merge, counted from 1, the first locally (default: as it was trained, else 1,5)",
    )
    add(
        "--merge-window",
        type=_size,
        metavar="HxW",
        help="window of the local merge in tokens (default: as it was trained, else 2x2)",
    )
    add(
        "--threshold",
        type=float,
        metavar="T",
        help="similarity at which a window merges, at most 1; can be changed at run time (default: as it was trained, "
        "else 0.88)",
    )
    add("--no-merge", action="store_true", help="export the dense model")
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="type of weights and activations; see below (default: fp32)",
    )
    add("--classes", type=Path, metavar="FILE", help="class names and colours; see below")
    add("--verify-images", type=Path, metavar="DIR", help="compare on the first 8 pictures of DIR, not on drawn scenes")
    add("--no-verify", action="store_true", help="skip the comparison with PyTorch")
    add("--force", action="store_true", help="write over a file that is no model of algm-export")
    return parser


if __name__ == "__main__":
    sys.exit(main())
