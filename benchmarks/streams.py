"""Windows side by side on a CPU, and one after another: `python benchmarks/streams.py [--json FILE]`.

A CPU backend with one stream computes a window on all threads; with several (`--streams`, what `algm-infer` does unless
told otherwise) it computes as many windows at once, each on its part of the threads. Measured is an opened engine that
gets unlike windows, many in one call, and singly: more of them per second, each later. ViT-Ti/16 and ViT-S/16, 512x512,
150 classes, random weights, the threshold at which half of the windows of patches merge. All variants of a network take
turns in one process; about seven minutes on two idle cores. From pixels to scores: `algm-infer` makes labels elsewhere,
while the engine goes on.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import tables
from parts.backends import BACKENDS, KINDS, exported
from parts.networks import SIZE, random_checkpoint, random_config
from parts.pictures import load_pictures
from parts.record import recording_parser, write_record
from parts.thresholds import engine_threshold

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.cores import physical_cores
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.timing import Call, Samples, alternate

MODELS: Final = ("vit_tiny", "vit_small", "tiny")
SINGLY: Final = 4
"""Windows of the call that are measured by themselves, too."""

Key = tuple[str, str, int]
"""Backend, kind of model, streams."""


def measure(name: str, threads: int, count: int, rounds: int) -> dict[str, Any]:
    """One network with every backend, dense and merged, with one stream and with one per thread."""
    config = random_config(name, SIZE)
    images, _ = load_pictures(None, count, SIZE)
    engines: dict[Key, Engine] = {}
    not_run: dict[str, str] = {}
    with TemporaryDirectory() as text:
        folder = Path(text)
        checkpoint = load_checkpoint(random_checkpoint(config, folder))
        models = exported(checkpoint, folder)
        for backend, kind, streams in product(BACKENDS, KINDS, (1, threads)):
            way = BACKENDS[backend]
            try:
                engines[backend, kind, streams] = open_engine(models[kind, way.export], way.options(threads, streams))
            except (AlgmError, ImportError) as error:
                not_run[backend] = str(error)
    threshold = engine_threshold(engines["ONNX Runtime FP32", "merged", 1], images, config)
    many: dict[Key, Call] = {}
    singly: dict[Key, list[Call]] = {}
    for key, engine in engines.items():
        run = partial(engine.run, threshold=threshold if key[1] == "merged" else None)
        many[key] = partial(run, images)
        singly[key] = [partial(run, image[None]) for image in images[:SINGLY]]
    turns: dict[tuple[Key, bool], Call | list[Call]] = {(key, False): call for key, call in many.items()}
    times = alternate(turns | {(key, True): calls for key, calls in singly.items()}, rounds)
    return {
        "model": config.describe(),
        "threshold": threshold,
        "variants": [row(key, times, count) for key in engines],
        "not_run": not_run,
    }


def row(key: Key, times: dict[tuple[Key, bool], Samples], count: int) -> dict[str, Any]:
    """Figures of one engine."""
    backend, kind, streams = key
    many, one_stream = times[key, False], times[(backend, kind, 1), False]
    ms = {which: 1e3 * value for which, value in times[key, True].seconds.to_dict().items()}
    return {
        "name": backend,
        "kind": kind,
        "streams": streams,
        "windows_per_second": many.seconds.rate(count).to_dict(),
        "times_as_fast_as_one_stream": one_stream.over(many).to_dict(),
        "ms_of_one_window": ms,
        "seconds_of_calls": [turn[0] for turn in many.rounds],
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["vit_tiny", "vit_small"])
    parser.add_argument("--threads", type=int, default=physical_cores(), help="and so many streams, against one")
    parser.add_argument("--count", type=int, default=16, help="windows of a call")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.threads < 2:
        parser.error("there is nothing to share with one thread")
    results: dict[str, Any] = {
        "what": f"512x512, 150 classes, {arguments.count} drawn scenes in one call, and {SINGLY} of them singly",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "models": [measure(name, arguments.threads, arguments.count, arguments.rounds) for name in arguments.models],
    }
    print(tables.streams(results))
    write_record(arguments.json, results)


if __name__ == "__main__":
    main()
