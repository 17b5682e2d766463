"""Drawn pictures for tests: of any size, the same every time, too sharp for a wrong resize."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["checker", "gradient", "picture"]


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards, blue is their mean: no two columns or rows alike."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    red = columns / max(width - 1, 1)
    green = rows / max(height - 1, 1)
    return _image(np.stack([red, green, (red + green) / 2], axis=-1))


def checker(width: int, height: int, *, cell: int = 11) -> Image.Image:
    """Black and cream squares; the last ones are cut off unless `cell` divides the size."""
    rows, columns = np.mgrid[0:height, 0:width]
    dark = (rows // cell + columns // cell) % 2
    return _image(np.where(dark[..., None] == 1, 0.05, np.array([1.0, 0.95, 0.8])))


def picture(width: int, height: int) -> Image.Image:
    """A gradient with a checker laid over it: smooth and sharp parts in every region."""
    smooth = np.asarray(gradient(width, height), dtype=np.float64)
    sharp = np.asarray(checker(width, height, cell=9), dtype=np.float64)
    return _image((0.6 * smooth + 0.4 * sharp) / 255)


def _image(pixels: np.ndarray) -> Image.Image:
    """An RGB picture of `pixels` [height, width, 3] between 0 and 1."""
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
