"""Whether TensorRT-RTX runs our plans on the GPU at hand: `python benchmarks/gpu_rtx.py PLANS [--json FILE]`.

PLANS is a folder of plans of the sample that `carry.py --rtx` built without a GPU, with the plugins and without.
NVIDIA's list for TensorRT-RTX has no GPU of compute capability 9.0, and does not say what happens there. So each plan
is tried as if it had been built for this GPU, in a process of its own; a refusal is a result like any other. Exit code
1: a plan ran and disagrees with ONNX Runtime on the CPU (labels >= 99.5 % equal, token counts within 1 %).
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from parts.record import recording_parser, write_record

from algm_trt.engines.doctor.rungs import compare_engines
from algm_trt.engines.sample import SAMPLE_MODEL
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.cuda import Device
from algm_trt.runtime.engine_record import record_path


def as_built_for(plan: Path, compute_capability: str, folder: Path) -> Path:
    """A copy of a plan whose record names one more compute capability."""
    copied = Path(shutil.copy(plan, folder))
    record = json.loads(record_path(plan).read_text(encoding="utf-8"))
    record["compute_capabilities"] = sorted({*record["compute_capabilities"], compute_capability})
    record_path(copied).write_text(json.dumps(record), encoding="utf-8")
    return copied


def outcome(plan: Path, compute_capability: str) -> dict[str, Any]:
    """Run a plan on drawn pictures and compare it with ONNX Runtime."""
    with TemporaryDirectory() as folder:
        try:
            comparison = compare_engines(as_built_for(plan, compute_capability, Path(folder)), SAMPLE_MODEL)
        except AlgmError as error:
            return {"state": "refused", "detail": str(error)}
    state = "agrees" if comparison.passed else "disagrees"
    return {"state": state, "detail": str(comparison), **asdict(comparison)}


def apart(plan: Path, compute_capability: str) -> dict[str, Any]:
    """The outcome of a plan in a process of its own, which a library may end."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(outcome, plan, compute_capability).result()
        except BrokenProcessPool:
            return {"state": "ended the process", "detail": "no message"}


def main() -> int:
    """Try every plan, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("plans", type=Path, help="folder of plans with their records")
    options = parser.parse_args()
    device = Device()
    results = {}
    for plan in sorted(options.plans.glob("*.plan")):
        built = json.loads(record_path(plan).read_text(encoding="utf-8"))
        facts = {"tensorrt_rtx": built["tensorrt_version"], "built_for": built["compute_capabilities"]}
        results[plan.stem] = facts | apart(plan, device.compute_capability)
        print("{0}: {state}; {detail}".format(plan.stem, **results[plan.stem]))
    if not results:
        raise SystemExit(f"{options.plans}: no plans")
    record = {"device": device.name, "compute_capability": device.compute_capability, "plans": results}
    write_record(options.json, record)
    return int(any(result["state"] == "disagrees" for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
