"""Windows side by side on a CPU, and one after another: `python benchmarks/streams.py [--json FILE]`.

A CPU backend with one stream computes a window on all threads; with several (`--streams`, what `algm-infer` does unless
told otherwise) it computes as many windows at once, each on its part of the threads. Measured is an opened engine that
gets unlike windows, many in one call, and singly: more of them per second, each later. ViT-Ti/16 and ViT-S/16, 512x512,
150 classes, random weights, the threshold at which half of the windows of patches merge. All variants of a network take
turns in one process; about eight minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from cpu_variants import BACKENDS, KINDS, SIZE
from networks import halfway_threshold, random_checkpoint, random_config
from numpy.typing import NDArray
from record import write_record
from tables import streams

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.cores import physical_cores
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.scenes import draw_scene
from algm_trt.runtime.timing import Call, Samples, alternate

MODELS: Final = ("vit_tiny", "vit_small", "tiny")
SINGLY: Final = 4


def run(engine: Engine, images: NDArray[np.uint8], threshold: float | None) -> None:
    """From pixels to scores: labels are made elsewhere in `algm-infer`, while the engine goes on."""
    engine.run(images, threshold)


def half_merging(model: Path, images: NDArray[np.uint8], name: str) -> float:
    """The threshold at which half of the windows of patches merge."""
    engine = open_engine(model, EngineOptions(backend="onnxruntime", device="cpu"))

    def local_tokens(threshold: float) -> float:
        return statistics.fmean(engine.run(images, threshold).token_counts[:, 1].tolist())

    return halfway_threshold(local_tokens, random_config(name, SIZE))


def measure(name: str, threads: int, count: int, rounds: int) -> dict[str, Any]:
    """One network with every backend, dense and merged, with one stream and with one per thread."""
    images = np.stack([draw_scene(SIZE, SIZE, seed).image for seed in range(count)])
    calls: dict[tuple[str, str, int, str], Call | list[Call]] = {}
    not_run: dict[str, str] = {}
    with TemporaryDirectory() as text:
        folder = Path(text)
        checkpoint = load_checkpoint(random_checkpoint(random_config(name, SIZE), folder))
        models = {kind: folder / f"{kind}.onnx" for kind in KINDS}
        for kind, model in models.items():
            export_onnx(checkpoint, model, ExportOptions(merge=kind == "merged", verify=False))
        threshold = half_merging(models["merged"], images, name)
        for backend, (library, precision) in BACKENDS.items():
            for kind, model in models.items():
                at = threshold if kind == "merged" else None
                for many in (1, threads):
                    options = EngineOptions(library, "cpu", threads, precision, many)
                    try:
                        engine = open_engine(model, options)
                    except (AlgmError, ImportError) as error:
                        not_run[backend] = str(error)
                        continue
                    calls[backend, kind, many, "many"] = partial(run, engine, images, at)
                    singly = [partial(run, engine, image[None], at) for image in images[:SINGLY]]
                    calls[backend, kind, many, "one"] = singly
        times = alternate(calls, rounds)
    return {
        "model": random_config(name, SIZE).describe(),
        "threshold": threshold,
        "variants": [row(key[:3], times, count) for key in calls if key[3] == "many"],
        "not_run": not_run,
    }


def row(key: tuple[str, str, int], times: dict[tuple[str, str, int, str], Samples], count: int) -> dict[str, Any]:
    """Figures of one engine."""
    many, single = times[*key, "many"], times[*key[:2], 1, "many"]
    seconds = many.seconds
    rates = {"lower_quartile": seconds.upper, "median": seconds.median, "upper_quartile": seconds.lower}
    return {
        "name": key[0],
        "kind": key[1],
        "streams": key[2],
        "windows_per_second": {which: count / value for which, value in rates.items()},
        "times_as_fast_as_one_stream": single.over(many).to_dict(),
        "ms_of_one_window": {which: 1e3 * value for which, value in times[*key, "one"].seconds.to_dict().items()},
        "seconds_of_calls": [turn[0] for turn in many.rounds],
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["vit_tiny", "vit_small"])
    parser.add_argument("--threads", type=int, default=physical_cores(), help="and so many streams, against one")
    parser.add_argument("--count", type=int, default=16, help="windows of a call")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if arguments.threads < 2:
        parser.error("there is nothing to share with one thread")
    results: dict[str, Any] = {
        "what": f"512x512, 150 classes, {arguments.count} drawn scenes in one call, and {SINGLY} of them singly",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "models": [measure(name, arguments.threads, arguments.count, arguments.rounds) for name in arguments.models],
    }
    print(streams(results))
    if arguments.json:
        write_record(arguments.json, results)


if __name__ == "__main__":
    main()
