"""Videos: a file to a few upright RGB frames, evenly spaced, the way transformers chooses them.

A file is read in order, twice: once to count its frames, once to decode them. Only the frames that
are taken are kept, each as small as the caller makes it; never the whole video.

- Which frames: as `Qwen2VLVideoProcessor` samples at a rate: an even number, at least four where
  there are so many, by their index in the file, so that time is taken to pass evenly.
- Whatever cannot be used is a `VideoError` that names the file.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import InputError, MissingDependencyError, VideoError
from vlrt_runtime.image import ImageSource, load_image, open_file
from vlrt_runtime.video_file import count_frames, decoded, pick

__all__ = ["Video", "VideoSource", "as_video", "load_video", "sample_indices"]

FPS = 2.0  # frames taken a second, as the published model was trained and evaluated
MIN_FRAMES = 4  # taken even of a short video, if it has them
DEFAULT_FRAMES = 64  # half a minute at FPS; the published limit means minutes of encoding
MOST_FRAMES = 768  # the published limit

VideoSource: TypeAlias = str | os.PathLike[str] | Sequence[ImageSource] | NDArray[Any]
Fit: TypeAlias = Callable[[Image.Image, int], Image.Image]
"""A frame as it is, and how many there will be, to the frame as it is kept."""


@dataclass(frozen=True)
class Video:
    """A video to ask about, and which of its frames to look at.

    Attributes:
        source: the path of a file; or ready frames, which are all taken: a list of pictures as
            `load_image` takes them, or one array [frames, height, width, 3].
        fps: frames to take of each second of a file; 2 where not given.
        max_frames: frames to take of a file at most, spread over all of it; 64 where not given.
    """

    source: VideoSource
    fps: float | None = None
    max_frames: int | None = None

    def frames(self, fit: Fit) -> list[Image.Image]:
        """The frames, each as `fit` makes it.

        Raises:
            VideoError: the video is missing, damaged, too long or of a kind that cannot be read.
            ImageError: one of the ready frames cannot be used.
            InputError: an option cannot be used.
            MissingDependencyError: files need PyAV, the `video` extra.
        """
        if isinstance(self.source, str | os.PathLike):
            return load_video(self.source, fps=self.fps, max_frames=self.max_frames, fit=fit)
        if not isinstance(self.source, Sequence | np.ndarray) or isinstance(  # pyright: ignore[reportUnnecessaryIsInstance]
            self.source, bytes | bytearray | memoryview
        ):
            raise VideoError(
                "not a video: expected a path or a list of frames, "
                f"got {type(self.source).__name__}"
            )
        if self.fps is not None or self.max_frames is not None:
            raise InputError(
                "fps and max_frames: for video files; of a list of frames all are taken, "
                "so leave some out of it"
            )
        if not 1 <= len(self.source) <= MOST_FRAMES:
            raise VideoError(f"video of {len(self.source)} frames: expected 1 to {MOST_FRAMES}")
        count = len(self.source)
        loaded = (load_image(cast("ImageSource", frame)) for frame in self.source)
        return [fit(frame, count) for frame in _same_size(loaded, "the list of frames")]


def as_video(source: VideoSource | Video) -> Video:
    """A `Video`, with the usual rate where only its source is given."""
    return source if isinstance(source, Video) else Video(source)


def load_video(
    path: str | os.PathLike[str],
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    fit: Fit = lambda frame, _: frame,
) -> list[Image.Image]:
    """Reads some of a video file's frames, upright and in mode RGB.

    Args:
        path: a file of one of `vlrt_runtime.video_file.FORMATS`.
        fps: frames to take a second; 2 where not given.
        max_frames: frames to take at most, spread over the whole video; 64 where not given.
        fit: makes each frame smaller as it comes, so that large ones are not all held.

    Raises:
        VideoError: the file is missing, damaged, too long or of a kind that cannot be read.
        InputError: an option cannot be used.
        MissingDependencyError: PyAV is not installed.
    """
    rate, most = FPS if fps is None else fps, DEFAULT_FRAMES if max_frames is None else max_frames
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"fps {rate!r}: expected a number above 0")
    if not isinstance(most, int) or not 2 <= most <= MOST_FRAMES:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"max_frames {most!r}: expected a whole number from 2 to {MOST_FRAMES}")
    try:
        av: Any = importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "video files need PyAV, which is not installed: pip install 'vlrt[video]'; "
            "a list of frames needs nothing"
        ) from error
    name = f"'{os.fsdecode(path)}'"
    with open_file(path, "video", VideoError) as file:
        total, own_rate = count_frames(av, file, name)
        while True:
            wanted = sample_indices(total, own_rate, fps=rate, max_frames=most)
            frames = [
                fit(frame, len(wanted))
                for frame in _same_size(pick(decoded(av, file, name), wanted), name)
            ]
            if len(frames) == len(wanted):
                return frames
            # Some formats count frames that are not for showing; so count those that are shown.
            shown = sum(1 for _ in decoded(av, file, name))
            if not 0 < shown < total:
                raise VideoError(f"video damaged: {name} has no frame that can be decoded")
            total = shown


def sample_indices(total: int, rate: float, *, fps: float, max_frames: int) -> list[int]:
    """Which frames of a video to take: evenly spaced, the first among them.

    Args:
        total: frames of the video.
        rate: its frames a second.
        fps: frames to take a second.
        max_frames: frames to take at most.
    """
    most = min(max_frames, total) // 2 * 2
    count = int(min(max(total / rate * fps, MIN_FRAMES), most)) // 2 * 2
    if count < 2:  # a single frame, which will be repeated
        return [0]
    # In whole numbers: the reference's float32 is one off now and then, by the kind of processor.
    return [place * total // count for place in range(count)]


def _same_size(frames: Iterator[Image.Image], name: str) -> Generator[Image.Image]:
    first: tuple[int, int] | None = None
    for number, frame in enumerate(frames):
        first = first or frame.size
        if frame.size != first:
            raise VideoError(
                f"frames of several sizes: {name}: frame {number} is "
                f"{frame.width}x{frame.height}, the first {first[0]}x{first[1]}; "
                "make them equal"
            )
        yield frame
