"""The Python interface: `load` a model, call it on pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.decode import BinaryFile, DecodeError, decode_image, file_bytes, picture_size, to_rgb
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.pipeline import Inferred, Item, Outcomes, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.result import SegmentationResult

Encoded: TypeAlias = bytes | bytearray | memoryview | BinaryFile
Picture: TypeAlias = str | os.PathLike[str] | Encoded | NDArray[Any] | Image.Image
P = TypeVar("P", bound=Picture)


def load(path: str | os.PathLike[str], **options: Any) -> Segmenter:
    """Open a model for inference.

    Any number of threads may call one segmenter; a call blocks until its results are there, so in asyncio it belongs in
    a thread (`asyncio.to_thread`). Open the model in each process, or fork while no call runs: on a CPU the child can
    use its parent's model then, with OpenVINO if that has a single stream.

    Args:
        path: model file, such as model.onnx or model.plan.
        **options: backend, device, threads, cpu_precision, streams of `algm_trt.runtime.engine_options.EngineOptions`.

    Raises:
        AlgmError: no such file, not a model of this project, or the machine lacks what it needs.
    """
    return Segmenter(open_engine(Path(path), EngineOptions(**options)))


class Segmenter:
    """A model that takes pictures of any size; any number of threads may call it.

    Example:
        >>> with load("model.onnx") as segmenter:
        ...     result = segmenter("street.jpg")
        ...     result.save("masks")

    Attributes:
        engine: runs the model on batches of its own input size.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.engine.card

    @overload
    def __call__(
        self, pictures: Picture, *, logits: bool = ..., max_pixels: int = ..., **options: Any
    ) -> SegmentationResult: ...

    @overload  # one type for a literal list of several kinds, which none of the next would be inferred for
    def __call__(
        self,
        pictures: list[Picture] | tuple[Picture, ...],
        *,
        logits: bool = ...,
        max_pixels: int = ...,
        **options: Any,
    ) -> list[SegmentationResult]: ...

    @overload
    def __call__(
        self, pictures: list[P] | tuple[P, ...], *, logits: bool = ..., max_pixels: int = ..., **options: Any
    ) -> list[SegmentationResult]: ...

    def __call__(
        self,
        pictures: Picture | list[P] | tuple[P, ...],
        *,
        logits: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        **options: Any,
    ) -> SegmentationResult | list[SegmentationResult]:
        """Segment one picture or a list of them; for more than fit in memory there is `stream`.

        Args:
            pictures: path; bytes of a picture file, or a file open in binary mode, which is read from where it stands
                and stays open; uint8 array of shape (H, W, 3) RGB, (H, W) grey or (H, W, 4) RGB with alpha; or Pillow
                picture. Or a list or tuple of them. Arrays are copied: results stay when one is written over.
            logits: also fill `result.logits` (K, H, W) float32.
            max_pixels: larger pictures are refused before they are decoded, unless they are arrays.
            **options: mode, stride, short_side, max_ratio, threshold, batch_size, workers of
                `algm_trt.runtime.pipeline_options.PipelineOptions`.

        Returns:
            One result, or a list of them in the order of the pictures.

        Raises:
            DecodeError: a picture that cannot be read.
            UsageError: options that make no sense for this model.
            AlgmError: the model failed, or is closed.
        """
        if isinstance(pictures, list | tuple):
            return list(self.stream(pictures, logits=logits, max_pixels=max_pixels, **options))
        result: SegmentationResult
        (result,) = self._results([_item(pictures, "image", max_pixels)], logits, PipelineOptions(**options))
        return result

    def stream(
        self,
        pictures: Iterable[Picture],
        *,
        logits: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        **options: Any,
    ) -> ResultStream:
        """Segment any number of pictures one after another, in bounded memory.

        A result has the name of its file without the suffix, and one of a picture in memory image_000000 and so on, by
        its place. Files of equal names from several folders need other ones where they are saved: `save(folder, name)`.

        Args:
            pictures: as for a call; taken as they are needed, some ahead of the results. An array is copied and a file
                read when it is taken, so that each picture may be read into the array of the last one. A Pillow picture
                must stay open and unchanged until its result is there.
            logits: also fill `result.logits`.
            max_pixels: as for a call.
            **options: mode, stride, short_side, max_ratio, threshold, batch_size, workers of `PipelineOptions`.

        Returns:
            One result per picture, in order.

        Raises:
            UsageError: one picture in place of several, or options that make no sense for this model.
        """
        if _is_one_picture(pictures):
            raise UsageError("stream takes several pictures: call the segmenter for one")
        if not isinstance(pictures, Iterable):
            raise UsageError(f"stream takes pictures one after another, got {type(pictures).__name__}")
        items = (_item(picture, f"image_{place:06}", max_pixels) for place, picture in enumerate(pictures))
        return self._results(items, logits, PipelineOptions(**options))

    def _results(self, items: Iterable[Item[_Names]], logits: bool, options: PipelineOptions) -> ResultStream:
        def finish(names: _Names, inferred: Inferred) -> SegmentationResult:
            inferred.scores.field()  # keeps the scores: the result outlives this step
            result = make_result(self.card, names.name, inferred, names.file)
            return result.with_logits() if logits else result

        return ResultStream(run_pipeline(self.engine, options, items, finish))

    def close(self) -> None:
        """Release the model."""
        self.engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.card.size
        return f"Segmenter({len(self.card.classes)} classes, {height}x{width} windows, {self.engine.description})"


