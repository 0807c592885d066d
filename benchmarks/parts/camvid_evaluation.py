"""Accuracy on the CamVid test frames, as `algm-eval --dataset camvid` measures it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions
from algm_trt.runtime.evaluation.job import run_evaluation
from algm_trt.runtime.evaluation.report import EvaluationJob
from algm_trt.runtime.evaluation.sets import Places


def evaluate(
    models: Sequence[str], data: Path, limit: int | None, engine: EngineOptions, thresholds: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Runs of a report of `algm-eval`, the first being what the others are compared with.

    Args:
        models: files of models, of checkpoints, or checkpoints as `FILE:dense`.
        data: CamVid.
        limit: frames to take, at equal distances in the set; None takes all.
        engine: how to open the models.
        thresholds: at which merging models run; none for their own.

    Raises:
        SystemExit: a frame failed.
    """
    job = EvaluationJob(
        models=tuple(models),
        root=data,
        dataset="camvid",
        places=Places(),
        options=EvaluationOptions(),
        thresholds=tuple(thresholds),
        limit=limit,
        engine=engine,
    )
    runs: list[dict[str, Any]] = run_evaluation(job).checked().to_dict()["runs"]
    for run in runs:
        if run["failures"]:
            raise SystemExit(f"{run['failures'][0]} and {len(run['failures']) - 1} more test frames failed")
    return runs
