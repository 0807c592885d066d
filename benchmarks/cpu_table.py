"""One table for a CPU: the official code, our PyTorch network, ONNX Runtime and OpenVINO, dense and merged.

    python benchmarks/cpu_table.py --official CHECKOUT [--json FILE]

CHECKOUT is one of tue-mps/algm-segmenter; without it our ways of running stand alone. 512x512, 150 classes, one picture
at a time, random weights (speed depends only on how many tokens merge), half of the windows merged. All variants of a
network take turns in one process on the same unlike pictures; every network and number of threads has its own process.
About twelve minutes on two idle cores, nearly half of it for torch.compile; --rounds, --backbones and --threads make it
shorter.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from parts.cpu_variants import Plan, measure
from parts.networks import BACKBONES, SAMPLE
from parts.official_cpu import describe
from parts.record import recording_parser, write_record
from parts.rounded_labels import agreement
from tables import cpu_table

COMPARED = 64
SUPPORT = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
Found = TypeVar("Found")


def apart(function: Callable[..., Found], *arguments: object) -> Found:
    """Call a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def instructions() -> dict[str, bool]:
    """Which of the instruction sets that matter here the processor has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return {name: name in flags for name in SUPPORT}


def parse() -> argparse.Namespace:
    """Arguments of the command."""
    parser = recording_parser(__doc__)
    parser.add_argument("--official", type=Path, help="checkout of the official code")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["vit_small", "vit_tiny"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads")
    parser.add_argument("--pictures", type=Path, help="folder of pictures (default: drawn scenes)")
    parser.add_argument("--count", type=int, default=4, help="pictures")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        action="append",
        metavar=("CHECKPOINT", "PICTURES"),
        help="trained checkpoint to compare bf16 and int8 on, pictures for it (default: the sample, drawn scenes)",
    )
    return parser.parse_args()


def main() -> int:
    """Measure, print, write JSON."""
    options = parse()
    results: dict[str, Any] = {
        "what": "512x512, 150 classes, one picture at a time; milliseconds per picture",
        "ends_with": {"official": "class scores of every pixel", "ours": "labels of every pixel"},
        "instructions": instructions(),
        "official": describe(options.official) if options.official else None,
        "runs": [],
        "trained": [],
    }
    for backbone in options.backbones:
        for threads in options.threads:
            plan = Plan(backbone, threads, options.rounds, options.pictures, options.count, options.official)
            results["runs"].append(apart(measure, plan))
            write_record(options.json, results)  # what is done is kept when the time is up
    for checkpoint, *pictures in options.checkpoint or [[SAMPLE]]:
        for folder in pictures or [None]:
            results["trained"] += apart(agreement, checkpoint, folder, COMPARED)
    print(cpu_table(results))
    write_record(options.json, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