class _Names(NamedTuple):
    """Name of a result, and of the picture's file, "" for one in memory."""

    name: str
    file: str = ""


class ResultStream(Iterator[SegmentationResult]):
    """Results as they are ready, in the order of their pictures.

    Close one that is left early, or use it in a `with` block: that waits for its threads. One that is only dropped ends
    them without waiting.
    """

    def __init__(self, outcomes: Outcomes[_Names, SegmentationResult]) -> None:
        self._outcomes = outcomes

    def __next__(self) -> SegmentationResult:
        """The next one.

        Raises:
            DecodeError: a picture that cannot be read; the stream ends there.
            AlgmError: the model failed, or is closed.
        """
        outcome = next(self._outcomes)
        try:
            return outcome.result()
        except BaseException:
            self.close()
            raise
        finally:
            del outcome  # its error, which knows this frame, would keep itself; see `_failure` of the pipeline

    def close(self) -> None:
        """Cancel what has not begun and wait for the rest."""
        self._outcomes.close()

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_result(card: ModelCard, name: str, inferred: Inferred, file: str = "") -> SegmentationResult:
    """Labels at the source size, and all that files are made from.

    The scores stay where the model left them: in a GPU's memory they are gone after the pipeline's last step, unless
    `scores.field()` was called before.
    """
    return SegmentationResult(
        image=inferred.image,
        labels=inferred.scores.labels(),
        classes=card.classes,
        palette=card.palette,
        token_counts=inferred.token_counts,
        token_maps=inferred.token_maps,
        plan=inferred.plan,
        scores=inferred.scores,
        patch_size=card.patch_size,
        name=name,
        file=file,
        dataset=card.dataset,
    )


def picture_item(file: str | os.PathLike[str] | bytes, key: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> Item[Any]:
    """A picture file, by its path or its bytes, for the pipeline."""
    return Item(
        key,
        load=lambda: decode_image(file, max_pixels=max_pixels),
        size=lambda: picture_size(file, max_pixels=max_pixels),
    )


def _item(picture: Picture, name: str, max_pixels: int) -> Item[_Names]:
    """A picture for the pipeline; `name` is for one in memory.

    An array is copied and a file read here and now: whoever reads pictures into one array writes over it as soon as it
    is taken, and whoever opens one file after the other closes it then.
    """
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        return picture_item(picture, _Names(path.stem, path.name), max_pixels)
    names = _Names(name)
    if _is_encoded(picture):
        try:
            return picture_item(file_bytes(picture), names, max_pixels)
        except DecodeError as error:
            return Item(names, load=partial(_refuse, error.cause), size=lambda: None)
    kept: Any = np.array(picture, order="C") if isinstance(picture, np.ndarray) else picture
    return Item(names, load=lambda: to_rgb(kept, max_pixels=max_pixels), size=lambda: _size_in_memory(kept))


def _is_encoded(given: object) -> TypeGuard[Encoded]:
    return isinstance(given, bytes | bytearray | memoryview) or hasattr(given, "read")


def _refuse(cause: str) -> NDArray[np.uint8]:
    """Fail a picture in its turn: the results of those before it come first."""
    raise DecodeError(cause)


def _is_one_picture(given: object) -> bool:
    """Whether that is one picture, which may be iterable all the same: letters of a path, rows of an array."""
    if isinstance(given, np.ndarray):
        return given.ndim < 4 and given.dtype.kind not in "OU"  # of objects or text: a list of pictures
    return isinstance(given, str | os.PathLike | Image.Image) or _is_encoded(given)


def _size_in_memory(picture: object) -> tuple[int, int] | None:
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    if isinstance(picture, np.ndarray) and picture.ndim >= 2:
        return picture.shape[0], picture.shape[1]
    return None
