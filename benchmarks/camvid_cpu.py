"""mIoU on the CamVid test frames: dense, merged, over thresholds, and the ways of running one model.

    python benchmarks/camvid_cpu.py CHECKPOINT DATA [--json FILE]

CHECKPOINT is a Segmenter with ALGM in the official format, trained on CamVid; DATA is CamVid as `algm-eval --dataset
camvid` takes it. Neither is part of the project: CamVid is for non-commercial use. The checkpoint is exported four
times (dense, merged, merged in FP16 and in int8) and every model sees the same frames with the official protocol.
OpenVINO runs the merged one too, in float32 and in bfloat16.

It measures accuracy and tokens, which do not depend on the machine; other benchmarks measure speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from parts.backends import exported
from parts.camvid_evaluation import evaluate
from parts.record import recording_parser, write_record

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.model_card import default_stride
from algm_trt.runtime.engine_options import EngineOptions

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
    models: Sequence[Path], data: Path, limit: int | None, engine: EngineOptions, thresholds: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Runs of `algm-eval`, shortened, the first being what the others are compared with."""
    return [
        {"model": Path(run["model"]).name}
        | {key: run[key] for key in KEPT}
        | {"iou": {name: scores["iou"] for name, scores in run["per_class"].items()}}
        | ({"labels_equal_to_first": run["drift"]["labels_equal"]} if "drift" in run else {})
        for run in evaluate(list(map(str, models)), data, limit, engine, thresholds)
    ]


def claim(value: float, limit: float) -> dict[str, Any]:
    """A difference of mIoU and whether it is within its limit."""
    return {"miou_difference": value, "limit": limit, "holds": abs(value) <= limit}


def main() -> None:
    """Export, evaluate, print, record."""
    parser = recording_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, help="take N frames only, at equal distances in the set")
    parser.add_argument("--fp16-limit", type=int, help="the same for FP16, which a CPU emulates")
    parser.add_argument("--threads", type=int, default=2)
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
        dense = exported(checkpoint, Path(folder), ("dense",), ("fp32",))["dense", "fp32"]
        precisions = ("fp32", "fp16", "int8")
        merged, half, coarse = exported(checkpoint, Path(folder), ("merged",), precisions).values()
        curve = evaluated([dense, merged], data, limit, onnxruntime, sorted({*THRESHOLDS, trained_at}))
        backends = evaluated([checkpoint.path, merged, coarse], data, limit, onnxruntime)
        fp16 = evaluated([merged, half], data, arguments.fp16_limit or limit, onnxruntime)
        fp32, bf16 = (evaluated([merged], data, limit, engine)[0] for engine in openvino)
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
