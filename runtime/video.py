"""Videos: frames through the same pipeline as pictures, an overlay video and one file per frame out."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.decode import DecodeError, check_file, check_pixels
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.files import renamed_together
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.paths import printable
from algm_trt.runtime.pipeline import Inferred, Item, Work, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.records import Tally
from algm_trt.runtime.segmenter import make_result
from algm_trt.runtime.writers import KINDS, WriteError, WrittenFile, output_path, write_errors

_DEFAULT_FPS = 25.0  # for files that do not say
_LOG_ERRORS_ONLY = 2
_UTF8_ONLY = "OpenCV takes paths in UTF-8 only"


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's warnings off the screen: what they are about becomes an error of ours."""
    log = getattr(cv2.utils, "logging", cv2)  # up to OpenCV 4.12 the functions lie in cv2 itself
    level = log.getLogLevel()
    log.setLogLevel(_LOG_ERRORS_ONLY)
    try:
        yield
    finally:
        log.setLogLevel(level)


def _is_utf8(path: Path) -> bool:
    """Whether OpenCV may be given a path: with other bytes in it OpenCV 5.0 ends the process."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class _EndOfVideoError(Exception):
    """There is no such frame."""


class VideoReader:
    """Frames of one video, to be loaded from several threads, each when its turn comes.

    Attributes:
        size: height and width of the upright frames.
        fps: frames per second.
        frames: number of frames by the file's header, which may be wrong; 0 if it does not say.
    """

    def __init__(self, path: Path, max_pixels: int = DEFAULT_MAX_PIXELS):
        """Open a video.

        Args:
            path: of the file.
            max_pixels: larger frames are refused.

        Raises:
            DecodeError: not a file, not a video that OpenCV can read, a path that is not UTF-8, or frames too large.
        """
        check_file(path)
        if not _is_utf8(path):
            raise DecodeError(_UTF8_ONLY, path)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints would go to the screen
        try:
            with _quiet_opencv():
                self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        except (cv2.error, UnicodeError) as error:
            raise DecodeError(f"OpenCV cannot open it ({type(error).__name__})", path) from error
        width, height = (int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not self._capture.isOpened() or min(width, height) < 1:
            raise DecodeError("not a video that can be read", path)
        check_pixels(width, height, max_pixels, path)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.size = (height, width)
        self.fps = fps if np.isfinite(fps) and 0 < fps <= 1000 else _DEFAULT_FPS
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._turn = threading.Condition()
        self._next = 0
        self._ended = False

    def items(self) -> Iterator[Item[int]]:
        """Items of the pipeline for the frames, and a few beyond the end, which fail with _EndOfVideoError."""
        for index in itertools.count():
            if self._ended:
                return
            yield Item(index, load=lambda index=index: self._load(index), size=lambda: self.size)  # type: ignore[misc]

    def _load(self, index: int) -> NDArray[np.uint8]:
        """The frame `index`: (H, W, 3) uint8 RGB. Waits until those before it are read."""
        with self._turn:
            self._turn.wait_for(lambda: self._ended or self._next == index)
            frame = None
            try:
                if not self._ended:
                    _, frame = self._capture.read()
            finally:  # also where OpenCV raises: others wait for their turn
                self._next += 1
                self._ended = frame is None
                self._turn.notify_all()
        if frame is None:
            raise _EndOfVideoError
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)  # type: ignore[return-value]

    def close(self) -> None:
        """Wake whoever waits for a frame and release the file."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()
            self._capture.release()


@dataclass(frozen=True)
class SavedVideo:
    """The outputs of one video.

    Attributes:
        size: height and width of the frames.
        frames: number of frames.
        announced: number of frames by the file's header, which may be wrong; 0 if it does not say.
        work: on all frames.
        labelling: seconds of the work's last step, from scores to labels.
        tally: over all frames.
        files: overlay video and folders of frames, in the order of the kinds asked for.
    """

    size: tuple[int, int]
    frames: int
    announced: int
    work: Work
    labelling: float
    tally: Tally
    files: tuple[WrittenFile, ...]


