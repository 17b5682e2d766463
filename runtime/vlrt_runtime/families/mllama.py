"""Llama 3.2 Vision at run time: text looks at pictures across, and no position is theirs.

A picture takes one position, its token's own; the decoder's layers between look at its keys and
values (https://arxiv.org/abs/2407.21783, section 7.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.families import Family, Layout, Picture, expand
from vlrt_runtime.families.mllama_image import ImageParams, cut
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.rope import Llama3Scaling, frequencies, llama3_frequencies, rope_table
from vlrt_runtime.text import TextCodec

__all__ = ["Mllama", "family", "visible_tiles"]

# Scores of one layer take 0.8 MB for each position and each picture at 560 pixels.
PREFILL_ROWS = 256
HIDDEN = np.finfo(np.float32).min  # added to a score that must not count


class RopeParams(msgspec.Struct, frozen=True):
    """The package's rope parameters; `scaling` is Llama 3.1's, where there is one."""

    theta: float
    head_dim: int
    scaling: Llama3Scaling | None


def family(manifest: Manifest, limits: Mapping[str, int]) -> Mllama:
    """The family's half of a package.

    Raises:
        PackageError: a parameter is missing.
        InputError: pixel limits are given.
    """
    try:
        image = msgspec.convert(manifest.image, ImageParams)
        rope = msgspec.convert(manifest.rope, RopeParams)
        tokens = manifest.tokens["image"], manifest.tokens["bos"]
    except (msgspec.ValidationError, KeyError) as error:
        raise PackageError(f"manifest.json: {error}; export the package again") from error
    if limits:
        raise InputError(
            f"{', '.join(limits)}: {manifest.name} sees every picture as {image.max_tiles} tiles "
            f"of {image.tile_size}x{image.tile_size}; leave the limit out"
        )
    return Mllama(image, rope, *tokens)


class Mllama(Family):
    """See `vlrt_runtime.families.Family`."""

    def __init__(
        self, image: ImageParams, rope: RopeParams, image_token: int, bos_token: int
    ) -> None:
        self.image, self.image_token, self.bos_token = image, image_token, bos_token
        inverse = frequencies(rope.head_dim, rope.theta)
        self._inverse = llama3_frequencies(inverse, rope.scaling) if rope.scaling else inverse

    def picture(self, image: Image.Image) -> Picture:
        """Tiles, and which arrangement they have; `grid` counts tiles."""
        tiles, shape = cut(image, self.image)
        ratio = np.array([self.image.arrangements.index(shape) + 1], np.int64)
        inputs = {"pixel_values": tiles[None], "aspect_ratio_id": ratio}
        return Picture(inputs, 1, (1, *shape), image.size)

    def token_ids(self, text: str, pictures: int, codec: TextCodec) -> list[int]:
        """Ids with one BOS: the text's own, or else one in front, behind pictures that lead.

        Raises:
            InputError: there are more pictures than the package has room for.
        """
        most = self.image.max_pictures
        if most is not None and pictures > most:
            raise InputError(
                f"images: {pictures} pictures, and this package was exported for {most} a prompt; "
                "ask of one at a time, or export with --target onnx"
            )
        ids = codec.encode(text, bare=True)
        if self.bos_token in ids:
            return ids
        lead = next((i for i, token in enumerate(ids) if token != self.image_token), len(ids))
        return [*ids[:lead], self.bos_token, *ids[lead:]]

    def layout(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> Layout:
        """Every token keeps its embedding; masks say which tiles it looks at."""
        ids, places = expand(token_ids, self.image_token, [p.tokens for p in pictures])
        tiles = [picture.grid[1] * picture.grid[2] for picture in pictures]
        seen = visible_tiles(places, tiles, self.image.max_tiles)
        rows = np.asarray(seen.any(axis=1, keepdims=True))
        # Text before all pictures looks at everything: so it was trained.
        mask = np.where(seen | ~rows, np.float32(0), HIDDEN)
        whole = rows.astype(np.float32)

        def inputs(embeds: NDArray[np.float32], start: int) -> dict[str, NDArray[Any]]:
            count = embeds.shape[1]
            cos, sin = rope_table(start, count, self._inverse)
            # The answer looks at what the last token of the prompt does.
            at = np.minimum(np.arange(start, start + count, dtype=np.int64), len(ids) - 1)
            return {
                "inputs_embeds": embeds,
                "cos": cos,
                "sin": sin,
                "cross_attention_mask": mask[at][None],
                "cross_attention_rows": whole[at][None],
            }

        at_a_time = max(1, PREFILL_ROWS // len(pictures)) if pictures else None
        slots = np.zeros(len(ids), np.bool_)
        return Layout(ids, slots, inputs, prefill_rows=at_a_time, placeholders=places)


def visible_tiles(
    places: NDArray[np.bool_], tiles: Sequence[int], max_tiles: int
) -> NDArray[np.bool_]:
    """Which tiles each token looks at, bool [s, pictures * max_tiles].

    A picture is seen from its token to the next picture; pictures side by side are seen together.

    Args:
        places: bool [s], the pictures' tokens.
        tiles: how many each picture has.
        max_tiles: that a picture can have.
    """
    seen = np.zeros((len(places), len(tiles), max_tiles), np.bool_)
    starts = np.flatnonzero(places).tolist()
    following = stop = len(places)
    for picture in reversed(range(len(tiles))):
        if following != starts[picture] + 1:
            stop = following
        following = starts[picture]
        seen[following:stop, picture, : tiles[picture]] = True
    return seen.reshape(len(places), -1)
