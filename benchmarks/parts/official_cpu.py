"""The official ALGM code as a rival on a CPU, in four ways: eager or compiled, float32 or bfloat16, dense or merging.

Its checkout is an argument, nothing of it is in this tree. It was written for a GPU and is not edited: `CHANGES` says
what is put in its place while it runs.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from parts.official import import_official, official_model
from torch import Tensor

from algm_trt.exporter.segmenter import Segmenter
from algm_trt.runtime.card import MergeSettings

CHANGES: Final = {
    "always": [
        "torch.Tensor.cuda returns the tensor itself: the merging moves its threshold to a GPU",
        "DropPath, trunc_normal_ and _load_weights are supplied: timm is not needed; in evaluation none of them acts",
        "apply_patch gets trace_source=True, as in the official training, and prop_attn=False, which is not read here",
    ],
    "torch.compile": [
        "the functions that merge run eagerly between the compiled parts of the network: their shapes depend on the "
        "data; compiling them too was no faster",
        "torch._dynamo may compile as often as it likes, and everything is compiled before anything is timed",
    ],
}
WAYS: Final = ("eager FP32", "compiled FP32", "eager bf16", "compiled bf16")
MERGING: Final = ("conditional_pooling", "turbo_matching", "merge_source", "merge_wavg")
MOST_COMPILATIONS: Final = 1024


@dataclass(frozen=True)
class OfficialVariant:
    """The official network in one of WAYS.

    Attributes:
        forward: class scores (1, K, H, W) of a normalised picture (1, 3, H, W), both at full size.
        network: whose encoder notes the tokens while merging.
    """

    forward: Callable[[Tensor], Tensor]
    network: Any

    def tokens(self) -> int | None:
        """Tokens left after the last forward pass; None for the dense network."""
        noted = getattr(self.network.encoder, "_turbo_info", None)
        return int(noted["source"].shape[1]) if noted else None


class OfficialCode:
    """The modules of a checkout, ready for a CPU."""

    def __init__(self, checkout: Path) -> None:
        self._modules: types.SimpleNamespace = import_official(checkout, "cpu")
        for name in MERGING:
            eager: Any = torch.compiler.disable(getattr(self._modules.patch, name))  # type: ignore[no-untyped-call]
            setattr(self._modules.patch, name, eager)
        torch._dynamo.config.recompile_limit = MOST_COMPILATIONS
        torch._dynamo.config.accumulated_recompile_limit = MOST_COMPILATIONS
        torch._logging.set_logs(all=logging.ERROR)  # type: ignore[attr-defined]

    def variant(self, way: str, weights: Segmenter, merge: MergeSettings | None, threshold: float) -> OfficialVariant:
        """A variant with our weights, loaded strictly."""
        network = official_model(self._modules, weights, merge, threshold)
        run = torch.compile(network) if "compiled" in way else network
        halved = "bf16" in way

        def forward(pixels: Tensor) -> Tensor:
            precision = torch.autocast("cpu", torch.bfloat16) if halved else contextlib.nullcontext()
            with torch.no_grad(), precision:
                return run(pixels)

        return OfficialVariant(forward, network)


def describe(checkout: Path) -> dict[str, Any]:
    """For JSON: which code, and what was put in place of what."""
    return {"code": "tue-mps/algm-segmenter", "commit": _commit(checkout), "changed_at_run_time": CHANGES}


def compile_all(variants: Sequence[OfficialVariant], pictures: Sequence[Tensor]) -> None:
    """Run variants on all pictures until a whole pass compiles nothing new, but four times at most."""
    for _ in range(4):
        before = compiled_graphs()
        for variant in variants:
            for pixels in pictures:
                variant.forward(pixels)
        if compiled_graphs() == before:
            break


def compiled_graphs() -> int:
    """Graphs that torch.compile has made so far in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _commit(checkout: Path) -> str | None:
    """Commit of a checkout; None where it is a plain copy."""
    if not (checkout / ".git").exists():
        return None
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
