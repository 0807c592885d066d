"""What a caller may choose about an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.backends.tensorrt.bindings import Target

RTX_CAPABILITIES: Final = (80, 86, 89, 120, 121)
TURING: Final = 75
DEFAULT_RTX_CAPABILITIES: Final = (80, 86, 89, 120)
HARDWARE_COMPATIBILITY: Final = ("none", "ampere-plus", "same-compute-capability")
OPTIMIZATION_LEVELS: Final = range(6)
LARGEST_BATCH: Final = 4096
LARGEST_WORKSPACE_MIB: Final = 2**24


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that one optimisation profile serves, and the one that kernels are tuned for."""

    minimum: int
    usual: int
    maximum: int

    def __post_init__(self) -> None:
        """Refuse what is not a range.

        Raises:
            UsageError: not 1 <= minimum <= usual <= maximum.
        """
        if not 1 <= self.minimum <= self.usual <= self.maximum <= LARGEST_BATCH:
            raise UsageError(
                f"batch {self.minimum} {self.usual} {self.maximum} is not a range: give MIN OPT MAX with "
                f"1 <= MIN <= OPT <= MAX <= {LARGEST_BATCH}"
            )


def ranges_up_to(sizes: tuple[int, ...]) -> tuple[BatchRange, ...]:
    """Ranges that leave no batch size out, each tuned for its largest: 1, 8, 32 gives 1..1, 2..8, 9..32.

    Raises:
        UsageError: the sizes are not ascending from at least 1.
    """
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise UsageError(f"profiles {','.join(map(str, sizes))}: give ascending batch sizes such as 1,8,32")
    starts = (1, *(size + 1 for size in sizes[:-1]))
    return tuple(BatchRange(start, size, size) for start, size in zip(starts, sizes, strict=True))


@dataclass(frozen=True)
class BuildOptions:
    """How to build; the defaults suit `algm-infer`.

    Attributes:
        precision: "fp16", "fp32", or None for that of the model.
        batches: one optimisation profile each; together they should leave no batch size out.
        target: "tensorrt" builds for this machine's GPU, "rtx" for RTX GPUs without needing one.
        compute_capabilities: for "rtx", such as 89; empty: 80, 86, 89 and 120.
        plugins: False builds from the function bodies: slower, but nothing to load.
        embed_plugins: put the plugin library into the plan, so that any program can load it.
        workspace_mib: limit of the workspace in MiB; None leaves it to TensorRT.
        timing_cache: file; None takes one in the user's cache. For "tensorrt" only.
        optimization_level: 0 (fast build) to 5 (fast engine).
        hardware_compatibility: one of `HARDWARE_COMPATIBILITY`. For "tensorrt" only.
        version_compatible: the plan also runs on later minor versions of TensorRT. For "tensorrt" only.
        verify: whether to compare a float16 graph that is made here with the float32 one.
        verify_images: folder of pictures for it, of which the first 8 that can be read are taken; None draws some.
        save_onnx: whether to keep the float16 graph that is made here, beside the plan.
        dump_layers: file for the list of layers, JSON.
        force: build even if an equal plan is there, and overwrite a plan without record.
    """

    precision: str | None = None
    batches: tuple[BatchRange, ...] = (BatchRange(1, 1, 1), BatchRange(2, 8, 8))
    target: Target = "tensorrt"
    compute_capabilities: tuple[int, ...] = ()
    plugins: bool = True
    embed_plugins: bool = True
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    optimization_level: int = 3
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    verify: bool = True
    verify_images: Path | None = None
    save_onnx: bool = False
    dump_layers: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense together.

        Raises:
            UsageError: the message says what would.
        """
        if self.precision not in (None, "fp16", "fp32") or self.target not in ("tensorrt", "rtx") or not self.batches:
            raise UsageError("precision is fp16 or fp32, target is tensorrt or rtx, and there is at least one profile")
        if self.optimization_level not in OPTIMIZATION_LEVELS:
            raise UsageError(f"optimisation level {self.optimization_level}: it must be 0 to {OPTIMIZATION_LEVELS[-1]}")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= LARGEST_WORKSPACE_MIB:
            raise UsageError(f"workspace of {self.workspace_mib} MiB: it must be 1 to {LARGEST_WORKSPACE_MIB}")
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            known = ", ".join(HARDWARE_COMPATIBILITY)
            raise UsageError(f"hardware compatibility '{self.hardware_compatibility}': expected {known}")
        if self.target == "rtx":
            self._check_rtx()
        elif self.compute_capabilities:
            raise UsageError("--sm goes with --target rtx: the target tensorrt builds for the GPU of this machine")

    def _check_rtx(self) -> None:
        known = ", ".join(map(str, RTX_CAPABILITIES))
        for capability in self.compute_capabilities:
            # Tried: "FP32 GEMM is not supported" for Turing, and similarities and scores are float32 by design.
            why = " (TensorRT-RTX has no float32 matrix products for 75)" if capability == TURING else ""
            if capability not in RTX_CAPABILITIES:
                raise UsageError(f"the target rtx builds for compute capabilities {known}, not for {capability}{why}")
        given = {
            "--hardware-compatibility": self.hardware_compatibility != "none",
            "--version-compatible": self.version_compatible,
            "--timing-cache": self.timing_cache is not None,
        }
        for name, wrong in given.items():
            if wrong:
                raise UsageError(f"{name} goes with --target tensorrt: TensorRT-RTX has nothing like it")

    @property
    def capabilities(self) -> tuple[int, ...]:
        """Compute capabilities of the target rtx."""
        return tuple(sorted(set(self.compute_capabilities))) or DEFAULT_RTX_CAPABILITIES
