"""Content of summary.json, part by part: what a run did, with which options and which model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.files import sha256_of
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.records import Tally, Totals


def work_done(
    totals: Totals,
    card: ModelCard,
    *,
    ending: str,
    inputs: int,
    done_before: int,
    pictures: int,
    seconds: float,
    stages: Mapping[str, float],
) -> dict[str, Any]:
    """What a run did, for JSON.

    Inputs, windows, tokens and classes are of all lines of the results file, those that resuming kept included; seconds
    (wall time), work_seconds (of all threads together) and images_per_second are of this run alone. In the last, each
    frame of a video counts.

    Args:
        totals: over all lines of the results file.
        card: of the model.
        ending: how the run ended, such as "complete".
        inputs: number of inputs, those of lines that were kept included.
        done_before: inputs of this run that an earlier one finished.
        pictures: pictures and frames that this run did.
        seconds: wall time of this run.
        stages: seconds of work of this run in each stage.
    """
    return {
        "ending": ending,
        "inputs": inputs,
        "ok": totals.ok,
        "failed": totals.failed,
        "done_before": done_before,
        "video_frames": totals.frames,
        "windows": totals.tally.windows,
        "seconds": round(seconds, 3),
        "images_per_second": round(pictures / seconds, 3),
        "work_seconds": {stage: round(value, 3) for stage, value in stages.items()},
        "tokens": _token_summary(totals.tally),
        "classes": _class_summary(totals.tally, card),
    }


def settings(card: ModelCard, pipeline: PipelineOptions, kinds: Sequence[str], engine: EngineOptions) -> dict[str, Any]:
    """The options that results depend on, with defaults filled in, for JSON.

    Args:
        card: of the model.
        pipeline: how pictures go through it.
        kinds: of files that are written.
        engine: what the model was opened with.
    """
    threshold = card.merge.threshold if pipeline.threshold is None and card.merge else pipeline.threshold
    return {
        "mode": pipeline.mode,
        "stride": (pipeline.stride or card.stride) if pipeline.mode == "slide" else None,
        "short_side": pipeline.shown_side(card),
        "max_ratio": pipeline.max_ratio,
        "threshold": threshold,
        "save": sorted(kinds),
        "cpu_precision": engine.cpu_precision,
    }


def course(
    pipeline: PipelineOptions, part: tuple[int, int] | None, engine: EngineOptions, streams: int
) -> dict[str, Any]:
    """The options that decide how long a run takes, for JSON; results depend on them by rounding at most.

    Args:
        pipeline: how pictures go through the model.
        part: index and number of the shard; None for all.
        engine: what the model was opened with.
        streams: windows that the open engine computes side by side.
    """
    return {"batch_size": pipeline.batch_size, "part": part, "streams": streams, "threads": engine.threads}


def model_facts(card: ModelCard, model: Path) -> dict[str, Any]:
    """Which model it was, for JSON.

    Args:
        card: of the model.
        model: its file.

    Raises:
        OSError: the file cannot be read.
    """
    return {
        "file": str(model),
        "sha256": sha256_of(model),
        "architecture": card.architecture,
        "precision": card.precision,
        "size": card.size,
        "classes": len(card.classes),
        "dataset": card.dataset,
        "merge": card.merge and asdict(card.merge),
        "checkpoint_sha256": card.checkpoint_sha256,
        "exported_by": card.tool_version,
        "licence": card.licence,
    }


def _token_summary(tally: Tally) -> dict[str, float] | None:
    """Mean tokens per window on the way through the model, and the share that is left at the end."""
    means = tally.token_means()
    if means is None:
        return None
    grid, local, final = means
    return {"grid": grid, "after_local": local, "after_global": final, "share_kept": round(final / grid, 4)}


def _class_summary(tally: Tally, card: ModelCard) -> list[dict[str, Any]]:
    """Classes that were seen, the most frequent first."""
    total = sum(tally.class_pixels.values())
    ranked = sorted(tally.class_pixels.items(), key=lambda entry: (-entry[1], int(entry[0])))
    return [
        {"id": int(class_id), "name": card.classes[int(class_id)], "pixels": pixels, "share": round(pixels / total, 6)}
        for class_id, pixels in ranked
    ]
