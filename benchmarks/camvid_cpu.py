"""mIoU on the CamVid test frames: dense, merged, over thresholds, and the ways of running one model.

    python benchmarks/camvid_cpu.py CHECKPOINT DATA [--json FILE]

CHECKPOINT is a Segmenter with ALGM in the official format, trained on CamVid; DATA is CamVid as `algm-eval --dataset
camvid` takes it. Neither is part of the project: CamVid is for non-commercial use. The checkpoint is exported four
times (dense, merged, merged in FP16 and in int8) and every model sees the same frames with the official protocol.
OpenVINO runs the merged one too, in float32 and in bfloat16.

It measures accuracy and tokens, which do not depend on the machine; other benchmarks measure speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from record import write_record

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.model_card import default_stride
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions
from algm_trt.runtime.evaluation.job import run_evaluation
from algm_trt.runtime.evaluation.report import EvaluationJob
from algm_trt.runtime.evaluation.sets import Places

THRESHOLDS = (0.5, 0.7, 0.8, 0.85, 0.95, 1.0)
MOST_LOST_BY_MERGING, MOST_BETWEEN_BACKENDS, MOST_LOST_BY_ROUNDING = 0.005, 0.0005, 0.001
KEPT = (
    "threshold",
    "backend",
    "mean_iou",
    "pixel_accuracy",
    "mean_accuracy",
    "boundary_f_score",
    "tokens_kept",
    "tokens_per_window",
    "pictures",
    "windows",
)


def evaluated(
    models: Sequence[str], data: Path, thresholds: tuple[float, ...], limit: int | None, engine: EngineOptions
) -> list[dict[str, Any]]:
    """Runs of `algm-eval`, shortened, the first being what the others are compared with."""
    job = EvaluationJob(
        models=tuple(models),
        root=data,
        dataset="camvid",
        places=Places(),
        options=EvaluationOptions(),
        thresholds=thresholds,
        limit=limit,
        engine=engine,
    )
    runs = run_evaluation(job).checked().to_dict()["runs"]
    for run in runs:
        assert not run["failures"], run["failures"]
    return [
        {"model": Path(run["model"]).name}
        | {key: run[key] for key in KEPT}
        | {"iou": {name: scores["iou"] for name, scores in run["per_class"].items()}}
        | ({"labels_equal_to_first": run["drift"]["labels_equal"]} if "drift" in run else {})
        for run in runs
    ]


def claim(value: float, limit: float) -> dict[str, Any]:
    """A difference of mIoU and whether it is within its limit."""
    return {"miou_difference": value, "limit": limit, "holds": abs(value) <= limit}


def main() -> None:
    """Export, evaluate, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, help="take N frames only, at equal distances in the set")
    parser.add_argument("--fp16-limit", type=int, help="the same for FP16, which a CPU emulates")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data, limit = arguments.data, arguments.limit
    onnxruntime, *openvino = (
        EngineOptions(backend=name, device="cpu", threads=arguments.threads, cpu_precision=precision)
        for name, precision in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
    )
    checkpoint = load_checkpoint(arguments.checkpoint)
    assert checkpoint.merge is not None, "the checkpoint must have been trained with merging"
    trained_at = checkpoint.merge.threshold
    with TemporaryDirectory() as folder:
        dense, merged, half, coarse = (
            Path(folder) / f"{name}.onnx" for name in ("dense", "merged", "merged_fp16", "merged_int8")
        )
        export_onnx(checkpoint, dense, ExportOptions(merge=False, verify=False))
        export_onnx(checkpoint, merged, ExportOptions(verify=False))
        for path, precision in ((half, "fp16"), (coarse, "int8")):
            export_onnx(checkpoint, path, ExportOptions(precision=precision, verify=False))
        thresholds = tuple(sorted({*THRESHOLDS, trained_at}))
        curve = evaluated([str(dense), str(merged)], data, thresholds, limit, onnxruntime)
        weights = str(checkpoint.path)
        backends = evaluated([weights, str(merged), str(coarse)], data, (), limit, onnxruntime)
        fp16 = evaluated([str(merged), str(half)], data, (), arguments.fp16_limit or limit, onnxruntime)
        fp32, bf16 = (evaluated([str(merged)], data, (), limit, engine)[0] for engine in openvino)
    at_training = next(run for run in curve if run["threshold"] == trained_at)
    claims = {
        "merged at its training threshold, from dense": claim(
            at_training["mean_iou"] - curve[0]["mean_iou"], MOST_LOST_BY_MERGING
        ),
        "ONNX Runtime FP32 from PyTorch": claim(
            backends[1]["mean_iou"] - backends[0]["mean_iou"], MOST_BETWEEN_BACKENDS
        ),
        "ONNX Runtime FP16 from FP32": claim(fp16[1]["mean_iou"] - fp16[0]["mean_iou"], MOST_LOST_BY_ROUNDING),
        "ONNX Runtime int8 from FP32": claim(backends[2]["mean_iou"] - backends[1]["mean_iou"], MOST_LOST_BY_ROUNDING),
        "OpenVINO FP32 from ONNX Runtime": claim(fp32["mean_iou"] - backends[1]["mean_iou"], MOST_BETWEEN_BACKENDS),
        "OpenVINO bf16 from FP32": claim(bf16["mean_iou"] - fp32["mean_iou"], MOST_LOST_BY_ROUNDING),
    }
    backends += [fp32, bf16]
    for run in (*curve, *backends, *fp16):
        print(
            f"{run['model']:<18} {run['threshold'] or '-':>5}  mIoU {100 * run['mean_iou']:6.3f}  "
            f"tokens kept {run['tokens_kept']:6.1%}  {run['pictures']} frames"
        )
    for name, found in claims.items():
        print(f"{name}: {100 * found['miou_difference']:+.4f} mIoU, {'holds' if found['holds'] else 'DOES NOT HOLD'}")
    if arguments.json:
        settings = {
            "checkpoint_sha256": checkpoint.sha256,
            "architecture": checkpoint.config.describe(),
            "crop": checkpoint.crop,
            "stride": default_stride(min(checkpoint.crop), checkpoint.dataset),
            "training_threshold": trained_at,
            "threads": arguments.threads,
        }
        results = {"settings": settings, "curve": curve, "backends": backends, "fp16": fp16, "claims": claims}
        write_record(arguments.json, results)


if __name__ == "__main__":
    main()
