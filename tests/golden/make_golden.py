"""Run the official ALGM code on random weights and drawn pictures, and record what it answers.

    python tests/golden/make_golden.py OFFICIAL_CHECKOUT

OFFICIAL_CHECKOUT is a checkout of tue-mps/algm-segmenter; nothing of it is copied. Needs torch, einops, pillow and
tqdm, but neither a GPU nor timm: the few names that the model code takes from timm are supplied here, and `.cuda()`
stays on the CPU. Writes `official.npz` beside this file: pictures, answers, thresholds and margins of all decisions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.pictures import drawn_scene
from helpers.weights import random_weights, weights_sha256

# Mean and standard deviation in 0..255, the "deit" values rounded as the official pipeline rounds them.
STATISTICS = {
    "vit": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "deit": ((123.68, 116.28, 103.53), (58.4, 57.12, 57.38)),
}


@dataclass(frozen=True)
class Case:
    """One forward pass: a network, a picture, and merge settings (no layers: dense)."""

    name: str
    size: tuple[int, int]
    layers: tuple[int, ...] = ()
    window: tuple[int, int] = (2, 2)
    threshold: float = 0.0
    decoder: str = "mask_transformer"
    distilled: bool = False
    image_size: tuple[int, int] = (128, 128)
    d_model: int = 64
    n_layers: int = 4
    n_heads: int = 2
    n_cls: int = 12
    seed: int = 1

    @property
    def normalization(self) -> str:
        """Upstream's name of the constants that the picture is normalised with."""
        return "deit" if self.distilled else "vit"


CASES = (
    Case("mask_128_w2", (128, 128), (1, 3)),
    Case("mask_192_w4_three_merges", (192, 192), (1, 2, 4), (4, 4), seed=2),
    Case("mask_128_w2x4", (128, 128), (2, 3), (2, 4), seed=3),
    Case("mask_padded_120x125", (120, 125), (1, 3), seed=4),
    Case("mask_local_only", (128, 128), (2,), seed=5),
    Case("linear_160_w2", (160, 160), (1, 4), decoder="linear", seed=6),
    Case("mask_dense_100x150", (100, 150), seed=7),
    Case("distilled_dense_144", (144, 144), distilled=True, seed=8),
)


