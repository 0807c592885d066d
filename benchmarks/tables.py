"""Tables of README.md from the recorded results, so that no figure is typed by hand.

    python benchmarks/tables.py            # print the table of every recorded result
    python benchmarks/tables.py --write    # put them into benchmarks/README.md

In README.md a table stands between `<!-- table: FILE.json -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
README: Final = HERE / "README.md"
RESULTS: Final = HERE / "results"
BLOCK: Final = re.compile(r"(?<=<!-- table: )([\w.]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
PRECISION_RUNS: Final = ("as ONNX Runtime runs it", "all roundings")
MISSING: Final = "Not recorded yet.\n"

Record = dict[str, Any]


def cpu_table(record: Record) -> str:
    """Of `cpu_table.py`: milliseconds of every way of running each network, and the ratios."""
    parts = []
    for run in record["runs"]:
        threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
        parts.append(f"{run['model']}, {threads}, {run['pictures']}, {_windows_merged(run)}:\n")
        by_key = {(row["name"], row["kind"]): row for row in run["variants"]}
        names = list(dict.fromkeys(row["name"] for row in run["variants"]))
        rows = []
        for name in names:
            dense, both = by_key.get((name, "dense")), by_key.get((name, "merged"))
            if dense and both:
                ratio = run["ratios"][f"{name}, merged over {name}, dense"]["times_as_fast"]["median"]
                equal = min(dense["labels_equal_to_fp32"], both["labels_equal_to_fp32"])
                cells = [_ms(dense["ms"]), _ms(both["ms"]), f"{ratio:.2f}x", _tokens(both), _percent(equal)]
                rows.append([name, *cells])
        head = ["", "dense, ms", "merged, ms", "merged over dense", "tokens left", "labels equal to FP32"]
        parts.append(markdown(head, rows))
        parts.append(_promises(run["ratios"]))
        parts.extend(_left_out(run))
    parts.extend(
        f"{row['name']} on the trained network `{row['checkpoint']}` ({row['pictures']}): "
        f"{_percent(row['labels_equal'])} of the labels equal to ONNX Runtime's in FP32, {_holds(row)}.\n"
        for row in record["trained"]
        if "labels_equal" in row
    )
    return "\n".join(parts)


def camvid_cpu(record: Record) -> str:
    """Of `camvid_cpu.py`: accuracy dense and over thresholds, and the distances that must be small."""
    others = [row for row in record["backends"] if row["model"] != "merged.onnx" or "OpenVINO" in row["backend"]]
    rows = [_accuracy(row, row["model"]) for row in (*record["curve"], *others, record["fp16"][1])]
    head = ["model", "threshold", "mIoU", "pixel accuracy", "boundary F", "tokens kept", "frames"]
    claims = [
        [name, f"{100 * row['miou_difference']:+.4f}", f"{100 * row['limit']:g}, {_holds(row)}"]
        for name, row in record["claims"].items()
    ]
    return markdown(head, rows) + "\n" + markdown(["mIoU of", "difference", "at most"], claims)


def _accuracy(row: Record, name: str) -> list[str]:
    values = (row["mean_iou"], row["pixel_accuracy"], row["boundary_f_score"])
    threshold = "" if row["threshold"] is None else f"{row['threshold']:g}"
    scores = [f"{100 * value:.2f}" for value in values]
    return [f"{name}, {row['backend']}", threshold, *scores, _percent(row["tokens_kept"], 1), str(row["pictures"])]


def camvid_tradeoff(record: Record) -> str:
    """Of `camvid_tradeoff.py`: speed and accuracy over thresholds."""
    rows = []
    for row in record["curve"]:
        trained = row["threshold"] is not None and row["threshold"] == record["training_threshold"]
        name = "dense" if row["threshold"] is None else f"{row['threshold']:g}{' (training)' if trained else ''}"
        speed = [_spread(row["images_per_second"], digits=1), _spread(row["times_as_fast_as_dense"], "x")]
        rows.append([name, f"{100 * row['mean_iou']:.2f}", _percent(row["tokens_kept"], 1), *speed])
    head = ["threshold", "mIoU", "tokens kept", "images/s [quartiles]", "times as fast as dense [quartiles]"]
    what = f"{record['what']}, {record['backend']}, {record['threads']} threads, {record['frames']} frames:\n\n"
    return what + markdown(head, rows)


def whole_job(record: Record) -> str:
    """Of `whole_job.py`: pictures per second from files to files."""
    parts = []
    for model in record["models"]:
        rows = []
        for row in model["variants"]:
            kept = _percent(row["tokens"]["share_kept"], 1) if row["tokens"] else "100.0 %"
            ratios = [_spread(row[f"times_as_fast_as_{other}"], "x") for other in ("dense", "one_stream")]
            name = f"{row['name']}, {row['kind']}, {_streams(row)}"
            rows.append([name, kept, str(row["windows"]), _spread(row["images_per_second"]), *ratios])
        first = model["variants"][0]
        counted = f"{first['done']} pictures segmented, {first['failed']} of {first['inputs']} files refused"
        parts.append(f"{model['model']}, {record['threads']} threads, {counted}:\n")
        head = ["", "tokens kept", "windows", "images/s", "times as fast as dense", "times as fast as 1 stream"]
        parts.append(markdown(head, rows))
        parts.extend(_left_out(model))
    return "\n".join(parts)


def streams(record: Record) -> str:
    """Of `streams.py`: windows per second with one stream on all threads and with one per thread."""
    parts = []
    for model in record["models"]:
        rows = []
        for row in model["variants"]:
            ratio = _spread(row["times_as_fast_as_one_stream"], "x")
            speed = _spread(row["windows_per_second"], digits=1)
            rows.append([f"{row['name']}, {row['kind']}, {_streams(row)}", speed, ratio, _ms(row["ms_of_one_window"])])
        head = ["", "windows/s [quartiles]", "times as fast as 1 stream [quartiles]", "a single window, ms"]
        parts.append(f"{model['model']}, {record['threads']} threads:\n")
        parts.append(markdown(head, rows))
        parts.extend(_left_out(model))
    return "\n".join(parts)


def golden(record: Record) -> str:
    """Of `golden.py`: distance from the official code over all cases, by backend."""
    forward = [row for row in record["rows"] if "max_score_difference" in row]
    rows = []
    for backend in dict.fromkeys(row["backend"] for row in forward):
        mine = [row for row in forward if row["backend"] == backend]
        worst, equal = max(row["max_score_difference"] for row in mine), min(row["labels_equal"] for row in mine)
        moved = sum(row.get("patches_in_another_token", 0) for row in mine)
        rows.append([backend, str(len(mine)), f"{worst:.1e}", _percent(equal, 3), str(moved)])
    head = ["", "cases", "largest difference of a score", "least labels equal", "patches in another token"]
    sliding = _percent(record["least_labels_equal_sliding"], 3)
    return markdown(head, rows) + f"\nSliding windows over a whole picture: {sliding} of the labels equal.\n"


def precision(record: Record) -> str:
    """Of `precision.py`: labels of FP16 equal to FP32's, of the plain conversion and of the one that is chosen."""
    rows = []
    for name, model in record["models"].items():
        kept = next(row["refinements"] for row in model["rows"] if row["conversion"] == "fitted")
        equal = {(row["conversion"], row.get("run")): row.get("labels_equal") for row in model["rows"]}
        chosen = f"+ {kept[-1]}" if kept else "float16"
        shares = [equal[conversion, run] for conversion in ("float16", chosen) for run in PRECISION_RUNS]
        rows.append([name, *map(_percent, shares[:2]), " and ".join(kept), *map(_percent, shares[2:])])
    head = ["", "plain, in ONNX Runtime", "plain, all roundings", "also kept in float32", "chosen, in ONNX Runtime"]
    return markdown([*head, "chosen, all roundings"], rows)


