"""The command algm-build-engine: model.onnx to model.plan."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algm_trt.engines.bindings import MEANWHILE
from algm_trt.engines.trtexec_names import add_trtexec_names
from algm_trt.plugins.arguments import command_parser, positive_int, whole_numbers
from algm_trt.plugins.command import run_command, say
from algm_trt.plugins.errors import MissingDependencyError

if TYPE_CHECKING:
    from algm_trt.engines.build import BuildReport
    from algm_trt.engines.options import BatchRange, BuildOptions

_EPILOG = """\
The plan goes beside the model, with MODEL.plan.json: what it was built from, with and for. By default it serves batches
of 1 to 8 and carries the plugin library, so that other programs need no other file; README says how they open it.

  algm-build-engine --fp16                      for this machine's GPU (TensorRT 10.9 or later)
  algm-build-engine --fp16 --target rtx         for RTX GPUs, on a machine without one (TensorRT-RTX)

Five options may also be given as in trtexec: --timingCacheFile, --builderOptimizationLevel,
--hardwareCompatibilityLevel, --versionCompatible and --memPoolSize=workspace:MiB.

exit codes: 0 built, or an equal plan was there; 1 failed; 2 wrong usage; 3 float16 changes the results too much;
4 TensorRT, a GPU, the plugin library or a package is missing; 130 interrupted, 143 terminated:
nothing is left.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    interrupted = "interrupted, nothing was written"
    return run_command("algm-build-engine", lambda: _build(_parser().parse_args(argv)), interrupted=interrupted)


def _build(arguments: argparse.Namespace) -> int:
    # Imported here: --help and usage errors need neither onnx nor TensorRT.
    try:
        from algm_trt.engines.build import build_engine
        from algm_trt.engines.progress import BuildProgress
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed: pip install 'algm-trt[engine,{arguments.target}]'"
        cure = missing if arguments.target == "rtx" else f"{missing}, on the machine with the GPU; {MEANWHILE}"
        raise MissingDependencyError(cure) from error
    progress = BuildProgress(visible=sys.stderr.isatty())
    report = build_engine(arguments.model, arguments.output, _options(arguments), progress=progress)
    say("\n".join(_lines(report)))
    return 0


def _options(arguments: argparse.Namespace) -> BuildOptions:
    from algm_trt.engines.options import BuildOptions

    defaults = BuildOptions()
    return BuildOptions(
        precision=arguments.precision,
        batches=_batches(arguments) or defaults.batches,
        target=arguments.target,
        compute_capabilities=arguments.sm,
        plugins=not arguments.no_plugins,
        embed_plugins=arguments.embed_plugins,
        workspace_mib=arguments.workspace,
        timing_cache=arguments.timing_cache,
        optimization_level=arguments.optimization_level,
        hardware_compatibility=arguments.hardware_compatibility,
        version_compatible=arguments.version_compatible,
        verify=not arguments.no_verify,
        verify_images=arguments.verify_images,
        save_onnx=arguments.save_onnx,
        dump_layers=arguments.dump_layers,
        force=arguments.force,
    )


def _batches(arguments: argparse.Namespace) -> tuple[BatchRange, ...]:
    from algm_trt.engines.options import BatchRange, ranges_up_to

    if arguments.batch:
        return (BatchRange(*arguments.batch),)
    return ranges_up_to(arguments.profiles) if arguments.profiles else ()


