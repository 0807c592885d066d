"""One run of algm-infer: inputs through the model into the output folder, with a line per input and a summary."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from array import array
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tqdm import tqdm

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.decode import DecodeError
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.machine import versions
from algm_trt.runtime.manifest import Manifest
from algm_trt.runtime.paths import printable
from algm_trt.runtime.pipeline import EngineFailedError, Inferred, Work, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.records import Record, Tally, input_state
from algm_trt.runtime.segmenter import Segmenter, make_result, picture_item
from algm_trt.runtime.sources import Source
from algm_trt.runtime.summary import course, model_facts, settings, work_done
from algm_trt.runtime.video import segment_video
from algm_trt.runtime.window_runner import lanes_of
from algm_trt.runtime.write_watch import WriteWatch
from algm_trt.runtime.writers import WrittenFile, parse_kinds, save_result

if TYPE_CHECKING:
    Bar: TypeAlias = "tqdm[Any]"

STAGES: Final = ("decode", "cut", "model", "labels", "write")
_WHOLE_VIDEO = 0.9  # of the frames announced: headers are often wrong by a few


@dataclass(frozen=True)
class JobOptions:
    """What a run does beside the pipeline.

    Attributes:
        pipeline: how pictures go through the model.
        kinds: files to write per picture.
        resume: leave out inputs that an earlier run with the same model and options finished.
        fail_fast: stop at the first input that fails.
        part: index and number of the shard that the sources are; None for all.
        max_pixels: larger pictures are refused.
        quiet: no progress bar.
        engine: what the model was opened with, for the record.
    """

    pipeline: PipelineOptions = field(default_factory=PipelineOptions)
    kinds: tuple[str, ...] = ("labels", "overlay")
    resume: bool = False
    fail_fast: bool = False
    part: tuple[int, int] | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    quiet: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        parse_kinds(self.kinds)


@dataclass(frozen=True)
class JobReport:
    """How a run went.

    Attributes:
        summary: content of summary.json.
        failures: inputs that failed in this run.
        results_path: results.jsonl of this run.
        seconds: wall time.
        stages: seconds of work on the pictures of this run in each of STAGES, in all threads together.
        latencies: seconds of each picture that was done, from when it was taken up until its files were written, with
            all waiting for others; without frames of videos.
        example: one of the files written by this run, the one that shows most; None if there is none.
    """

    summary: dict[str, Any]
    failures: int
    results_path: Path
    seconds: float
    stages: Mapping[str, float]
    latencies: Sequence[float]
    example: Path | None


@dataclass(frozen=True)
class _Input:
    """A source, when it was taken up, and the state of its file then: the next run notices a change during this one."""

    source: Source
    state: tuple[int | None, int | None]
    begun: float

    @classmethod
    def now(cls, source: Source) -> _Input:
        return cls(source, input_state(source.path), time.perf_counter())


@dataclass(frozen=True)
class _Saved:
    """The outputs of one picture or video; of a picture also seconds: from its scores to its labels, and of it all."""

    size: tuple[int, int]
    tally: Tally
    files: tuple[WrittenFile, ...]
    frames: int | None = None
    labelling: float = 0.0
    latency: float = 0.0


def run_job(
    segmenter: Segmenter, model: Path, sources: Sequence[Source], folder: Path, options: JobOptions
) -> JobReport:
    """Segment all sources and write their files.

    Args:
        segmenter: the model.
        model: its file, for the record.
        sources: the inputs; for a shard, its part of them.
        folder: output folder, which exists.
        options: how.

    Raises:
        KeyboardInterrupt: the run was interrupted; what is done is recorded.
        AlgmError: options that the model cannot serve, a folder that cannot be written or is full by now, a model that
            does not work.
    """
    options.pipeline.check_against(segmenter.card)
    return _Job(segmenter, model, sources, folder, options).run()


class _Job:
    """The state of one run."""

    def __init__(
        self, segmenter: Segmenter, model: Path, sources: Sequence[Source], folder: Path, options: JobOptions
    ) -> None:
        self.segmenter = segmenter
        self.sources = sources
        self.folder = folder
        self.options = options
        self.settings = settings(segmenter.card, options.pipeline, options.kinds, options.engine)
        self.model = model_facts(segmenter.card, model)
        self.fingerprint = _digest(segmenter.card.to_json(), self.model["sha256"], json.dumps(self.settings))
        self.writing = WriteWatch()
        self.failures = 0
        self.pictures = 0  # of this run, frames included
        self.stages = dict.fromkeys(STAGES, 0.0)
        self.latencies = array("d")
        self.example: Path | None = None

    def run(self) -> JobReport:
        begin = time.perf_counter()
        ending = "complete"
        with Manifest(
            self.folder, self.sources, self.fingerprint, resume=self.options.resume, part=self.options.part
        ) as manifest:
            waiting = (source for source in self.sources if source.name not in manifest.done)
            try:
                with (
                    self._bar(len(self.sources), len(manifest.done)) as bar,
                    closing(self._records(waiting)) as records,
                ):
                    for record in records:
                        manifest.append(record)
                        self._count(record, bar)
                        if self.failures and self.options.fail_fast:
                            ending = "stopped at the first failure"
                            break
                        self.writing.check()
            except BaseException as error:
                ending = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                with suppress(AlgmError):  # on a full disk; what ended the run says more
                    manifest.write_summary(self._summary(manifest, ending, time.perf_counter() - begin))
                raise
            seconds = time.perf_counter() - begin
            summary = self._summary(manifest, ending, seconds)
            manifest.write_summary(summary)
        return JobReport(summary, self.failures, manifest.path, seconds, self.stages, self.latencies, self.example)

    def _records(self, sources: Iterable[Source]) -> Generator[Record, None, None]:
        """One line per source, in order."""
        for medium, group in groupby(sources, lambda source: source.medium):
            if medium == "video":
                yield from map(self._video, group)
            else:
                yield from self._pictures(group)

    def _pictures(self, sources: Iterable[Source]) -> Generator[Record, None, None]:
        items = (picture_item(source.path, _Input.now(source), self.options.max_pixels) for source in sources)
        with closing(run_pipeline(self.segmenter.engine, self.options.pipeline, items, self._save)) as outcomes:
            for outcome in outcomes:
                self._add_work(outcome.work, outcome.value.labelling if outcome.value else 0.0)
                if outcome.value:
                    self.latencies.append(outcome.value.latency)
                yield self._record(outcome.key, outcome.value or outcome.error, outcome.work.seconds)

    def _save(self, given: _Input, inferred: Inferred) -> _Saved:
        """The last step for a picture; runs in a thread."""
        begin = time.perf_counter()
        result = make_result(self.segmenter.card, given.source.name, inferred, given.source.path.name)
        labelling = time.perf_counter() - begin
        files = save_result(result, self.folder, given.source.name, self.options.kinds)
        latency = time.perf_counter() - given.begun
        return _Saved(inferred.plan.source, Tally.of(result), tuple(files), labelling=labelling, latency=latency)

    def _add_work(self, work: Work, labelling: float) -> None:
        seconds = (work.decoding, work.cutting, work.model, labelling, work.finishing - labelling)
        for stage, value in zip(STAGES, seconds, strict=True):
            self.stages[stage] += value

    def _video(self, source: Source) -> Record:
        begin = time.perf_counter()
        given = _Input.now(source)
        try:
            with self._bar(None, 0, f"{printable(source.path.name)}: frames", leave=False) as bar:
                video = segment_video(
                    self.segmenter.engine,
                    self.options.pipeline,
                    source.path,
                    self.folder,
                    source.name,
                    self.options.kinds,
                    max_pixels=self.options.max_pixels,
                    on_frame=lambda: bar.update(),
                )
        except EngineFailedError:
            raise
        except Exception as error:
            return self._record(given, error, time.perf_counter() - begin)
        self._add_work(video.work, video.labelling)
        saved = _Saved(video.size, video.tally, video.files, video.frames)
        record = self._record(given, saved, video.work.seconds)
        if video.frames < _WHOLE_VIDEO * video.announced:
            read = f"{video.frames} of the {video.announced} frames that its header announces could be read"
            return replace(record, status="error", error=f"only {read}: is it cut short?")
        return record

    def _record(self, given: _Input, ending: _Saved | Exception | None, seconds: float) -> Record:
        source, (size, changed) = given.source, given.state
        record = Record(
            path=str(source.path),
            name=source.name,
            status="error",
            run=self.fingerprint,
            seconds=round(seconds, 4),
            input_bytes=size,
            input_mtime_ns=changed,
        )
        self.writing.note(None if isinstance(ending, _Saved) else ending)
        if not isinstance(ending, _Saved):
            return replace(record, error=_one_line(ending))
        return replace(
            record,
            status="ok",
            width=ending.size[1],
            height=ending.size[0],
            tokens=ending.tally.token_means(),
            windows=ending.tally.windows,
            frames=ending.frames,
            class_pixels=ending.tally.class_pixels,
            files=ending.files,
        )

    def _count(self, record: Record, bar: Bar) -> None:
        bar.update()
        self.pictures += record.frames or int(record.status == "ok")
        if record.status == "ok":
            if self.example is None:
                self.example = _most_telling(self.folder, record.files)
            return
        self.failures += 1
        with suppress(OSError):  # nobody reads it, or its disk is full: results.jsonl says it too
            tqdm.write(f"algm-infer: {printable(record.path)}: {record.error}", file=sys.stderr)

    def _bar(self, total: int | None, done: int, title: str | None = None, leave: bool = True) -> Bar:
        """A progress bar, on a terminal only."""
        return tqdm(
            total=total,
            initial=done,
            desc=title,
            leave=leave,
            unit="image",
            dynamic_ncols=True,
            disable=True if self.options.quiet else None,
        )

    def _summary(self, manifest: Manifest, ending: str, seconds: float) -> dict[str, Any]:
        """Content of summary.json."""
        engine, options = self.segmenter.engine, self.options
        done = work_done(
            manifest.totals,
            self.segmenter.card,
            ending=ending,
            inputs=len(self.sources) + manifest.others,
            done_before=len(manifest.done),
            pictures=self.pictures,
            seconds=seconds,
            stages=self.stages,
        )
        return done | {
            "options": self.settings | course(options.pipeline, options.part, options.engine, lanes_of(engine)),
            "model": self.model,
            "backend": engine.description,
            "versions": versions(),
        }


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _most_telling(folder: Path, files: Sequence[WrittenFile]) -> Path:
    """The file to show first: the overlay, else a picture, else any."""
    ranks = {kind: rank for rank, kind in enumerate(("overlay", "tokens", "color", "labels"))}
    return folder / min(files, key=lambda file: ranks.get(file.path.split("/", 1)[0], len(ranks))).path


def _one_line(error: object) -> str:
    """A failure for people; the path stands beside it already."""
    text = error.cause if isinstance(error, DecodeError) else " ".join(str(error).split())
    return text if isinstance(error, AlgmError) else f"{type(error).__name__}: {text}"