def merging_cpu(record: Record) -> str:
    """Of `merging_cpu.py`: merged against dense, and the cost of the labels."""
    rows = [[name, f"{value:.1f}"] for name, value in record["median_ms"].items()]
    return (
        f"{record['what']}, {len(record['windows_merged'])} pictures ({record['pictures']}), "
        f"{_windows_merged(record)}:\n\n"
        + markdown(["", "median, ms"], rows)
        + f"\nMerged {record['speedup_merged_over_dense']:.2f}x as fast as dense; the labels take "
        f"{_percent(record['labels_share'], 1)} of the merged model.\n"
    )


def onnxruntime_web(record: Record) -> str:
    """Of `onnxruntime_web.py`: times in WebAssembly, and what differs from ONNX Runtime in Python."""
    rows = []
    for result in record["results"]:
        dense = next(row["ms"] for row in result["models"] if row["model"] == "dense")
        for row in result["models"]:
            equal = f"{row['pictures_with_equal_counts']} of {result['pictures']}"
            times = [f"{row['ms']:.0f}", f"{dense / row['ms']:.2f}x"]
            name = f"{result['network']} {'x'.join(map(str, result['input']))}, {row['model']}"
            rows.append([name, *times, f"{row['max_logit_difference']:.1e}", _percent(row["labels_equal"]), equal])
    head = ["", "ms", "times as fast as dense", "largest difference of a score", "least labels equal"]
    return f"onnxruntime-web {record['onnxruntime_web']}, Node.js {record['node']}, one thread:\n\n" + markdown(
        [*head, "pictures with equal token counts"], rows
    )


