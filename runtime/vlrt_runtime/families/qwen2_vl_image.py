"""Qwen2-VL's pictures: any size becomes a grid of patches, in the order the encoder takes them.

Equal to the bit to transformers' `Qwen2VLImageProcessorPil`. A patch is one row: channel, frame,
row, column. Patches come in blocks of merge_size x merge_size, for the merger to fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import ImageError
from vlrt_runtime.transforms import resize, to_normalized

__all__ = ["ImageParams", "nearest_size", "patchify", "patchify_frames", "smart_resize"]

_MAX_RATIO = 200  # fixed in the reference, not in its configuration


@dataclass(frozen=True, kw_only=True)
class ImageParams:
    """The package's image parameters, named as in the checkpoint's `preprocessor_config.json`."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_factor: float
    resample: int
    sizes: tuple[tuple[int, int], ...] = ()  # (height, width): all that graphs of fixed size take

    def target(
        self,
        height: int,
        width: int,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> tuple[int, int]:
        """The size (height, width) that a picture is resized to, within limits of its area."""
        if self.sizes:
            return nearest_size(height, width, self.sizes)
        return smart_resize(
            height,
            width,
            factor=self.patch_size * self.merge_size,
            min_pixels=self.min_pixels if min_pixels is None else min_pixels,
            max_pixels=self.max_pixels if max_pixels is None else max_pixels,
        )


def nearest_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size (height, width) whose aspect ratio is nearest; of equals the largest.

    A ratio is as far from its double as from its half.
    """
    _check(height, width)
    ratio = math.log(height / width)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - ratio), -math.prod(size)))


def _check(height: int, width: int) -> None:
    if min(height, width) < 1:
        raise ImageError(f"picture has no pixels: it is {width}x{height}; expected 1x1 or more")
    ratio = max(height, width) / min(height, width)
    if ratio > _MAX_RATIO:
        raise ImageError(
            f"picture too narrow: {width}x{height} has an aspect ratio of {ratio:.6g}; "
            f"expected at most {_MAX_RATIO}; crop it"
        )


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The size (height, width) to resize to: multiples of `factor`, the area within the limits.

    The aspect ratio is kept as nearly as that allows.
    """
    _check(height, width)
    # Python's round, halves to even, as the reference: 42 becomes 56, and so does 70.
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def patchify(
    image: Image.Image, params: ImageParams
) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Resizes, normalises and cuts an RGB picture: patches [n, C*T*p*p] and the grid (t, h, w)."""
    height, width = params.target(image.height, image.width)
    resized = resize(image, height=height, width=width, resample=params.resample)
    return patchify_frames([np.asarray(resized)], params)


def patchify_frames(
    frames: Sequence[NDArray[np.uint8]], params: ImageParams
) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Normalises and cuts frames [H, W, C] of one size, a multiple of patch_size * merge_size.

    The last frame is repeated until they fill whole temporal patches; a picture is one frame.
    """
    patch, merge, depth = params.patch_size, params.merge_size, params.temporal_patch_size
    height, width, channels = frames[0].shape
    grid = -(-len(frames) // depth), height // patch, width // patch
    down, across = grid[1] // merge, grid[2] // merge
    patches = np.empty(
        (grid[0], down, across, merge, merge, channels, depth, patch, patch), np.float32
    )
    block = patch * merge
    for index, frame in enumerate(frames):
        first = index % depth
        slots = slice(first, first + 1 if index + 1 < len(frames) else depth)
        # Strip by strip: what is read again then lies in the cache, which halves the time.
        for row in range(down):
            strip = frame[row * block : (row + 1) * block]
            pixels = to_normalized(strip, params.mean, params.std, params.rescale_factor)
            cut = np.reshape(pixels, (channels, merge, patch, across, merge, patch))
            ordered = np.transpose(cut, (3, 1, 4, 0, 2, 5))  # [across, merge, merge, C, p, p]
            patches[index // depth, row, ..., slots, :, :] = ordered[..., None, :, :]
    return np.reshape(patches, (math.prod(grid), -1)), grid
