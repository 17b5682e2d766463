"""Drawn videos for tests: every frame tells its number, so that a test sees which were taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

__all__ = ["number_of", "numbered_frame", "write_video"]

STEP = 4  # grey levels between two frames: far more than a codec's error


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    """A grey frame, the brighter the later, with a red corner at the top left."""
    frame = np.full((height, width, 3), 16 + STEP * number, np.uint8)
    frame[: height // 3, : width // 3] = (200, 0, 0)
    return frame


def number_of(frame: Image.Image) -> int:
    """The number of a frame that was decoded upright."""
    grey = np.asarray(frame)[frame.height // 2 :, frame.width // 2 :]
    return round((float(grey.mean()) - 16) / STEP)


def write_video(
    path: Path,
    frames: int | Sequence[np.ndarray] = 20,
    *,
    rate: int = 10,
    size: tuple[int, int] = (48, 32),
    codec: str = "mpeg4",
    rotation: int = 0,
    sound: bool = False,
    **options: str,
) -> Path:
    """A video of numbered frames, or of these; `rotation` is left to the player, anticlockwise."""
    if isinstance(frames, int):
        frames = [numbered_frame(number, *size) for number in range(frames)]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate) if frames else None
        tone = container.add_stream("aac", rate=16000) if sound else None
        if stream is not None:
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
            if rotation:
                stream.set_display_rotation(rotation)
            for array in frames:
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if tone is not None:
            silence = np.zeros((1, 16000), np.float32)
            samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            samples.sample_rate = 16000
            container.mux(tone.encode(samples))
            container.mux(tone.encode())
    return path
