"""PyTorch and ONNX Runtime against recorded answers of the official ALGM code, with one picture per batch.

Two sources: small networks committed in `tests/golden`, and larger cases beside the checkout (`shared`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.checkpoints import unused_heads
from helpers.models import onnx_outputs, random_segmenter, session, torch_outputs
from helpers.weights import random_weights, weights_sha256
from numpy.typing import NDArray

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.segmenter import Segmenter, segmenter_from_checkpoint
from algm_trt.plugins import reference
from algm_trt.runtime.card import MergeSettings

Array = NDArray[Any]

# What must hold is 1e-3; float32 on another machine has shown 1.1e-5.
MASK_TOLERANCE = 5e-5
MIN_EQUAL_LABELS = 0.9995
# A decision closer than this may fall either way in float32.
NEAR_TIE = 1e-5

COMMITTED = Path(__file__).parents[1] / "golden" / "official.npz"
BACKENDS = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Expected:
    """What the official code said about one picture.

    Attributes:
        masks: (K, h, w) class scores.
        labels: (H, W).
        maps: token of each patch after each merge, counted with the extra tokens; none for a dense network.
        margin: of the closest decision.
    """

    masks: Array
    labels: Array
    maps: list[Array]
    margin: float = np.inf


def answers(backend: str, model: Segmenter, images: Array) -> dict[str, Array]:
    """Outputs of the whole network by name."""
    if backend == "torch":
        return torch_outputs(model, images)
    threshold = model.merge.threshold if model.merge else None
    return onnx_outputs(session(build_graph(model, (images.shape[1], images.shape[2]))), images, threshold)


def check(outputs: dict[str, Array], image: int, expected: Expected, extra: int = 1) -> None:
    """Scores, labels, token counts and the final map of one image of a batch."""
    patches = expected.masks.shape[1] * expected.masks.shape[2]
    left = [int(token_map.max()) + 1 for token_map in expected.maps] or [patches + extra]
    differing = 0
    if expected.maps:
        differing = int((outputs["token_map"][image].ravel() != expected.maps[-1]).sum())
    if differing:
        print(f"{differing} of {patches} patches in another token; closest decision {expected.margin:.2g}")
        assert expected.margin < NEAR_TIE
    assert outputs["token_counts"][image].tolist() == [patches + extra, left[0], left[-1]]
    difference = np.abs(outputs["logits"][image] - expected.masks).max()
    equal = (outputs["labels"][image] == expected.labels).mean()
    print(f"largest difference of scores {difference:.2g}, equal labels {equal:.6%}")
    assert difference < MASK_TOLERANCE
    assert equal >= MIN_EQUAL_LABELS


# Committed cases.


def committed_cases() -> list[dict[str, Any]]:
    """Networks and settings, as the script that made the file wrote them."""
    with np.load(COMMITTED) as arrays:
        return list(json.loads(str(arrays["cases"])))


def committed_model(case: dict[str, Any], layers: tuple[int, ...]) -> Segmenter:
    """The network of a case, merging at `layers`."""
    config = SegmenterConfig(
        image_size=(case["image_size"][0], case["image_size"][1]),
        patch_size=16,
        d_model=case["d_model"],
        n_layers=case["n_layers"],
        n_heads=case["n_heads"],
        d_ff=4 * case["d_model"],
        n_cls=case["n_cls"],
        distilled=case["distilled"],
        normalization=case["normalization"],
        decoder=case["decoder"],
    )
    window = (case["window"][0], case["window"][1])
    merge = MergeSettings(layers, window, case["threshold"]) if layers else None
    return random_segmenter(config, merge, case["seed"])


@pytest.fixture(scope="module")
def committed() -> Iterator[dict[str, Array]]:
    with np.load(COMMITTED) as arrays:
        yield dict(arrays)


@pytest.mark.parametrize("case", committed_cases(), ids=lambda case: case["name"])
class TestCommitted:
    def test_weights_are_those_that_were_recorded(self, committed: dict[str, Array], case: dict[str, Any]) -> None:
        model = committed_model(case, ())
        state = model.state_dict() | unused_heads(model.config)
        weights = random_weights({name: tuple(value.shape) for name, value in state.items()}, case["seed"])
        assert weights_sha256(weights) == str(committed[f"{case['name']}/weights_sha256"]), (
            "the recipe of tests/helpers/weights.py has changed: run tests/golden/make_golden.py again"
        )

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_network_equals_the_official_code(
        self, committed: dict[str, Array], case: dict[str, Any], backend: str
    ) -> None:
        name, layers = case["name"], tuple(case["layers"])
        maps = [committed[f"{name}/map_{stage}"] for stage in range(len(layers))]
        margin = float(committed[f"{name}/margin"].min(initial=np.inf))
        assert margin > 10 * NEAR_TIE
        expected = Expected(committed[f"{name}/masks"][0], committed[f"{name}/labels"], maps, margin)
        images = committed[f"{name}/picture"][None]
        model = committed_model(case, layers)
        check(answers(backend, model, images), 0, expected, model.config.extra_tokens)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_merges_before_the_last(self, committed: dict[str, Array], case: dict[str, Any], backend: str) -> None:
        """A network that stops merging after some layer shows the map of that layer."""
        images = committed[f"{case['name']}/picture"][None]
        for stage in range(len(case["layers"]) - 1):
            model = committed_model(case, tuple(case["layers"][: stage + 1]))
            token_map = answers(backend, model, images)["token_map"]
            np.testing.assert_array_equal(token_map.ravel(), committed[f"{case['name']}/map_{stage}"])


# The larger cases.

SHARED_CASES = (
    "c01_mask_512_w2",
    "c02_mask_480_w2",
    "c03_mask_512_w4",
    "c04_mask_pad500x505",
    "c05_mask_300x451_nonsquare",
    "c06_linear_512_w2",
    "c07_distilled_512",
)
BATCH_CASE = "c09_batch4_512"
# The official code fails on these when it merges.
DENSE_ONLY = ("c05_mask_300x451_nonsquare", "c07_distilled_512")


@dataclass(frozen=True)
class SharedCase:
    """One folder of the larger cases."""

    folder: Path
    meta: dict[str, Any]
    arrays: dict[str, Array]

    @classmethod
    def load(cls, shared: Path, name: str) -> SharedCase:
        folder = shared / "golden" / "cases" / name
        with np.load(folder / "arrays.npz") as arrays:
            return cls(folder, json.loads((folder / "meta.json").read_text()), dict(arrays))

    @property
    def golden(self) -> Path:
        return self.folder.parents[1]

    def images(self) -> Array:
        files = [str(self.golden / "images" / f"{name}.png") for name in self.meta["images"]]
        return np.stack([cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB) for file in files])

    def model(self, merge: bool) -> Segmenter:
        settings = MergeSettings(
            tuple(self.meta["selected_layers"]), tuple(self.meta["merging_window_size"]), self.meta["threshold"]
        )
        checkpoint = load_checkpoint(self.golden / "models" / self.meta["model"])
        return segmenter_from_checkpoint(checkpoint, settings if merge else None)

    def labels(self, name: str) -> Array:
        return cv2.imread(str(self.folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)

    def margin(self) -> float:
        """Of the closest decision, as the official run recorded it; infinite where it was not recorded."""
        found = [np.inf]
        for merge in self.meta.get("algm", {}).get("merges", []):
            found += [merge["gap_at_threshold"], merge.get("min_top1_top2_gap", np.inf)]
            found += merge.get("min_gap_in_merged_order", [])
        return float(min(found))

    def expected(self, kind: str) -> Expected:
        maps = []
        if kind == "algm":
            maps = [self.arrays[f"algm_{stage}_index"][0, 1:] for stage in ("m0_local", "m1_global")]
        return Expected(self.arrays[f"{kind}_masks"][0], self.labels(kind), maps, self.margin())


@pytest.mark.shared
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in SHARED_CASES for kind in ("pure", "algm") if kind == "pure" or name not in DENSE_ONLY],
)
def test_network_equals_the_official_code_in_larger_cases(shared: Path, name: str, kind: str, backend: str) -> None:
    case = SharedCase.load(shared, name)
    model = case.model(merge=kind == "algm")
    check(answers(backend, model, case.images()), 0, case.expected(kind), model.config.extra_tokens)


@pytest.mark.shared
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["pure", "algm"])
def test_shared_batch_is_what_the_official_code_says_of_each_picture_alone(
    shared: Path, kind: str, backend: str
) -> None:
    case = SharedCase.load(shared, BATCH_CASE)
    outputs = answers(backend, case.model(merge=kind == "algm"), case.images())
    for image in range(4):
        masks, maps, labels = case.arrays["pure_masks"][image], [], case.labels(f"pure_{image}")
        if kind == "algm":
            masks = case.arrays[f"algm_alone_{image}_masks"][0]
            labels = case.labels(f"algm_alone_{image}")
            stages = ("m0_local", "m1_global")
            maps = [case.arrays[f"algm_alone_{image}_{stage}_index"][0, 1:] for stage in stages]
        check(outputs, image, Expected(masks, labels, maps, case.margin()))


@pytest.mark.shared
@pytest.mark.parametrize("name", [name for name in SHARED_CASES if name not in DENSE_ONLY])
def test_shared_local_merge_alone(shared: Path, name: str) -> None:
    """The map after the first merge."""
    case = SharedCase.load(shared, name)
    model = case.model(merge=True)
    assert model.merge is not None
    model.merge = replace(model.merge, layers=model.merge.layers[:1])
    token_map = torch_outputs(model, case.images())["token_map"].ravel()
    np.testing.assert_array_equal(token_map, case.arrays["algm_m0_local_index"][0, 1:])


@pytest.fixture(scope="module")
def recorded_case(shared: Path) -> SharedCase:
    """The case whose intermediate features were recorded."""
    return SharedCase.load(shared, "c01_mask_512_w2")


@pytest.mark.shared
class TestReferenceOnTheOfficialFeatures:
    """The NumPy reference, fed with what went into the official merges of one case."""

    def test_window_similarity_equals_the_official_one(self, recorded_case: SharedCase) -> None:
        similarity = reference.window_similarity(recorded_case.arrays["algm_m0_local_x_in"][:, 1:], (32, 32), (2, 2))
        np.testing.assert_allclose(similarity, recorded_case.arrays["algm_m0_local_similarity"], rtol=0, atol=1e-6)

    def test_local_merge_equals_the_official_one(self, recorded_case: SharedCase) -> None:
        a = {
            name.removeprefix("algm_m0_local_"): value[0]
            for name, value in recorded_case.arrays.items()
            if "m0_local" in name
        }
        merged = reference.local_merge(a["x_in"][None], recorded_case.meta["threshold"], grid=(32, 32), window=(2, 2))
        members = reference.window_members((32, 32), (2, 2))
        order = merged.token_map[0][members[a["order"].astype(int)]]
        np.testing.assert_array_equal(order, np.repeat(1 + np.arange(len(order))[:, None], 4, axis=1))
        np.testing.assert_array_equal(merged.token_map[0], a["index"][1:])
        np.testing.assert_array_equal(merged.sizes, a["size"])
        np.testing.assert_allclose(merged.y, a["x_out"], rtol=0, atol=2e-6)

    def test_global_merge_equals_the_official_one(self, recorded_case: SharedCase) -> None:
        a = {
            name.removeprefix("algm_m1_global_"): v[0]
            for name, v in recorded_case.arrays.items()
            if "m1_global" in name
        }
        local = {name: recorded_case.arrays[f"algm_m0_local_{name}"][0] for name in ("index", "size")}
        x = a["x_in"]
        source, destination = reference.global_pairs(x, recorded_case.meta["selected_layers"][1], 1)
        by_source = np.argsort(a["src"])
        np.testing.assert_array_equal(source, 2 * a["src"][by_source].astype(int))
        np.testing.assert_array_equal(destination, 2 * a["dst"][by_source].astype(int) + 1)
        units = reference.unit_rows(x)
        similarity = units[0::2] @ units[1::2].T
        np.testing.assert_allclose(similarity.max(axis=1)[1:], a["node_max"][1:], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(similarity.argmax(axis=1)[1:], a["node_idx"][1:])
        merged = reference.global_merge(
            x,
            local["size"].astype(np.int32),
            np.array([0, len(x)], np.int32),
            local["index"][None, 1:].astype(np.int32),
            layer=recorded_case.meta["selected_layers"][1],
        )
        np.testing.assert_array_equal(np.setdiff1d(np.arange(0, len(x), 2), source) // 2, np.sort(a["unm"]))
        np.testing.assert_array_equal(merged.token_map[0], a["index"][1:])
        np.testing.assert_array_equal(merged.sizes, a["size"])
        np.testing.assert_allclose(merged.y, a["x_out"], rtol=0, atol=5e-6)


@pytest.mark.shared
def test_shared_checkpoints_load_without_their_variant(shared: Path, tmp_path: Path) -> None:
    """What is inferred from the weights is what variant.yml says, as far as weights can tell."""
    for folder in sorted((shared / "golden" / "models").iterdir()):
        described = load_checkpoint(folder)
        copy = tmp_path / f"{folder.name}.pth"
        copy.write_bytes((folder / "checkpoint.pth").read_bytes())
        inferred = load_checkpoint(copy)
        ignored = {"backbone": "", "n_heads": 1}
        assert replace(inferred.config, **ignored) == replace(described.config, **ignored)
        assert all(torch.equal(inferred.state[key], described.state[key]) for key in described.state)