def train_camvid(record: Record) -> str:
    """Of `train_camvid.py`: accuracy of both trainings, dense and merged, and the speed of the two ways to run.

    A record of a run that was cut off lacks what came last.
    """
    rows = [
        [f"trained {'with ALGM' if name == 'algm' else 'dense'}, run {row['run']}", *_test(row)]
        for name, training in record["trained"].items()
        for row in training.get("test", ())
    ]
    return (
        f"{record['network']}, {record['steps']} steps of {record['batch']} crops from {record['start']} weights, "
        f"merging at layers {' and '.join(map(str, record['layers']))} from a similarity of {record['threshold']:g}, "
        f"{record['device']}:\n\n"
        + markdown(["", "mIoU", "pixel accuracy", "tokens kept", "test frames"], rows)
        + f"\n{_training_speed(record['speed']) if 'speed' in record else 'The speed was not measured.'}\n"
    )


def _training_speed(speed: Record) -> str:
    rates = speed["images_per_second"]
    return (
        f"{speed['what']}: dense {rates['dense']:.1f} images/s, merged {rates['merged']:.1f} images/s, "
        f"{_spread(speed['merged_times_as_fast'], 'x')}."
    )


def _test(row: Record) -> list[str]:
    scores = [f"{100 * row[name]:.2f}" for name in ("mean_iou", "pixel_accuracy")]
    return [*scores, _percent(row["tokens_kept"], 1), str(row["pictures"])]


def _promises(ratios: Record) -> str:
    rows = []
    for name, row in ratios.items():
        if "least" in row or not _same_way(name):
            least = f">= {row['least']:g}x, {_holds(row)}" if "least" in row else ""
            rows.append([name, _spread(row["times_as_fast"], "x"), least])
    return markdown(["times as fast", "median [quartiles]", "must be"], rows)


def _same_way(name: str) -> bool:
    one, other = name.split(" over ")
    return one.rsplit(",", 1)[0] == other.rsplit(",", 1)[0]


def _left_out(run: Record) -> list[str]:
    return [f"Left out: {name} ({reason})\n" for name, reason in run["not_run"].items()]


def _windows_merged(run: Record) -> str:
    shares = run["windows_merged"]
    return f"{100 * sum(shares) / len(shares):.0f} % of the windows merged"


def _ms(spread: Record) -> str:
    return f"{spread['median']:.0f}"


def _tokens(row: Record) -> str:
    counts = [count for count in row["tokens_at_the_end"] if count is not None]
    return f"{sum(counts) / len(counts):.0f}" if counts else ""


def _percent(value: float, digits: int = 2) -> str:
    """A share; one that is less than all is never rounded to 100 %."""
    text = f"{100 * value:.{digits}f}"
    if value < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def _holds(row: Record) -> str:
    return "holds" if row["holds"] else "**does not hold**"


def _spread(spread: Record, unit: str = "", digits: int = 2) -> str:
    values = (spread[name] for name in ("median", "lower_quartile", "upper_quartile"))
    median, lower, upper = (f"{value:.{digits}f}" for value in values)
    return f"{median}{unit} [{lower} {upper}]" if lower != upper else f"{median}{unit}"


def _streams(row: Record) -> str:
    return "1 stream" if row["streams"] == 1 else f"{row['streams']} streams"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers in the first column are names, the others are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: Final[dict[str, Callable[[Record], str]]] = {
    "cpu_table.json": cpu_table,
    "whole_job.json": whole_job,
    "streams.json": streams,
    "merging_cpu.json": merging_cpu,
    "onnxruntime_web.json": onnxruntime_web,
    "golden.json": golden,
    "precision.json": precision,
    "camvid_cpu.json": camvid_cpu,
    "camvid_tradeoff.json": camvid_tradeoff,
    "train_camvid.json": train_camvid,
}


def table(name: str) -> str:
    """The table of a result by its file name; a line that says so where it is not recorded."""
    file = RESULTS / name
    return TABLES[name](json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else MISSING


def filled(text: str) -> str:
    """A text with the tables of all its blocks."""
    return BLOCK.sub(lambda block: f"{block[1]}{block[2]}\n{table(block[1])}\n", text)


def main() -> int:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write benchmarks/README.md")
    if parser.parse_args().write:
        README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    for name in TABLES:
        if (RESULTS / name).is_file():
            print(f"{name}\n\n{table(name)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