def segment_video(
    engine: Engine,
    options: PipelineOptions,
    path: Path,
    folder: Path,
    name: str,
    kinds: Sequence[str],
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_frame: Callable[[], object] = lambda: None,
) -> SavedVideo:
    """Segment a video frame by frame.

    The overlay becomes a video, overlay/NAME.mp4, of the same frame rate and size (MPEG-4 holds even sizes only: an odd
    last row or column is left out). Every other kind becomes a folder of frames, such as labels/NAME/000000.png.
    Nothing appears under these names until the whole video is done.

    Args:
        engine: the model.
        options: of the pipeline.
        path: the video.
        folder: output folder.
        name: of the outputs.
        kinds: some of KINDS.
        max_pixels: larger frames are refused.
        on_frame: called after each frame.

    Raises:
        DecodeError: the video cannot be read.
        AlgmError: a frame failed, or the outputs cannot be written.
    """
    with closing(VideoReader(path, max_pixels)) as reader, write_errors(name, folder), renamed_together() as temporary:
        drafts = {kind: temporary(folder / video_target(kind, name), folder=kind != "overlay") for kind in kinds}
        still = {kind: draft for kind, draft in drafts.items() if kind != "overlay"}
        for draft in still.values():
            draft.mkdir()

        def finish(index: int, inferred: Inferred) -> _Frame:
            begin = time.perf_counter()
            result = make_result(engine.card, f"{name}/{index:06d}", inferred)
            labelling = time.perf_counter() - begin
            for kind, draft in still.items():
                KINDS[kind].write(result, draft / f"{index:06d}{KINDS[kind].suffix}")
            return _Frame(Tally.of(result), labelling, result.overlay() if "overlay" in drafts else None)

        tally, frames, work, labelling = Tally(), 0, Work(), 0.0
        with ExitStack() as open_while_running:
            overlay = None
            if "overlay" in drafts:
                overlay = open_while_running.enter_context(closing(_OverlayVideo(drafts["overlay"], reader)))
            outcomes = run_pipeline(engine, options, reader.items(), finish)
            for outcome in open_while_running.enter_context(closing(outcomes)):
                work += outcome.work
                if isinstance(outcome.error, _EndOfVideoError):
                    continue
                frame = outcome.result()
                tally, frames, labelling = tally + frame.tally, frames + 1, labelling + frame.labelling
                if overlay is not None and frame.overlay is not None:
                    overlay.add(frame.overlay)
                on_frame()
            if not frames:
                raise DecodeError("no frame of the video can be read", path)
            if overlay is not None:
                overlay.finish(frames)
        files = tuple(_written(video_target(kind, name), draft) for kind, draft in drafts.items())
    return SavedVideo(reader.size, frames, reader.frames, work, labelling, tally, files)


@dataclass(frozen=True)
class _Frame:
    """What is kept of a frame: its numbers, seconds from its scores to its labels, and (H, W, 3) uint8 RGB to show."""

    tally: Tally
    labelling: float
    overlay: NDArray[np.uint8] | None


class _OverlayVideo:
    """An MPEG-4 file that frames are added to; encoding runs beside the model."""

    def __init__(self, path: Path, reader: VideoReader):
        if not _is_utf8(path):  # also before `finish` reads the file
            raise WriteError(f"{printable(path.parent)}: {_UTF8_ONLY}; the other kinds of --save go anywhere")
        self._path = path
        self._encoder = ThreadPoolExecutor(1, "algm-encode")
        self._last: Future[None] | None = None
        height, width = reader.size
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with _quiet_opencv():
            self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, reader.fps, (width, height))
        if not self._writer.isOpened():
            raise WriteError(f"OpenCV cannot write a video of {width}x{height} pixels at {reader.fps:g} frames/s")

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append (H, W, 3) uint8 RGB once the frame before it is encoded."""
        if self._last is not None:
            self._last.result()
        self._last = self._encoder.submit(self._write, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _write(self, bgr: NDArray[Any]) -> None:
        self._writer.write(bgr)

    def finish(self, frames: int) -> None:
        """Complete the file and check it: the encoder does not report a full disk.

        Raises:
            WriteError: the file does not hold all frames.
        """
        self.close()
        with _quiet_opencv():
            video = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        written = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        if written != frames:
            raise WriteError(f"the overlay video holds {written} of {frames} frames: is the disk full?")

    def close(self) -> None:
        self._encoder.shutdown(wait=True)
        self._writer.release()


def video_target(kind: str, name: str) -> Path:
    """Path below the output folder of a video's outputs of one kind."""
    frame = output_path(kind, name)
    return frame.with_suffix(".mp4") if kind == "overlay" else frame.with_suffix("")


def _written(target: Path, draft: Path) -> WrittenFile:
    if draft.is_dir():
        sizes = [entry.stat().st_size for entry in os.scandir(draft)]
        return WrittenFile(target.as_posix(), sum(sizes), len(sizes))
    return WrittenFile(target.as_posix(), draft.stat().st_size)
