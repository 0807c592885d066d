"""The fifteen things that go wrong when segmentation models are deployed, each looked for on this machine and model.

A check gets the machine and the model, if one was named, and answers with a finding: seen here, not seen, or why it
cannot tell. Those that only a plan or only an ONNX file can have say so by their evidence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from algm_trt.engines.doctor.facts import BREAKS, LACKS, Finding, cannot_tell, found, not_found
from algm_trt.engines.doctor.machine import Machine
from algm_trt.engines.doctor.model import Model
from algm_trt.engines.doctor.outline import INT8, UINT8
from algm_trt.plugins.cache_folder import cache_folder
from algm_trt.plugins.library import LIBRARY_VARIABLE
from algm_trt.plugins.spec import FLOAT16_MAX

LITTLE_MEMORY_MIB: Final = 1500
TENSOR_CORES: Final = 70
_NAME_A_MODEL: Final = "name a MODEL"
_QUANTISED: Final = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True)
class Situation:
    """What the checks look at: the machine, and the model if one was named."""

    machine: Machine
    model: Model | None


def look_for_all(situation: Situation) -> list[Finding]:
    """Every pain, in the order of the list."""
    return [check(name, situation) for name, check in PAINS]


def _half_precision(name: str, situation: Situation) -> Finding:
    """1: float16 overflows or loses what LayerNorm, similarities and softmax need."""
    model = situation.model
    if model is None:
        return cannot_tell(name, f"{_NAME_A_MODEL}; algm-build-engine --fp16 compares float16 with float32 itself")
    if model.kind == "plan":
        precision = model.card.precision if model.card else "unknown"
        if precision == "fp32":
            return not_found(name, "the plan is float32")
        return cannot_tell(
            name, "a plan's numbers show on pictures: --selftest does it for the sample, algm-eval for yours"
        )
    if model.outline is None or model.card is None:
        return cannot_tell(name, "the file cannot be read")
    weight, size = model.outline.largest_weight
    if not size <= FLOAT16_MAX:
        return found(name, f"{weight} reaches {size:.3g}, float16 ends at {FLOAT16_MAX:g}", "build with --fp32")
    if model.card.precision == "fp16":
        return not_found(name, "float16 with float32 islands, as algm-export writes and compares it")
    return not_found(
        name, f"largest constant {size:.3g}; --fp16 keeps float32 islands, names activations out of range and compares"
    )


def _sliding_window(name: str, situation: Situation) -> Finding:
    """2: pictures larger than the crop are resized to it, or windows leave gaps."""
    card = situation.model.card if situation.model else None
    if card is None:
        return cannot_tell(name, f"{_NAME_A_MODEL}; algm-infer steps windows over pictures with every backend")
    if not 1 <= card.stride <= min(card.size):
        evidence = f"stride {card.stride} leaves gaps between windows of {card.size[0]}x{card.size[1]}"
        return found(name, evidence, f"give algm-infer a --stride of at most {min(card.size)}", BREAKS)
    overlap = 1 - card.stride / min(card.size)
    return not_found(
        name, f"windows of {card.size[0]}x{card.size[1]} overlap by {overlap:.0%}, averaged (--mode slide)"
    )


def _batches(name: str, situation: Situation) -> Finding:
    """3: the batch is fixed to one, or sizes between the profiles are refused."""
    model = situation.model
    if model is not None and model.record is not None:
        ranges = sorted((low, high) for low, _, high in model.record.profiles)
        largest = max((high for _, high in ranges), default=1)
        gaps = [high + 1 for (_, high), (low, _) in pairwise(ranges) if low > high + 1]
        rebuild = "algm-build-engine --profiles 1,8,32 leaves none out"
        if largest == 1:
            return found(name, "the plan takes one picture at a time", f"build with larger batches: {rebuild}")
        if gaps or ranges[0][0] > 1:
            first = gaps[0] if gaps else 1
            return found(name, f"no profile takes a batch of {first}: it is padded or divided", rebuild)
        return not_found(name, f"batches of 1 to {largest}; a picture's result does not depend on its batch")
    images = model.outline.port("images") if model is not None and model.outline is not None else None
    if images is None or not images.shape:
        return cannot_tell(name, _NAME_A_MODEL)
    int8 = model is not None and model.card is not None and model.card.precision == "int8"
    if int8 and images.shape[0] == 1:
        return not_found(name, "the batch is 1 by design: in an int8 model the span of one picture would round others")
    if isinstance(images.shape[0], int):
        return found(name, f"the batch is fixed to {images.shape[0]}", "export with algm-export, which leaves it free")
    return not_found(name, "the batch is free; a picture's result does not depend on its batch")


def _plugins(name: str, situation: Situation) -> Finding:
    """4: the plugin library is not where the program that loads the engine looks, or not the right one."""
    machine, model = situation.machine, situation.model
    library = machine.library
    record = model.record if model is not None else None
    if model is not None and (problems := model.about("plugins")):
        return found(name, problems[0].text, "algm-build-plugins, then build the engine again", problems[0].exit_code)
    if record is not None and (record.plugins is None or record.plugins.embedded):
        return not_found(name, "the plan carries its operators: no library has to lie beside it or be preloaded")
    if library.path is None:
        if os.environ.get(LIBRARY_VARIABLE):
            cure = f"unset {LIBRARY_VARIABLE}, or let it name a library"
            return found(name, library.problem, cure, BREAKS if model is None else 0)
        return not_found(name, "no plugin library; only building engines needs one, and algm-build-plugins makes it")
    if not library.usable:
        return found(name, library.problem, "make it again with algm-build-plugins", BREAKS if model is None else 0)
    for gpu in machine.gpus:
        if library.architectures is not None and not library.architectures.serves(gpu.capability):
            evidence = f"{library.path} has no code for {gpu.name}: {library.architectures}"
            return found(name, evidence, f"algm-build-plugins --arch {gpu.capability}", LACKS if record else 0)
    if library.other_sources:
        evidence = f"{library.path} was built from other sources than this package has, perhaps of an older release"
        return found(name, evidence, "make it again with algm-build-plugins")
    compiled = (
        f"; it has no machine code for {gpu.name} ({gpu.compute_capability}): the driver makes it from PTX at first "
        f"use, algm-build-plugins --arch {gpu.capability} beforehand"
        for gpu in machine.gpus
        if library.architectures is not None and not library.architectures.runs_as_it_is(gpu.capability)
    )
    return not_found(name, f"{library.path} loads{next(compiled, '')}")


def _preprocessing(name: str, situation: Situation) -> Finding:
    """5: resizing and normalisation differ from training."""
    model = situation.model
    images = model.outline.port("images") if model is not None and model.outline is not None else None
    if model is not None and model.outline is not None and (images is None or images.dtype != UINT8):
        evidence = "the model does not take uint8 pictures: normalisation is left to the caller"
        return found(name, evidence, "export the checkpoint with algm-export, which puts it into the model", BREAKS)
    if not situation.machine.answers["pictures"].ok:
        return found(
            name, situation.machine.answers["pictures"].error, "pip install algm-trt brings OpenCV and Pillow", LACKS
        )
    inside = "normalisation is inside the model; " if images is not None else ""
    return not_found(
        name,
        f"{inside}pictures are resized as in the official evaluation, by OpenCV, which rounds in another way on Arm",
    )


def _postprocessing(name: str, situation: Situation) -> Finding:
    """6: full-size class scores leave the GPU, and resizing and argmax take longer than the network."""
    model = situation.model
    if model is None or model.card is None:
        return cannot_tell(name, _NAME_A_MODEL)
    if model.outline is not None and model.outline.port("labels") is None:
        cure = "export the checkpoint with algm-export: labels come out of the model"
        return found(name, "the model gives class scores and no labels", cure, BREAKS)
    width = 1 if len(model.card.classes) <= 256 else 4
    height, columns = model.card.size
    return not_found(
        name, f"labels leave the model with {width} byte per pixel: {width * height * columns / 1024:.0f} KiB a window"
    )


def _probabilities(name: str, situation: Situation) -> Finding:
    """7: only class ids come out."""
    model = situation.model
    if model is None or model.card is None:
        return cannot_tell(name, f"{_NAME_A_MODEL}; algm-infer --save probs gives scores, and logits=True in Python")
    if model.outline is not None and model.outline.port("logits") is None:
        return found(
            name, "the model gives labels and no class scores", "export the checkpoint with algm-export", BREAKS
        )
    return not_found(name, "class scores are an output: algm-infer --save probs, logits=True in Python")


def _portability(name: str, situation: Situation) -> Finding:
    """8: an engine is for one version of TensorRT and one kind of GPU."""
    model = situation.model
    if model is None:
        return cannot_tell(name, f"{_NAME_A_MODEL}.plan")
    if model.kind == "onnx":
        return not_found(name, "an ONNX file is for any machine")
    if problems := model.about("portability"):
        cure = "build it on the machine that runs it, or with --hardware-compatibility or --version-compatible"
        return found(name, problems[0].text, cure, BREAKS)
    if model.record is None:
        causes = [problem.text for problem in model.about("file")]
        evidence = f"no engine record says what the plan is for{': ' + causes[0] if causes else ''}"
        return found(name, evidence, "copy MODEL.plan and MODEL.plan.json together, or build the engine again", BREAKS)
    if model.about("environment"):
        return cannot_tell(name, f"not with what is here: {model.about('environment')[0].text}")
    return not_found(name, "TensorRT and GPU are those that the plan was built for")


def _integers(name: str, situation: Situation) -> Finding:
    """9: INT8 is slower than float16 for vision transformers, or costs accuracy for nothing."""
    outline = situation.model.outline if situation.model is not None else None
    if outline is None:
        if situation.model is not None and situation.model.record is not None:
            return not_found(name, f"the plan is {situation.model.record.card.precision}")
        return cannot_tell(name, f"{_NAME_A_MODEL}.onnx")
    card = situation.model.card if situation.model is not None else None
    if card is not None and card.precision == "int8":
        return not_found(
            name, "linear layers of bytes, for a CPU; algm-eval and algm-bench say what they cost and gain"
        )
    nodes = [op for op in _QUANTISED for node in outline.nodes if node.endswith(f"::{op}")]
    if nodes or outline.weight_bytes.get(INT8):
        evidence = f"quantised: {', '.join(nodes) or 'int8 weights'}"
        return found(name, evidence, "take the float16 export; time both with the same pictures before keeping INT8")
    return not_found(name, "no quantised operators or weights")


def _fixed_shapes(name: str, situation: Situation) -> Finding:
    """10: free picture sizes meet position embeddings and reshapes that want one size."""
    model = situation.model
    images = model.outline.port("images") if model is not None and model.outline is not None else None
    if images is None:
        if model is not None and model.record is not None:
            return not_found(name, "the picture size of a plan is fixed, windows take care of others")
        return cannot_tell(name, _NAME_A_MODEL)
    if any(not isinstance(extent, int) for extent in images.shape[1:]):
        cure = "export with algm-export --size HEIGHTxWIDTH"
        return found(name, f"the picture size is free: {images.shape[1:]}", cure)
    return not_found(
        name, f"the picture size is fixed to {images.shape[1]}x{images.shape[2]}, windows take care of others"
    )


def _no_faster(name: str, situation: Situation) -> Finding:
    """11: float16 is no faster than float32, because it does not run where it was meant to."""
    machine, model = situation.machine, situation.model
    if len(machine.onnxruntime_packages) > 1:
        evidence = f"{' and '.join(machine.onnxruntime_packages)} overwrite each other's files"
        return found(name, evidence, "uninstall all of them, then install the one you want")
    has_cuda = "CUDAExecutionProvider" in machine.providers
    if has_cuda and not machine.gpus:
        evidence = "onnxruntime was made for CUDA, and no GPU can be used: it runs on the CPU"
        return found(name, evidence, "check nvidia-smi and CUDA_VISIBLE_DEVICES, or take --device cpu knowingly")
    on_cuda = machine.answers.get("onnxruntime_on_cuda")
    if on_cuda is not None and not on_cuda.ok:
        evidence = f"onnxruntime was made for CUDA and does not run there: {on_cuda.error}"
        return found(
            name, evidence, "install the CUDA and cuDNN that it wants: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if machine.driver_is_older:
        return found(name, machine.driver_is_older, "update the driver, or install the cuda-python of its CUDA version")
    half = model is not None and model.kind == "onnx" and model.card is not None and model.card.precision == "fp16"
    if half and not has_cuda:
        evidence = (
            "a float16 model on ONNX Runtime's CPU: on x86-64 it converts to float32 all the time, on Arm it also sums "
            "in float16, less exactly than a GPU"
        )
        cure = "on a CPU take the float32 export, with OpenVINO on AVX-512 BF16 or AMX also --cpu-precision bf16"
        return found(name, evidence, cure)
    slow = [gpu for gpu in machine.gpus if gpu.capability < TENSOR_CORES]
    if slow:
        evidence = f"{slow[0].name} (compute capability {slow[0].compute_capability}) has no tensor cores"
        return found(name, evidence, "float16 pays from compute capability 7.0 on, the plugins need 8.0")
    if machine.gpus and not has_cuda and not machine.version("tensorrt"):
        evidence = (
            f"{machine.gpus[0].name} is here, and neither TensorRT nor onnxruntime for CUDA: models run on the CPU"
        )
        return found(name, evidence, "pip install 'algm-trt[tensorrt]', or onnxruntime-gpu in place of onnxruntime")
    return not_found(name, "what is installed fits the devices; time a model alone, after a first run")


def _transforms(name: str, situation: Situation) -> Finding:
    """12: a runtime does not know the steps that a training framework wrote into the model's description."""
    model = situation.model
    if model is None:
        return cannot_tell(name, _NAME_A_MODEL)
    if model.card is None and model.kind == "plan":
        return cannot_tell(name, "the engine record, which has the model card, cannot be read")
    if model.card is None:
        cause = model.about("file")
        evidence = cause[0].text if cause else "it has no model card"
        return found(name, evidence, "export the checkpoint with this version of algm-trt", BREAKS)
    return not_found(name, f"the model card has all there is to know, format {model.card.format_version}")


