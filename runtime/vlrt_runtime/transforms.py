"""Steps from a picture to an encoder's input that the families share: pure functions, no defaults.

The reference is the PIL path of transformers' image processors, equal to the bit; its torchvision
path resizes and rounds differently in the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["center_crop", "normalization_table", "resize", "shortest_edge", "to_normalized"]


def resize(image: Image.Image, *, height: int, width: int, resample: int) -> Image.Image:
    """Resizes with Pillow's filter `resample`, numbered as in `preprocessor_config.json`.

    An image that has the size is returned as it is: the filters change nothing there.
    """
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling(resample))


def shortest_edge(image: Image.Image, *, edge: int, resample: int) -> Image.Image:
    """Resizes so that the shorter side is `edge`; the other is rounded down."""
    short, long = sorted(image.size)
    other = int(edge * long / short)
    width, height = (edge, other) if image.width <= image.height else (other, edge)
    return resize(image, height=height, width=width, resample=resample)


def center_crop(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle of a picture that is nowhere smaller."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def normalization_table(
    mean: Sequence[float], std: Sequence[float], rescale: float
) -> NDArray[np.float32]:
    """What each of the 256 values of a byte becomes in each channel: [C, 256].

    Rescaled in float64 and rounded to float32, then subtracted and divided in float32: the order
    decides the last bit.
    """
    rescaled = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    means = np.asarray(mean, dtype=np.float32)[:, None]
    stds = np.asarray(std, dtype=np.float32)[:, None]
    return (rescaled - means) / stds


def to_normalized(
    pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], rescale: float
) -> NDArray[np.float32]:
    """Normalises bytes [H, W, C] to float32 [C, H, W], by lookup: the same bits, sooner."""
    table = normalization_table(mean, std, rescale)
    height, width, channels = pixels.shape
    normalized = np.empty((channels, height, width), np.float32)
    for channel in range(channels):
        # A byte is always within the table; mode "raise" would buffer the output to make sure.
        np.take(table[channel], pixels[:, :, channel], out=normalized[channel], mode="clip")
    return normalized
