"""One run of algm-bench: models, thresholds and batch sizes against each other on the same pictures.

All variants take turns in one process (see `timing`). A variant has two kinds of turns, which take part in the same
rounds: the model alone, on windows that lie in memory, and the whole job of algm-infer, from files to files.

    report = run_bench(BenchOptions(("dense.onnx", "merged.onnx"), batches=(1, 8), thresholds=(0.8, 0.9)))
    report.results[0].model.images_per_second.median
    report.to_dict()  # every figure and raw time
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.bench.data_set_folders import refuse_data_set
from algm_trt.runtime.bench.models import Contender, open_contenders
from algm_trt.runtime.bench.notes import notes_of
from algm_trt.runtime.bench.operations import operations_of
from algm_trt.runtime.bench.pictures import Pictures, drawn_pictures, folder_pictures, listed_pictures
from algm_trt.runtime.bench.report import BenchOptions, BenchReport, BenchResult
from algm_trt.runtime.bench.scoring import ScoredSet, Scoring
from algm_trt.runtime.bench.turns import JobTurn, ModelTurn, Variant
from algm_trt.runtime.bench.windows import Windows, cut_windows
from algm_trt.runtime.evaluation.sets import EvaluationSet, open_set
from algm_trt.runtime.machine import environment, load_average, peak_memory_mib
from algm_trt.runtime.paths import printable
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.sources import Source
from algm_trt.runtime.timing import Call, take_turns


def run_bench(options: BenchOptions) -> BenchReport:
    """Measure all variants.

    After Ctrl-C the report holds what was complete by then: scores of models, and variants that had a turn.

    Raises:
        AlgmError: a model or the pictures cannot be opened, or no variant could be measured.
        UsageError: a model does not fit the data set, or a folder of pictures is the root of a data set.
        KeyboardInterrupt: before anything was scored or measured.
    """
    if options.data is not None and options.dataset is None:
        refuse_data_set(options.data)
    known = environment() | {"load_average": {"before": load_average()}}
    with ExitStack() as stack:
        contenders = open_contenders(options.models, options.engine, stack, whole_job=options.whole_job)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="algm-bench-")))
        run = _Run(options, contenders, folder)
        stopped_by = run.measure()
        known["load_average"]["after"] = load_average()
        known["peak_memory_mib"] = peak_memory_mib()
        report = BenchReport(
            options=options,
            contenders=tuple(contender.to_dict() for contender in contenders),
            pictures=run.pictures,
            shown=run.pipelines,
            scored=run.scored,
            scores=run.scoring.found,
            results=tuple(run.results()),
            baseline=_baseline(contenders, options.thresholds),
            left_out=tuple(run.left_out),
            notes=(),
            stopped_by=stopped_by,
            environment=known,
        )
    return replace(report, notes=notes_of(report))


class _Run:
    """The state of one run."""

    def __init__(self, options: BenchOptions, contenders: Sequence[Contender], folder: Path):
        for contender in contenders:
            options.job.pipeline.check_against(contender.card)
        self.options = options
        self.contenders = {contender.name: contender for contender in contenders}
        self.folder = folder
        sets = _sets(options, contenders)
        self.pipelines = {
            name: options.pipeline_for(contender.card, sets.get(name)) for name, contender in self.contenders.items()
        }
        data = sets.get(contenders[0].name)
        self.scored = None if data is None else ScoredSet.of(data, options.limit)
        self.scoring = Scoring(contenders, sets, self.pipelines, options.limit)
        self.pictures = _pictures(options, data)
        self.left_out: list[str] = []
        self.models: dict[Variant, ModelTurn] = {}
        self.jobs: dict[Variant, JobTurn] = {}
        self._inputs: dict[tuple[tuple[int, int], int, PipelineOptions], tuple[list[Source], Windows]] = {}

    def measure(self) -> KeyboardInterrupt | None:
        """Quality, warm-up, rounds; returns what ended it before its last round, if something did.

        Raises:
            AlgmError: no variant could be measured.
            KeyboardInterrupt: before any model was scored, or any variant had a turn.
        """
        options = self.options
        try:
            self.scoring.run(options.thresholds, max_pixels=options.job.max_pixels, quiet=options.quiet)
            self._measure_speed()
        except KeyboardInterrupt as stop:
            if not self.scoring.found and not any(turn.figures() for turn in self.models.values()):
                raise
            return stop.with_traceback(None)  # which would keep the models in memory
        return None

    def _measure_speed(self) -> None:
        variants = list(self._variants())
        kinds = 2 if self.options.whole_job else 1
        total = len(variants) * kinds * (self.options.rounds + self.options.warmup)
        with tqdm(total=total, desc="warm-up", unit="turn", disable=self.options.quiet or None) as bar:
            for variant in variants:
                self._prepare(variant)
                bar.update(kinds * self.options.warmup)
            if not self.models:
                raise AlgmError(f"nothing could be measured: {self.left_out[0]}")
            bar.set_description("measuring")
            for _ in self._turns():
                bar.update()

    def results(self) -> Iterator[BenchResult]:
        """Of the variants that had a turn."""
        for variant, turn in self.models.items():
            figures, tokens = turn.figures(), turn.tokens
            if figures is None or tokens is None:
                continue
            job = self.jobs[variant].figures() if variant in self.jobs else None
            quality = self.scoring.found.get((variant.model, variant.threshold))
            contender = self.contenders[variant.model]
            origin = self._inputs_of(contender)[1].origin
            operations = operations_of(contender.card, tokens.counts)
            yield BenchResult(variant, origin, tokens, operations, figures, job, quality)

    def _variants(self) -> Iterator[Variant]:
        for contender in self.contenders.values():
            for threshold in contender.card.thresholds(self.options.thresholds):
                for batch in self.options.batches:
                    yield Variant(contender.name, threshold, batch)

    def _prepare(self, variant: Variant) -> None:
        """Warm a variant up; one that cannot run is left out by name."""
        options, contender = self.options, self.contenders[variant.model]
        sources, windows = self._inputs_of(contender)
        turn = ModelTurn(contender, variant, windows.pixels)
        how = replace(options.job, pipeline=self.pipelines[contender.name])
        job = JobTurn(contender, variant, sources, self.folder, how) if options.whole_job else None
        try:
            for _ in range(options.warmup):
                turn.probe()
                if job is not None:
                    job.probe()
        except AlgmError as error:
            self.left_out.append(f"{variant.title}, batch {variant.batch}: {error}")
            return
        self.models[variant] = turn
        if job is not None:
            self.jobs[variant] = job

    def _inputs_of(self, contender: Contender) -> tuple[list[Source], Windows]:
        """Files for the whole job and windows for the model alone, shared by all models that take the same."""
        card, pipeline = contender.card, self.pipelines[contender.name]
        key = (card.size, card.stride, pipeline)
        if key not in self._inputs:
            sources = self.pictures.sources(card, self.folder)
            windows = cut_windows(self.pictures, sources, card, pipeline, max(self.options.batches))
            self._inputs[key] = sources, windows
        return self._inputs[key]

    def _turns(self) -> Iterator[Variant]:
        """All rounds, turn by turn."""
        calls: dict[tuple[Variant, bool], Call | Sequence[Call]] = {}
        for variant, turn in self.models.items():
            calls[variant, False] = turn.calls
            if variant in self.jobs:
                calls[variant, True] = self.jobs[variant]
        for (variant, is_job), seconds in take_turns(calls, self.options.rounds, self.options.seed):
            if is_job:
                self.jobs[variant].add()
            else:
                self.models[variant].add(seconds)
            yield variant


def _sets(options: BenchOptions, contenders: Sequence[Contender]) -> Mapping[str, EvaluationSet]:
    """The data set by name of the model, whose card may decide on classes and short side; empty without one."""
    if options.dataset is None or options.data is None:
        return {}
    return {
        contender.name: open_set(options.dataset, options.data, contender.card, options.places)
        for contender in contenders
    }


def _pictures(options: BenchOptions, data: EvaluationSet | None) -> Pictures:
    """What is timed: of a data set all pictures are taken into account, whatever the limit of the scores."""
    count, repeated, largest = options.picture_count, options.repeat_one, options.job.max_pixels
    if options.data is None:
        return drawn_pictures(count, repeated=repeated)
    if data is None:
        return folder_pictures(options.data, count, repeated=repeated, max_pixels=largest)
    place = data.dataset if data.dataset != "folder" else printable(options.data.resolve().name)
    paths = [sample.image for sample in data.samples]
    return listed_pictures(paths, count, place, repeated=repeated, max_pixels=largest)


def _baseline(contenders: Sequence[Contender], thresholds: Sequence[float]) -> str:
    """The first dense model, or else the first variant."""
    first = next((contender for contender in contenders if contender.is_dense), contenders[0])
    return Variant(first.name, first.card.thresholds(thresholds)[0], 1).title