def _lines(report: BuildReport) -> list[str]:
    """What the command says at its end."""
    record = report.record
    name = "TensorRT-RTX" if record.flavour == "rtx" else "TensorRT"
    device = record.gpu or f"compute capability {', '.join(record.compute_capabilities)}"
    plugins = f"{record.plugins.layers} plugin layers" if record.plugins else "no plugins"
    lines = [f"note: {note}" for note in report.notes]
    if report.agreement is not None:
        agreement = report.agreement
        largest, size = agreement.largest_activation
        lines += ["float16 against float32 on ONNX Runtime:", agreement.table()]
        lines += [f"labels equal: {agreement.labels_equal:.3%}; largest activation: {size:.4g} ({largest})", ""]
    ranges = ", ".join(f"{low} to {high}" if low < high else str(low) for low, _, high in record.profiles)
    lines.append(f"{name} {record.tensorrt_version} for {device}: {record.card.precision}, {plugins}, batch {ranges}")
    if report.up_to_date:
        lines.append(f"up to date: {report.path} (built {record.date}; --force builds it again)")
    else:
        others = ", ".join(path.name for path in (report.path.with_name(f"{report.path.name}.json"), *report.saved))
        size_mb = record.plan_bytes / 1e6
        lines.append(f"written: {report.path} ({size_mb:.1f} MB), {others} in {report.seconds:.1f} s")
    return lines


def _parser() -> argparse.ArgumentParser:
    description = "Build a TensorRT engine from a model that algm-export wrote."
    parser = command_parser("algm-build-engine", description, _EPILOG)
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=Path,
        default=Path("model.onnx"),
        metavar="MODEL",
        help="ONNX file (default: model.onnx)",
    )
    add("-o", "--output", type=Path, metavar="FILE", help="the plan (default: MODEL.plan beside the model)")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--fp16",
        dest="precision",
        action="store_const",
        const="fp16",
        help="float16 with float32 islands; made from a float32 export and compared with it",
    )
    precision.add_argument(
        "--fp32", dest="precision", action="store_const", const="fp32", help="float32 (default: as exported)"
    )
    batches = parser.add_mutually_exclusive_group()
    batches.add_argument(
        "--batch", type=int, nargs=3, metavar=("MIN", "OPT", "MAX"), help="one profile for batches of MIN to MAX"
    )
    batches.add_argument(
        "--profiles", type=whole_numbers, metavar="1,8,32", help="a profile up to each of these batches (default: 1,8)"
    )
    add("--target", choices=("tensorrt", "rtx"), default="tensorrt", help="rtx: TensorRT-RTX, needs no GPU to build")
    add("--sm", type=whole_numbers, default=(), metavar="80,89", help="compute capabilities of --target rtx")
    add("--no-plugins", action="store_true", help="use standard operators only: slower, but nothing to load")
    add(
        "--embed-plugins",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put the plugin library into the plan (default: yes)",
    )
    _add_tuning(parser)
    add(
        "--verify-images",
        type=Path,
        metavar="DIR",
        help="fit float16 on the first 8 pictures of DIR, not on drawn scenes",
    )
    add("--no-verify", action="store_true", help="take plain float16, neither compared with float32 nor fitted")
    add("--save-onnx", action="store_true", help="keep the float16 graph as MODEL.fp16.onnx beside the plan")
    add("--dump-layers", type=Path, metavar="FILE", help="write the layers as JSON")
    add("--force", action="store_true", help="build even if an equal plan is there; overwrite any file")
    return parser


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """What TensorRT itself is told."""
    add = parser.add_argument
    add("--workspace", type=positive_int, metavar="MiB", help="limit of TensorRT's workspace (default: its own)")
    add("--timing-cache", type=Path, metavar="FILE", help="file of kernel timings (default: one in the user's cache)")
    add(
        "--optimization-level",
        type=int,
        default=3,
        metavar="N",
        help="0 builds fast, 5 builds fast engines (default: 3)",
    )
    add(
        "--hardware-compatibility",
        choices=("none", "ampere-plus", "same-compute-capability"),
        default="none",
        metavar="LEVEL",
        help="none, ampere-plus or same-compute-capability: run on more kinds of GPU, slower",
    )
    add("--version-compatible", action="store_true", help="run on later minor versions of TensorRT too")
    add_trtexec_names(parser)


if __name__ == "__main__":
    sys.exit(main())
