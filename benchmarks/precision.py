"""Float16 against float32: `python benchmarks/precision.py GOLDEN [--checkpoint FOLDER --pictures FOLDER]`.

For the golden cases, the sample and a trained checkpoint, every conversion of `algm_trt.engines.precision` (without and
with its refinements) is compared with the float32 model, twice: as ONNX Runtime runs it, which drops many roundings on
a CPU, and with all roundings of an engine in place. Two more rows: a bound, weights alone rounded to float16, and what
`fit_float16` takes. A patch is regrouped when it no longer shares its token with the same patches. No timing.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from golden import official_merge
from numpy.typing import NDArray
from onnx import numpy_helper
from parts.networks import EXAMPLES, SAMPLE
from parts.record import recording_parser, write_record

from algm_trt.engines.agreement import fit_float16
from algm_trt.engines.precision import REFINEMENTS, to_float16
from algm_trt.engines.rounding import with_roundings
from algm_trt.engines.source import SourceModel, read_model
from algm_trt.exporter import ExportOptions, export_onnx, load_checkpoint
from algm_trt.exporter.graph_builder import EXPECTED_KEEP
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.check_pictures import Picture, check_pictures
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.windows import canvas_image, plan_whole

Outputs = dict[str, NDArray[Any]]
SMALL = {"width": 384, "layers": 12, "decoder_layers": 2, "classes": 150, "patches": 1024, "patch_values": 768}


def export(checkpoint: Path, options: ExportOptions) -> SourceModel:
    """A float32 model in memory."""
    with TemporaryDirectory() as folder:
        return read_model(export_onnx(checkpoint, Path(folder) / "model.onnx", options).path)


def golden_case(golden: Path, case: Path) -> tuple[SourceModel, list[Picture]] | None:
    """Network, settings and photographs of a golden case; None where the weights are not there."""
    meta = json.loads((case / "meta.json").read_text())
    checkpoint = golden / "models" / meta["model"]
    if meta["mode"] != "forward" or not checkpoint.is_dir():
        return None
    merge, size = official_merge(meta), (meta["input_hw"][0], meta["input_hw"][1])
    patch = load_checkpoint(checkpoint).config.patch_size
    grid = [-(-side // patch) for side in size]
    if any(side % window for side, window in zip(grid, merge.window, strict=True)):
        source = export(checkpoint, ExportOptions(size=size, verify=False, merge=False))
    else:
        flags = {"merge_layers": merge.layers, "merge_window": merge.window, "threshold": merge.threshold}
        source = export(checkpoint, ExportOptions(size=size, verify=False, **flags))  # type: ignore[arg-type]
    return source, [photograph(golden / "images" / f"{name}.png", source.card) for name in meta["images"]]


def photograph(path: Path, card: ModelCard) -> Picture:
    """A picture at the model's input size."""
    picture = decode_image(path)
    return path.stem, canvas_image(picture, plan_whole((picture.shape[0], picture.shape[1]), card.size))


def run(model: onnx.ModelProto, card: ModelCard, pictures: list[Picture]) -> list[Outputs]:
    """All outputs of every picture."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = []
    for _, pixels in pictures:
        feed: Outputs = {"images": pixels[None]}
        if card.merge is not None:
            feed["threshold"] = np.array(card.merge.threshold, np.float32)
        found.append(dict(zip(names, session.run(names, feed), strict=True)))
    return found


def regrouped(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Patches that share their token with other patches than before; the numbers of the tokens do not matter."""
    pair = one.ravel().astype(np.int64) << 32 | other.ravel().astype(np.int64)
    sizes = []
    for ids in (pair, one.ravel(), other.ravel()):
        _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
        sizes.append(counts[inverse])
    return int(np.sum((sizes[0] != sizes[1]) | (sizes[0] != sizes[2])))


def compare(full: list[Outputs], half: list[Outputs]) -> dict[str, Any]:
    """One conversion against float32, over all pictures."""
    pairs = list(zip(full, half, strict=True))
    labels = [float(np.mean(a["labels"] == b["labels"])) for a, b in pairs]
    tokens = [float(np.max(np.abs(a["token_counts"] - b["token_counts"]) / a["token_counts"])) for a, b in pairs]
    return {
        "labels_equal": float(np.mean(labels)),
        "least_labels_equal": min(labels),
        "tokens_difference": float(np.mean(tokens)),
        "max_score_difference": max(float(np.abs(a["logits"] - b["logits"]).max()) for a, b in pairs),
        "patches_regrouped": sum(regrouped(a["token_map"], b["token_map"]) for a, b in pairs),
    }