class _NoDropPath(nn.Module):
    """What timm's DropPath is in evaluation mode."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


def import_official(checkout: Path) -> types.SimpleNamespace:
    """Import the model code of a checkout, on a CPU and without timm."""
    stubs: dict[str, dict[str, Any]] = {
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {"DropPath": _NoDropPath, "trunc_normal_": nn.init.trunc_normal_},
        "timm.models.vision_transformer": {"_load_weights": None},
    }
    for name, members in stubs.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    sys.path[:0] = [str(checkout), str(checkout / "algm")]
    return types.SimpleNamespace(
        vit=importlib.import_module("segm.model.vit"),
        decoder=importlib.import_module("segm.model.decoder"),
        segmenter=importlib.import_module("segm.model.segmenter"),
        patch=importlib.import_module("algm.patch.algm_segmenter_patch"),
    )


def build(official: types.SimpleNamespace, case: Case) -> tuple[nn.Module, str]:
    """The official network with this project's random weights; and their checksum."""
    width = case.d_model
    encoder = official.vit.VisionTransformer(
        case.image_size, 16, case.n_layers, width, 4 * width, case.n_heads, 1000, distilled=case.distilled
    )
    if case.decoder == "linear":
        decoder = official.decoder.DecoderLinear(case.n_cls, 16, width)
    else:
        heads = width // 64
        decoder = official.decoder.MaskTransformer(case.n_cls, 16, width, 2, heads, width, 4 * width, 0.0, 0.0)
    model = official.segmenter.Segmenter(encoder, decoder, case.n_cls)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = random_weights(shapes, case.seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return model.eval(), weights_sha256(weights)


class Recorder:
    """Notes what goes into each merge and where the patches are after it."""

    def __init__(self, patch: types.ModuleType) -> None:
        self.features: list[np.ndarray] = []
        self.maps: list[np.ndarray] = []
        pooling, matching, sources = patch.conditional_pooling, patch.turbo_matching, patch.merge_source
        patch.conditional_pooling = lambda x, *rest: pooling(self.note(x), *rest)
        patch.turbo_matching = lambda x, *rest: matching(self.note(x), *rest)

        def merge_source(*arguments: Any) -> Tensor:
            source = sources(*arguments)
            self.maps.append(source.argmax(dim=1)[0, 1:].numpy().astype(np.int32))
            return source

        patch.merge_source = merge_source

    def note(self, x: Tensor) -> Tensor:
        self.features.append(x[0].double().numpy())
        return x

    def clear(self) -> None:
        self.features.clear()
        self.maps.clear()


def run(official: types.SimpleNamespace, recorder: Recorder, case: Case) -> tuple[Case, dict[str, Any]]:
    """One case: the threshold that was chosen, and the answers."""
    model, checksum = build(official, case)
    picture = drawn_scene(*case.size, seed=case.seed)
    mean, std = (np.array(values, np.float32) for values in STATISTICS[case.normalization])
    images = torch.from_numpy(((picture.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None])
    scores: list[Tensor] = []
    model.decoder.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    if case.layers:
        official.patch.apply_patch(model, list(case.layers), trace_source=True, prop_attn=False)
        model.encoder.window_size = case.window
        case = replace(case, threshold=_threshold(model, images, recorder, case))
        model.encoder.threshold = case.threshold
    recorder.clear()
    with torch.no_grad():
        full = model(images)
    answers: dict[str, Any] = {
        "picture": picture,
        "masks": scores[-1].numpy(),
        "labels": full.argmax(dim=1)[0].numpy().astype(np.uint8),
        "weights_sha256": np.array(checksum),
        "margin": np.array(_margins(recorder, case)),
    }
    for stage, token_map in enumerate(recorder.maps):
        answers[f"map_{stage}"] = token_map
        answers[f"tokens_{stage}"] = np.array(token_map.max() + 1)
    return case, answers


def _similarities(features: np.ndarray, case: Case) -> np.ndarray:
    """Mean cosine of the pairs in every window, in float64, for tokens (1 + N0, C)."""
    (rows, columns), (height, width) = (-(-side // 16) for side in case.size), case.window
    units = features[1:] / np.linalg.norm(features[1:], axis=1, keepdims=True)
    windows = (
        units.reshape(rows // height, height, columns // width, width, -1).sum(axis=(1, 3)).reshape(-1, units.shape[1])
    )
    count = height * width
    return np.asarray((np.square(windows).sum(axis=1) - count) / (count * (count - 1)))


def _threshold(model: nn.Module, images: Tensor, recorder: Recorder, case: Case) -> float:
    """A threshold that about half of the windows reach, in the widest gap between similarities around there."""
    recorder.clear()
    model.encoder.threshold = -1.0
    with torch.no_grad():
        model(images)
    ordered = np.sort(_similarities(recorder.features[0], case))
    ordered = ordered[len(ordered) // 3 : 2 * len(ordered) // 3 + 2]
    at = int(np.argmax(np.diff(ordered)))
    return float(np.float32(ordered[at : at + 2].mean()))


def _margins(recorder: Recorder, case: Case) -> list[float]:
    """How far each merge was from deciding otherwise, in units of similarity."""
    margins = []
    for stage, features in enumerate(recorder.features):
        if stage == 0:
            similarity = np.sort(_similarities(features, case))
            gaps = np.diff(similarity[similarity >= case.threshold])
            margins.append(min(np.abs(similarity - case.threshold).min(), gaps.min(initial=np.inf)))
            continue
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        similarity = np.sort(units[2::2] @ units[1::2].T, axis=1)
        best = similarity[:, -1]
        limit = best.mean() + best.std(ddof=1) / case.layers[stage]
        chosen = similarity[best >= limit]
        margins.append(min(np.abs(best - limit).min(), (chosen[:, -1] - chosen[:, -2]).min(initial=np.inf)))
    return [float(margin) for margin in margins]


def main() -> None:
    """Run all cases and write `official.npz`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="checkout of tue-mps/algm-segmenter")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("official.npz"))
    options = parser.parse_args()
    official = import_official(options.checkout)
    recorder = Recorder(official.patch)
    arrays: dict[str, Any] = {}
    cases = []
    for wanted in CASES:
        case, answers = run(official, recorder, wanted)
        cases.append(asdict(case) | {"normalization": case.normalization})
        arrays |= {f"{case.name}/{name}": value for name, value in answers.items()}
        tokens = [int(value) for name, value in answers.items() if name.startswith("tokens_")]
        print(f"{case.name}: threshold {case.threshold:.4f}, tokens {tokens}, margins {answers['margin']}")
    arrays["cases"] = np.array(json.dumps(cases))
    arrays["versions"] = np.array(json.dumps({"torch": torch.__version__, "numpy": np.__version__}))
    np.savez_compressed(options.output, **arrays)
    print(f"{options.output}: {options.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