def _memory(name: str, situation: Situation) -> Finding:
    """13: large pictures do not fit."""
    free = situation.machine.memory_mib
    if free is None:
        return cannot_tell(name, "the system does not say how much memory is free")
    if free < LITTLE_MEMORY_MIB:
        cure = "algm-infer --workers 1 --batch-size 1, and --max-pixels to refuse what does not fit"
        return found(name, f"{free} MiB are free", cure)
    return not_found(name, f"{free} MiB are free; memory grows with the largest picture, not with their number")


def _build_time(name: str, situation: Situation) -> Finding:
    """14: engines are built again and again, each time for minutes."""
    folder = cache_folder()
    closed = _closed(folder)
    if closed is not None:
        cure = "make it writable, or set XDG_CACHE_HOME to a folder that is: timings and libraries are kept there"
        return found(name, f"{closed} cannot be written", cure)
    if not situation.machine.version("tensorrt"):
        return cannot_tell(name, f"TensorRT is not here; it would keep its timings in {folder}")
    caches = sorted(folder.glob("timing-*.cache"))
    kept = f"{len(caches)} timing caches" if caches else "no timing cache yet: the first build is the slow one"
    return not_found(name, f"{folder} keeps {kept}")


def _closed(folder: Path) -> Path | None:
    """The folder, or the first of those around it that exists, if nothing can be written there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return None if os.access(folder, os.W_OK | os.X_OK) else folder


def _output_formats(name: str, situation: Situation) -> Finding:
    """15: masks that other programs misread."""
    card = situation.model.card if situation.model is not None else None
    if card is None:
        return cannot_tell(name, _NAME_A_MODEL)
    if card.ignore_index < len(card.classes):
        evidence = f"{card.ignore_index} stands for 'no class' and is the class '{card.classes[card.ignore_index]}'"
        return found(name, evidence, "compare label files with --save labels only where no pixel is ignored")
    firsts = [card.palette.index(color) for color in card.palette]
    doubled = [index for index, first in enumerate(firsts) if first != index]
    if doubled:
        one, other = card.classes[firsts[doubled[0]]], card.classes[doubled[0]]
        more = f", {len(doubled)} classes have another's colour in all" if len(doubled) > 1 else ""
        cure = "read class ids from --save labels; --save color cannot be turned back into ids"
        return found(name, f"'{one}' and '{other}' share a colour{more}", cure)
    if len(card.classes) > 256:
        evidence = f"{len(card.classes)} classes: label files are 16-bit grey PNGs without a palette"
        return found(name, evidence, "read them with a program that keeps 16 bits")
    return not_found(name, f"{len(card.classes)} classes fit a palette PNG, every class has its own colour")


PAINS: Final[tuple[tuple[str, Callable[[str, Situation], Finding]], ...]] = (
    ("float16 degrades the model", _half_precision),
    ("no sliding window", _sliding_window),
    ("batches fixed or refused", _batches),
    ("plugin library not found or unfit", _plugins),
    ("pre-processing drifts", _preprocessing),
    ("post-processing dominates", _postprocessing),
    ("class ids only", _probabilities),
    ("engine for another machine", _portability),
    ("INT8 for nothing", _integers),
    ("free picture sizes", _fixed_shapes),
    ("float16 no faster", _no_faster),
    ("unknown transforms", _transforms),
    ("large pictures, little memory", _memory),
    ("builds take long", _build_time),
    ("masks misread", _output_formats),
)
"""Name of each pain and its check."""