def with_half_weights(full: onnx.ModelProto) -> onnx.ModelProto:
    """Float32 arithmetic on the weights of the float16 model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(full)
    halves = {
        tensor.name.removesuffix("/fp16"): numpy_helper.to_array(tensor)
        for tensor in to_float16(full).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16
    }
    for tensor in copy.graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(numpy_helper.from_array(halves[tensor.name].astype(np.float32), tensor.name))
    return copy


def conversions(source: SourceModel, pictures: list[Picture]) -> list[dict[str, Any]]:
    """A row per conversion and way to run it."""
    full = run(source.proto, source.card, pictures)
    rows = [{"conversion": "weights only"} | compare(full, run(with_half_weights(source.proto), source.card, pictures))]
    for count in range(len(REFINEMENTS) + 1 if source.card.merge is not None else 1):
        half = to_float16(source.proto, count)
        title = "float16" if count == 0 else f"+ {REFINEMENTS[count - 1].name}"
        for how, model in (("as ONNX Runtime runs it", half), ("all roundings", with_roundings(half))):
            row = {"conversion": title, "run": how}
            rows.append(row | compare(full, run(model, source.card, pictures)))
    _, agreement = fit_float16(source.proto, source.card, pictures)
    rows.append({"conversion": "fitted", "refinements": agreement.refinements, "passed": agreement.passed})
    return rows


def cost() -> dict[str, float]:
    """What the refinements put into float32 of a ViT-S at 512 x 512, merging at layers 1 and 5, per picture.

    Operations count a multiplication and an addition as two; bytes are the two more per number that the residual stream
    and the pictures take, at six passes of a block over the stream.
    """
    width, keep = SMALL["width"], EXPECTED_KEEP
    dense = SMALL["patches"] + 1
    local = dense * keep["AlgmLocalMerge"]
    final = local * keep["AlgmGlobalMerge"]

    def attend(tokens: float) -> float:
        return 8 * width**2 * tokens + 4 * tokens**2 * width

    def feed(tokens: float) -> float:
        return 16 * width**2 * tokens

    def block(tokens: float) -> float:
        return attend(tokens) + feed(tokens)

    embedding = 2.0 * SMALL["patches"] * SMALL["patch_values"] * width
    decoder = SMALL["decoder_layers"] * block(final + SMALL["classes"])
    middle = feed(local) + 3 * block(local) + attend(local)
    total = embedding + attend(dense) + middle + feed(final) + 7 * block(final) + decoder
    pixels = 3 * 512 * 512
    numbers = width * (5 * dense + (1 + 3 + 3 * 6 + 4) * local + 2 * final) + 2 * pixels
    return {
        "gflop_per_picture": total / 1e9,
        "merged_stream_gflop_in_float32": embedding / 1e9,
        "merged_stream_share": embedding / total,
        "merged_stream_megabytes_more": 2 * numbers / 1e6,
        "before_the_first_merge_gflop_in_float32": (embedding + attend(dense)) / 1e9,
        "before_the_first_merge_share": (embedding + attend(dense)) / total,
    }


def print_rows(name: str, rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    print(name)
    for row in rows:
        if row["conversion"] == "fitted":
            print(f"  fitted: {', '.join(row['refinements']) or 'no refinement'}; passes: {row['passed']}")
            continue
        print(
            f"  {row['conversion']:26} {row.get('run', ''):24} labels {row['labels_equal']:9.4%}"
            f" (least {row['least_labels_equal']:9.4%}) tokens {row['tokens_difference']:.2%}"
            f" scores {row['max_score_difference']:.2e} regrouped {row['patches_regrouped']}",
            flush=True,
        )


def main() -> None:
    """Compare, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("golden", type=Path, help="folder of outputs of the official code")
    parser.add_argument("--checkpoint", type=Path, help="folder of a trained checkpoint")
    parser.add_argument("--pictures", type=Path, help="folder of pictures for it")
    arguments = parser.parse_args()
    found: dict[str, tuple[SourceModel, list[Picture]]] = {}
    for case in sorted((arguments.golden / "cases").iterdir()):
        if (given := golden_case(arguments.golden, case)) is not None:
            found[case.name] = given
    sample = export(SAMPLE, ExportOptions(verify=False))
    found["sample"] = (
        sample,
        check_pictures(None, sample.card) + check_pictures(EXAMPLES / "pictures", sample.card),
    )
    if arguments.checkpoint is not None:
        trained = export(arguments.checkpoint, ExportOptions(verify=False))
        found[arguments.checkpoint.name] = trained, check_pictures(arguments.pictures, trained.card)
    results: dict[str, Any] = {"cost_of_vit_small_512": cost(), "models": {}}
    print(results["cost_of_vit_small_512"])
    for name, (source, pictures) in found.items():
        rows = conversions(source, pictures)
        print_rows(name, rows)
        results["models"][name] = {"pictures": len(pictures), "rows": rows}
    write_record(arguments.json, results)


if __name__ == "__main__":
    main()
