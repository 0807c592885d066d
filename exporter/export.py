"""From a checkpoint to a verified `model.onnx` with its model card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from algm_trt.exporter.checkpoint import Checkpoint, load_checkpoint
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.model_card import classes_of, merge_notes, model_card, window_notes
from algm_trt.exporter.options import ExportOptions, check_grid, resolve_merge
from algm_trt.exporter.segmenter import segmenter_from_checkpoint
from algm_trt.exporter.verify import Verification, verify
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import METADATA_KEY, ModelCard
from algm_trt.runtime.files import check_writable, renamed_together


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: the ONNX file.
        report_path: JSON beside it with the card and the verification.
        card: its model card.
        nodes: top-level nodes of the graph.
        notes: what was inferred or assumed, one sentence each.
        verification: the comparison, or None if it was left out.
    """

    path: Path
    report_path: Path
    card: ModelCard
    nodes: int
    notes: tuple[str, ...]
    verification: Verification | None


def export_onnx(
    checkpoint: str | Path | Checkpoint, path: str | Path | None = None, options: ExportOptions | None = None
) -> ExportReport:
    """Export a checkpoint.

    Args:
        checkpoint: folder, `.pth` file, or a loaded checkpoint.
        path: of the ONNX file; default: `model.onnx` beside the checkpoint, or `model.fp16.onnx`, `model.int8.onnx`.
        options: choices; default: what the checkpoint says.

    Returns:
        A report; `verification.passed` says whether the model agrees with PyTorch. The files are written either way.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: no such checkpoint, options that make no model, or another file in its place; the message says what
            would help.
        ClassListError: the file with class names cannot be read.
        AlgmError: the model cannot be written there.
    """
    options = options or ExportOptions()
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    target = Path(path) if path else loaded.path.with_name(_default_name(options.precision))
    report_path = target.with_name(f"{target.name}.json")
    _check_places(target, report_path, loaded, options)
    size = options.size or loaded.crop
    merge = resolve_merge(loaded.merge, options)
    check_grid(size, loaded.config, merge)
    model = segmenter_from_checkpoint(loaded, merge)
    classes, class_notes = classes_of(loaded, options.classes)
    card = model_card(loaded, model, size, options, classes)
    proto = build_graph(model, size, options.precision)
    proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    try:
        with renamed_together() as temporary:
            draft = temporary(target)
            onnx.save(proto, draft)
            checked = verify(draft, model, card, options.verify_images) if options.verify else None
            report = {"card": asdict(card), "verification": checked and checked.to_dict()}
            temporary(report_path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AlgmError(f"cannot write {target}: {error.strerror or error}") from error
    notes = (*loaded.notes, *class_notes, *merge_notes(loaded, merge, options), *window_notes(loaded, card))
    return ExportReport(target, report_path, card, len(proto.graph.node), notes, checked)


def _default_name(precision: str) -> str:
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def _check_places(target: Path, report: Path, checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Refuse to write over a folder or over what is read, and a name by which no backend knows the model.

    Raises:
        UsageError: one of the files to write is there as something else, or is read, or the model's name does not end
            in .onnx.
        AlgmError: the model cannot be written there.
    """
    read = [checkpoint.path, checkpoint.path.with_name("variant.yml")]
    read += [Path(options.classes)] if options.classes else []
    for path in (target, report):
        if path.is_dir():
            raise UsageError(f"{path} is a folder: -o takes the name of a file, such as {path / 'model.onnx'}")
        if path.resolve() in [source.resolve() for source in read]:
            raise UsageError(f"{path} is read and would be written over: give -o another name")
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"{target}: the name of a model must end in .onnx")
    if target.exists() and not options.force and not _is_export(target):
        raise UsageError(f"{target} is there already and no model of algm-export: --force overwrites it")
    try:
        check_writable(target)
    except OSError as error:
        raise AlgmError(f"{error}; name another place with -o") from error


def _is_export(path: Path) -> bool:
    """Whether a file is a model with a card."""
    try:
        entries = onnx.load_model(path, load_external_data=False).metadata_props
    except Exception:  # unreadable, or protobuf's DecodeError, which onnx does not re-export
        return False
    return any(entry.key == METADATA_KEY for entry in entries)
