"""The result of one picture: class ids per pixel, and everything that overlays and files are made from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.paint import full_palette, paint
from algm_trt.runtime.window_runner import PictureScores
from algm_trt.runtime.windows import WindowPlan
from algm_trt.runtime.writers import coco_annotations, save_result

if TYPE_CHECKING:
    from supervision import Detections

_BAND_VALUES = 2**22  # float32 logits held at a time where a whole picture of them would be too large


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """The segmentation of one picture of H x W pixels and K classes, computed in n windows.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright; shares no memory with the picture that was given.
        labels: (H, W) uint8 class ids, uint16 above 256 classes.
        classes: class names; the index is the class id.
        palette: one (red, green, blue) of 0..255 per class.
        token_counts: (n, 3) int32 tokens of each window: grid and extra, after the local merge, after the global ones.
        token_maps: (n, gh, gw) int32 token that each patch went to; the first patch of each window lies top left.
        plan: where the windows lie.
        scores: the logits at patch resolution, where the model left them.
        patch_size: side of a patch in canvas pixels.
        name: name that files get unless another is given.
        file: name of the picture's file, "" for a picture in memory or a frame.
        dataset: name of the data set that the classes are of, "" if unknown.
        logits: (K, H, W) float32 where they were asked for, else None.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8] | NDArray[np.uint16]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    token_counts: NDArray[np.int32]
    token_maps: NDArray[np.int32]
    plan: WindowPlan
    scores: PictureScores
    patch_size: int
    name: str = "image"
    file: str = ""
    dataset: str = ""
    logits: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return (
            f"SegmentationResult({self.name!r}, {width}x{height} pixels, {len(np.unique(self.labels))} classes, "
            f"{len(self.token_counts)} windows, {self.tokens_kept:.0%} of the tokens kept)"
        )

    @property
    def tokens_kept(self) -> float:
        """Share of the tokens that are left after all merges, 0..1, over all windows."""
        return float(self.token_counts[:, 2].sum() / self.token_counts[:, 0].sum())

    def colors(self) -> NDArray[np.uint8]:
        """Each pixel in the colour of its class: (H, W, 3) uint8 RGB."""
        return paint(np.asarray(self.palette, np.uint8), self.labels)

    def overlay(self, alpha: float = 0.5) -> NDArray[np.uint8]:
        """The picture with the class colours laid over it.

        Args:
            alpha: share of the colours, 0 (the picture) to 1 (the colours).

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UsageError: alpha outside 0..1.
        """
        if not 0.0 <= alpha <= 1.0:
            raise UsageError(f"alpha must be between 0 and 1, got {alpha}")
        colors = self.colors()
        blend: NDArray[np.uint8] = cv2.addWeighted(self.image, 1.0 - alpha, colors, alpha, 0.0, dst=colors)  # type: ignore[assignment]
        return blend

    def to_pil(self) -> Image.Image:
        """The class ids as a Pillow picture that is shown in the class colours, as files of kind "labels" are.

        Returns:
            W x H pixels of mode "P" with the palette, or of mode "I;16" above 256 classes; shares no memory with
            `labels`. `np.asarray` of it gives the class ids.
        """
        picture = Image.fromarray(self.labels).copy()
        if self.labels.dtype == np.uint8:
            picture.putpalette(full_palette(self.palette).tobytes())
        return picture

    def to_coco_rle(self) -> list[dict[str, Any]]:
        """The classes that are there as COCO annotations, in ascending order, ready for JSON.

        Returns:
            Dictionaries with category_id (the class id), category_name, segmentation (size [H, W] and counts: run
            lengths, not compressed, column by column, beginning with zeros; `pycocotools.mask.frPyObjects` reads
            them), area in pixels and bbox [x, y, width, height].
        """
        return coco_annotations(self.labels, self.classes)

    def to_supervision(self) -> Detections:
        """The classes that are there as detections of the package supervision, for its annotators and filters.

        Returns:
            One detection per class, in ascending order: class_id, mask ((H, W) bool, so that all take a byte per pixel
            and class), xyxy around it in pixels, and data["class_name"]; as for semantic segmentations of transformers
            there is no confidence.

        Raises:
            MissingDependencyError: supervision cannot be imported.
        """
        try:
            from supervision import Detections, mask_to_xyxy
        except ImportError as error:
            raise MissingDependencyError(
                f"supervision cannot be imported ({error}): pip install 'algm-trt[supervision]'"
            ) from error
        class_ids = np.unique(self.labels).astype(int)
        masks = self.labels == class_ids[:, None, None]
        names = np.array(self.classes)[class_ids]
        return Detections(mask_to_xyxy(masks), masks, class_id=class_ids, data={"class_name": names})

    def probability_bands(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the class probabilities in bands of rows from top to bottom, so that memory stays bounded.

        Yields:
            The rows, and (rows, W, K) float32 probabilities that sum to 1 over the classes.
        """
        field = self.scores.field()
        for rows in self._bands():
            yield rows, field.probabilities(rows.start, rows.stop)

    def confidence(self) -> NDArray[np.float16]:
        """Probability of the winning class at each pixel: (H, W) float16."""
        field = self.scores.field()
        winner = np.empty(self.labels.shape, np.float16)
        for rows in self._bands():
            winner[rows] = field.confidence(rows.start, rows.stop)
        return winner

    def with_logits(self) -> SegmentationResult:
        """The same result with `logits` filled in: K x H x W x 4 bytes."""
        height, width = self.labels.shape
        logits = np.empty((len(self.classes), height, width), np.float32)
        field = self.scores.field()
        for rows in self._bands():
            logits[:, rows] = field.rows(rows.start, rows.stop).transpose(2, 0, 1)
        return SegmentationResult(**{**self.__dict__, "logits": logits})

    def save(
        self,
        folder: str | os.PathLike[str],
        name: str | os.PathLike[str] | None = None,
        what: str | Sequence[str] = ("labels", "overlay"),
    ) -> list[Path]:
        """Write files, all or none, in one subfolder per kind.

        Args:
            folder: made if it does not exist.
            name: of the files, without suffix; may hold folders, but cannot lead out of `folder`. Default: the name of
                the picture's file.
            what: kinds of `algm_trt.runtime.writers.KINDS`.

        Returns:
            The paths of the files, in the order of `what`.

        Raises:
            UsageError: an unknown kind, or a name that is not relative, holds '..' or NUL, or has an empty part.
            WriteError: a file that cannot be written.
        """
        files = save_result(self, Path(folder), os.fspath(self.name if name is None else name), what)
        return [Path(folder) / file.path for file in files]

    def _bands(self) -> Iterator[slice]:
        height, width = self.labels.shape
        step = max(1, _BAND_VALUES // (width * len(self.classes)))
        for start in range(0, height, step):
            yield slice(start, min(height, start + step))
