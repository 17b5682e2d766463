"""Qwen2-VL's videos: frames of one size, within limits on each and on all of them together.

Frames are resized by Pillow, as pictures are; transformers' video processor resizes by torchvision,
whose bytes differ here and there by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.families.qwen2_vl_image import ImageParams, patchify_frames
from vlrt_runtime.transforms import resize
from vlrt_runtime.video import Video

__all__ = ["VideoParams", "patchify_video"]

_SLACK = 1.05  # fixed in the reference: frames are never squeezed down to the minimum itself


@dataclass(frozen=True, kw_only=True)
class VideoParams:
    """The package's limits on videos: `image["video"]` of the manifest, or else these.

    Attributes:
        min_pixels: frames are scaled up to this area; the published 128 tokens of 28 x 28.
        max_pixels: frames are scaled down to this area; the published 768 tokens.
        max_tokens: of all frames together, which share it evenly, as long as each may have
            `min_pixels` and a little more. The published 115,200 (90 % of 128,000) are hours of
            work on a small device; 4,096 are a minute or so.
    """

    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    max_tokens: int = 4096

    def limited(self, limits: Mapping[str, int]) -> VideoParams:
        """With the user's `min_pixels` and `max_pixels`, which may only lower the maximum."""
        high = min(self.max_pixels, limits.get("max_pixels", self.max_pixels))
        return replace(
            self, max_pixels=high, min_pixels=min(limits.get("min_pixels", self.min_pixels), high)
        )

    def frame_pixels(self, frames: int, image: ImageParams) -> int:
        """The largest area of one of so many frames."""
        # One token covers `factor` x `factor` pixels of `temporal_patch_size` frames.
        factor = image.patch_size * image.merge_size
        share = self.max_tokens * factor**2 * image.temporal_patch_size // frames
        return min(self.max_pixels, max(share, int(self.min_pixels * _SLACK)))


def patchify_video(
    video: Video, image: ImageParams, limits: VideoParams
) -> tuple[NDArray[np.float32], tuple[int, int, int], tuple[int, int]]:
    """Reads, resizes, normalises and cuts: patches, the grid (t, h, w), the frames' own size."""
    size = (0, 0)

    def fit(frame: Image.Image, count: int) -> Image.Image:
        nonlocal size
        size = frame.size
        height, width = image.target(
            frame.height,
            frame.width,
            min_pixels=limits.min_pixels,
            max_pixels=limits.frame_pixels(count, image),
        )
        return resize(frame, height=height, width=width, resample=image.resample)

    frames = [np.asarray(frame) for frame in video.frames(fit)]
    return *patchify_frames(frames, image), size
