"""What families share whose encoder sees one square picture and whose decoder is a plain Llama.

Pictures are equal to the bit to transformers' PIL processors: squashed to the square, or scaled by
the shorter side and cut to the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import ImageError, InputError, PackageError
from vlrt_runtime.families import Family, Layout, Picture, expand
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.rope import frequencies, rope_table
from vlrt_runtime.transforms import center_crop, resize, shortest_edge, to_normalized

__all__ = ["ImageParams", "SquareFamily", "square_picture"]

# Beyond it, scaling by the shorter side would need tens of megabytes to show a sliver.
MAX_RATIO = 100


class ImageParams(msgspec.Struct, frozen=True):
    """The package's image parameters.

    Attributes:
        size: side of the square, in pixels.
        patch_size: side of a patch.
        tokens: positions that a picture takes in the decoder.
        mean: of each channel.
        std: of each channel.
        rescale_factor: of bytes.
        resample: Pillow's number of the filter.
        shortest_edge: what the shorter side is scaled to; None where pictures are squashed.
    """

    size: int
    patch_size: int
    tokens: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_factor: float
    resample: int
    shortest_edge: int | None = None


class RopeParams(msgspec.Struct, frozen=True):
    """The package's rope parameters."""

    theta: float
    head_dim: int


class SquareFamily(Family):
    """See `vlrt_runtime.families.Family`.

    Args:
        manifest: of the package.
        limits: pixel limits; these families have none to change.

    Raises:
        PackageError: a parameter is missing.
        InputError: pixel limits are given.
    """

    def __init__(self, manifest: Manifest, limits: Mapping[str, int]) -> None:
        try:
            self.image = msgspec.convert(manifest.image, ImageParams)
            rope = msgspec.convert(manifest.rope, RopeParams)
            self.image_token = manifest.tokens["image"]
        except (msgspec.ValidationError, KeyError) as error:
            raise PackageError(f"manifest.json: {error}; export the package again") from error
        if limits:
            side = self.image.size
            raise InputError(
                f"{', '.join(limits)}: {manifest.name} sees every picture at {side}x{side}; "
                "leave the limit out"
            )
        self._inverse = frequencies(rope.head_dim, rope.theta)

    def picture(self, image: Image.Image) -> Picture:
        """The picture as a square."""
        pixels = square_picture(image, self.image)
        side = self.image.size // self.image.patch_size
        grid = (1, side, side)
        return Picture({"pixel_values": pixels}, self.image.tokens, grid, image.size)

    def layout(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> Layout:
        """Placeholders repeated per row of features; positions count up."""
        ids, slots = expand(token_ids, self.image_token, [p.tokens for p in pictures])

        def inputs(embeds: NDArray[np.float32], start: int) -> dict[str, NDArray[Any]]:
            cos, sin = rope_table(start, embeds.shape[1], self._inverse)
            return {"inputs_embeds": embeds, "cos": cos, "sin": sin}

        return Layout(ids, slots, inputs)


def square_picture(image: Image.Image, params: ImageParams) -> NDArray[np.float32]:
    """pixel_values [1, 3, size, size] of an RGB picture.

    Raises:
        ImageError: it has no pixels, or is too narrow to scale by its shorter side.
    """
    if min(image.size) < 1:
        raise ImageError(f"picture has no pixels: it is {image.width}x{image.height}")
    if params.shortest_edge is None:
        made = resize(image, height=params.size, width=params.size, resample=params.resample)
    else:
        ratio = max(image.size) / min(image.size)
        if ratio > MAX_RATIO:
            raise ImageError(
                f"picture too narrow: {image.width}x{image.height} has an aspect ratio of "
                f"{ratio:.6g}; expected at most {MAX_RATIO}; crop it"
            )
        made = shortest_edge(image, edge=params.shortest_edge, resample=params.resample)
        made = center_crop(made, params.size)
    pixels = np.asarray(made)
    return to_normalized(pixels, params.mean, params.std, params.rescale_factor)[None]
