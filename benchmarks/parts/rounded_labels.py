"""Labels of backends that round, on a trained network, against ONNX Runtime in FP32. Used by `cpu_table.py`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from parts.backends import BACKENDS, exported
from parts.pictures import load_pictures

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.engine import open_engine

LEAST_EQUAL: Final = {"OpenVINO bf16": 0.995, "ONNX Runtime int8": 0.98}
"""Share of the labels that must be equal."""
THREADS: Final = 2


def agreement(checkpoint: Path, pictures: Path | None, count: int) -> list[dict[str, Any]]:
    """A row per backend that rounds: labels and tokens of the merging network on some pictures."""
    loaded = load_checkpoint(checkpoint)
    images, what = load_pictures(pictures, count, loaded.crop[0])
    with TemporaryDirectory() as folder:
        models = exported(loaded, Path(folder), ("merged",))
        exact = open_engine(models["merged", "fp32"], BACKENDS["ONNX Runtime FP32"].options(THREADS))
        expected = [exact.run(image[None]) for image in images]
        rows = []
        for name, least in LEAST_EQUAL.items():
            row: dict[str, Any] = {"name": name, "checkpoint": checkpoint.name, "checkpoint_sha256": loaded.sha256}
            rows.append(row)
            backend = BACKENDS[name]
            try:
                engine = open_engine(models["merged", backend.export], backend.options(THREADS))
            except (AlgmError, ImportError) as error:
                row["not_run"] = str(error)
                continue
            found = [engine.run(image[None]) for image in images]
            pairs = list(zip(expected, found, strict=True))
            equal = [float(np.mean(one.labels == other.labels)) for one, other in pairs]
            row |= {
                "pictures": f"{count} {what}",
                "labels_equal": float(np.mean(equal)),
                "labels_equal_by_picture": equal,
                "tokens_fp32_and_rounded": [[int(one.token_counts[0, 2]) for one in pair] for pair in pairs],
                "least": least,
                "holds": float(np.mean(equal)) >= least,
            }
    return rows
