"""A video file by PyAV: its frames counted without decoding, then decoded one after the other.

- The rotation that phones note beside the pixels is applied; quarter turns are all there are.
- Containers are told by their first bytes, and few are read: others name further files to open.
- Whatever cannot be used is a `VideoError` that names the file.

`av` is the library, given by the caller: it is imported where a video is read, and only there.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from vlrt_runtime.errors import VideoError, VlrtError
from vlrt_runtime.image import MAX_PIXELS, ImageWarning

__all__ = ["FORMATS", "count_frames", "decoded", "pick"]

FORMATS = ("MP4", "MOV", "MKV", "WebM", "AVI")

MAX_SECONDS = 2 * 60 * 60  # all of a file is decoded up to the last frame taken
MAX_COUNT = MAX_SECONDS * 120  # frames of a file, whatever it says its rate is
QUARTER_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def count_frames(av: Any, file: BinaryIO, name: str) -> tuple[int, float]:
    """Frames of a video, and frames a second, without decoding one."""
    total = 0
    with _opened(av, file, name) as (container, stream):
        last = 0.0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError(
                    f"video cut short: {name} ends within frame {total}; copy or save it again"
                )
            total += packet.size > 0 and not packet.is_discard
            if total > MAX_COUNT:
                raise VideoError(f"video too long: {name} has more than {MAX_COUNT} frames; cut it")
            if packet.pts is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if total == 0:
            raise VideoError(f"video empty or cut short: {name} holds no frame; save it again")
        rate = float(stream.average_rate or stream.guessed_rate or 0) or (last and total / last)
        length = float(container.duration or 0) / av.time_base
    if not rate:
        raise VideoError(f"video without a frame rate: {name}; convert it to MP4")
    if total / rate > MAX_SECONDS:
        raise VideoError(
            f"video too long: {name} lasts {total / rate:.0f} s; expected at most {MAX_SECONDS}; "
            "cut it"
        )
    if last and length > 1.25 * last + 1:
        warnings.warn(
            f"{name}: its pictures end after {last:.1f} s of {length:.1f} s; is it complete?",
            ImageWarning,
            stacklevel=4,
        )
    return total, rate


def decoded(av: Any, file: BinaryIO, name: str) -> Generator[Any]:
    """Every frame, one after the other."""
    with _opened(av, file, name) as (container, stream):
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def pick(frames: Generator[Any], wanted: Sequence[int]) -> Generator[Image.Image]:
    """The frames at these indices, converted; it does not read on after the last."""
    following = iter(wanted)
    index = next(following)
    for place, frame in enumerate(frames):
        if place == index:
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
            turn = QUARTER_TURNS.get(round(frame.rotation / 90) * 90 % 360)
            yield image if turn is None else image.transpose(turn)
            index = next(following, -1)
            if index < 0:
                frames.close()
                return


@contextmanager
def _opened(av: Any, file: BinaryIO, name: str) -> Generator[tuple[Any, Any]]:
    """The container and its first stream of pictures; errors of reading become `VideoError`."""
    file.seek(0)
    kind = _container(header := file.read(16), name)
    file.seek(0)
    # Tags are not looked at, so they may be in any encoding; from 19 on PyAV is never strict.
    old = int(av.__version__.partition(".")[0]) < 19
    options: dict[str, Any] = {"metadata_errors": "replace"} if old else {}
    try:
        with av.open(file, format=kind, **options) as container:
            if not container.streams.video:
                raise VideoError(f"no pictures in it: {name} has only sound; give a video")
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MAX_PIXELS:
                raise VideoError(
                    f"video too large: {name} is {width}x{height}; expected at most "
                    f"{MAX_PIXELS} pixels a frame; make it smaller"
                )
            yield container, stream
    except VlrtError:
        raise
    except Exception as error:  # PyAV's own, and whatever else foreign bytes lead to
        raise VideoError(
            f"video damaged or of an unknown kind: {name}, which starts with {header!r}, cannot be "
            f"decoded ({getattr(error, 'strerror', None) or error}); convert or save it again"
        ) from error


def _container(header: bytes, name: str) -> str:
    """FFmpeg's name of the container that starts with these bytes."""
    if header[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if header.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if header[:4] == b"RIFF" and header[8:12] == b"AVI ":
        return "avi"
    if not header:
        raise VideoError(f"empty video: {name} has 0 bytes; save or copy it again")
    raise VideoError(
        f"not a video that can be read: {name} starts with {header!r}; expected one of "
        f"{', '.join(FORMATS)}; convert it to MP4"
    )
