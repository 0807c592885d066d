"""The whole job, from picture files to written files: `python benchmarks/whole_job.py PHOTOGRAPHS [--json FILE]`.

What `algm-infer PHOTOGRAPHS` does (decoding, sliding windows, model, labels and overlays written as files), with each
backend, dense and merged, windows one after another and as many side by side as `algm-infer` takes (`--streams`), for
the sample checkpoint and for a ViT-S/16 of 512x512 with random weights of which half of the windows merge. Files that
cannot be decoded are part of the job; they are counted, not hidden. All variants of a model take turns in one process.
A round with 65 photographs takes about a quarter of an hour on two idle cores, three minutes for the sample alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from parts.backends import BACKENDS, KINDS, exported
from parts.networks import SAMPLE, SIZE, random_checkpoint, random_config
from parts.record import recording_parser, write_record
from parts.thresholds import engine_threshold
from parts.windows import windows_of
from tables import whole_job

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import Checkpoint, load_checkpoint
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.backends.streams import shared_threads
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.decode import DecodeError, decode_image
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.job import JobOptions, JobReport, run_job
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.sources import Source, find_sources
from algm_trt.runtime.timing import Samples, alternate

THRESHOLD_PICTURES: Final = 8
MODELS: Final = ("sample", "vit_small", "tiny")

Key = tuple[str, str, int]
"""Backend, kind of model, streams."""


@dataclass
class Job:
    """One way of doing the job: a model's engine, and what its last run reported."""

    engine: Engine
    model: Path
    sources: Sequence[Source]
    options: JobOptions
    report: JobReport | None = None

    def run(self) -> None:
        """All pictures into a folder that is removed afterwards."""
        with TemporaryDirectory() as folder:
            self.report = run_job(Segmenter(self.engine), self.model, self.sources, Path(folder), self.options)


def checkpoint_of(name: str, folder: Path) -> Checkpoint:
    """The sample, or a network with random weights whose threshold lets half of the windows of drawn scenes merge."""
    if name == "sample":
        return load_checkpoint(SAMPLE)
    return load_checkpoint(random_checkpoint(random_config(name, SIZE), folder / "random"))


def with_half_merging(checkpoint: Checkpoint, folder: Path, photographs: Sequence[Source]) -> Checkpoint:
    """The checkpoint with the threshold at which half of the windows merge in photographs from all over the list."""
    model = export_onnx(checkpoint, folder / "any_threshold.onnx", ExportOptions(verify=False)).path
    engine = open_engine(model, EngineOptions(backend="onnxruntime", device="cpu"))
    step = max(1, len(photographs) // THRESHOLD_PICTURES)
    windows = np.stack(list(first_windows(photographs[::step], engine.card)))
    threshold = engine_threshold(engine, windows, checkpoint.config)
    assert checkpoint.merge is not None
    return replace(checkpoint, merge=replace(checkpoint.merge, threshold=threshold))


def first_windows(photographs: Sequence[Source], card: ModelCard) -> Iterator[NDArray[np.uint8]]:
    """The first window of every photograph that can be read."""
    for source in photographs:
        with suppress(DecodeError):
            yield windows_of(decode_image(source.path), card)[0]


def jobs(
    models: dict[tuple[str, str], Path],
    backends: Sequence[str],
    sources: Sequence[Source],
    threads: int,
    not_run: dict[str, str],
) -> Iterator[tuple[Key, Job]]:
    """A job for every backend, kind of model and number of streams that works here; why others do not is `not_run`."""
    for backend in backends:
        way = BACKENDS[backend]
        for kind in KINDS:
            model = models[kind, way.export]
            for streams in sorted({1, shared_threads(None, threads)[0]}):
                try:
                    pipeline = PipelineOptions(short_side=0)  # photographs at their own size
                    options = JobOptions(pipeline, engine=way.options(threads, streams), quiet=True)
                    engine = open_engine(model, options.engine)
                except (AlgmError, ImportError) as error:
                    not_run[f"{backend}, {kind}"] = str(error)
                    continue
                yield (backend, kind, streams), Job(engine, model, sources, options)


def measure(name: str, backends: Sequence[str], sources: Sequence[Source], threads: int, rounds: int) -> dict[str, Any]:
    """One model with every backend, dense and merged."""
    not_run: dict[str, str] = {}
    with TemporaryDirectory() as text:
        folder = Path(text)
        checkpoint = checkpoint_of(name, folder)
        if name != "sample":
            checkpoint = with_half_merging(checkpoint, folder, sources)
        models = exported(checkpoint, folder)
        running = dict(jobs(models, backends, sources, threads, not_run))
        few = {key: replace(job, sources=sources[:4]) for key, job in running.items()}
        for job in few.values():
            job.run()
        times = alternate({key: job.run for key, job in running.items()}, rounds, warmup=0)
    return {
        "model": f"{name}: {checkpoint.config.describe()}, {checkpoint.crop[0]}x{checkpoint.crop[1]}",
        "threshold": checkpoint.merge.threshold if checkpoint.merge else None,
        "variants": [row(key, job, times) for key, job in running.items()],
        "not_run": not_run,
    }


def row(key: Key, job: Job, times: dict[Key, Samples]) -> dict[str, Any]:
    """Figures of one way of doing the job."""
    assert job.report is not None
    summary = job.report.summary
    backend, kind, streams = key
    done = summary["ok"]
    return {
        "name": backend,
        "kind": kind,
        "streams": streams,
        "backend": summary["backend"],
        "images_per_second": times[key].seconds.rate(done).to_dict(),
        "times_as_fast_as_dense": times[backend, "dense", streams].over(times[key]).to_dict(),
        "times_as_fast_as_one_stream": times[backend, kind, 1].over(times[key]).to_dict(),
        "seconds_of_jobs": [turn[0] for turn in times[key].rounds],
        "inputs": summary["inputs"],
        "done": done,
        "failed": summary["failed"],
        "windows": summary["windows"],
        "tokens": summary["tokens"],
        "work_seconds": summary["work_seconds"],
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("photographs", type=Path, help="folder; its subfolders too")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["sample", "vit_small"])
    usual = ["ONNX Runtime FP32", "ONNX Runtime int8", "OpenVINO bf16"]
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=usual)
    parser.add_argument("--limit", type=int, help="take the first N files only")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    sources = find_sources([str(arguments.photographs)], recursive=True)
    sources = [source for source in sources if source.medium == "image"][: arguments.limit]
    results: dict[str, Any] = {
        "what": "from picture files to labels and overlays on disk, sliding windows",
        "files": len(sources),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "models": [],
    }
    for name in arguments.models:
        results["models"].append(measure(name, arguments.backends, sources, arguments.threads, arguments.rounds))
        write_record(arguments.json, results)  # what is done is kept when the time is up
    print(whole_job(results))


if __name__ == "__main__":
    main()
