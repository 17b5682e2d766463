"""Mllama's pictures: scaled to fit a canvas of up to four square tiles, and cut into those.

Equal to the bit to transformers' `MllamaImageProcessorPil`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import ImageError
from vlrt_runtime.transforms import resize, to_normalized

__all__ = ["ImageParams", "canvas", "cut", "fit"]


class ImageParams(msgspec.Struct, frozen=True):
    """The package's image parameters.

    Attributes:
        tile_size: side of a tile, in pixels.
        max_tiles: that a picture is cut into at most; the encoder always sees so many.
        arrangements: rows and columns of every canvas; an aspect-ratio id is the place + 1.
        mean: of each channel.
        std: of each channel.
        rescale_factor: of bytes.
        resample: Pillow's number of the filter.
        max_pictures: of a prompt, where the package's sizes are fixed.
    """

    tile_size: int
    max_tiles: int
    arrangements: tuple[tuple[int, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_factor: float
    resample: int
    max_pictures: int | None = None


def canvas(height: int, width: int, params: ImageParams) -> tuple[int, int]:
    """Rows and columns of tiles for a picture.

    The canvas that enlarges it least, or else the one that shrinks it least; of several the
    smallest.
    """
    side = params.tile_size
    scales = {
        (rows, columns): min(rows * side / height, columns * side / width)
        for rows, columns in params.arrangements
    }
    enlarging = [scale for scale in scales.values() if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales.values())
    fitting = [shape for shape, scale in scales.items() if scale == chosen]
    return min(fitting, key=math.prod)  # the first where they are of one size


def fit(height: int, width: int, canvas: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width that a picture is scaled to, on a canvas of so many tiles."""
    most_height, most_width = canvas[0] * side, canvas[1] * side
    target_height = min(max(height, side), most_height)
    target_width = min(max(width, side), most_width)
    scale_height, scale_width = target_height / height, target_width / width
    if scale_width < scale_height:
        return min(math.floor(height * scale_width) or 1, target_height), target_width
    return target_height, min(math.floor(width * scale_height) or 1, target_width)


def cut(image: Image.Image, params: ImageParams) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Scales, normalises and cuts an RGB picture.

    Returns:
        Tiles float32 [max_tiles, 3, tile_size, tile_size], zeros where there are fewer, and how
        many rows and columns of them there are.

    Raises:
        ImageError: it has no pixels.
    """
    if min(image.size) < 1:
        raise ImageError(
            f"picture has no pixels: it is {image.width}x{image.height}; expected 1x1 or more"
        )
    side = params.tile_size
    rows, columns = canvas(image.height, image.width, params)
    height, width = fit(image.height, image.width, (rows, columns), side)
    padded = np.zeros((rows * side, columns * side, 3), np.uint8)
    scaled = resize(image, height=height, width=width, resample=params.resample)
    padded[:height, :width] = np.asarray(scaled)
    # What is left of the canvas is black and normalised with the picture; unused tiles are zero.
    pixels = to_normalized(padded, params.mean, params.std, params.rescale_factor)
    tiles = np.zeros((params.max_tiles, 3, side, side), np.float32)
    split = pixels.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
    tiles[: rows * columns] = split.reshape(-1, 3, side, side)
    return tiles, (rows, columns)
