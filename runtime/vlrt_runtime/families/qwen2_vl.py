"""Qwen2-VL at run time: patches of any size, M-RoPE positions (https://arxiv.org/abs/2409.12191)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.entities import Entity
from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.families import Family, Layout, Picture, expand
from vlrt_runtime.families.qwen2_vl_boxes import read_boxes
from vlrt_runtime.families.qwen2_vl_image import ImageParams, patchify
from vlrt_runtime.families.qwen2_vl_video import VideoParams, patchify_video
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.rope import frequencies, grid_table, mrope_table
from vlrt_runtime.text import TextCodec
from vlrt_runtime.video import Video

__all__ = ["Qwen2VL", "family", "mrope_positions"]

VISION_THETA = 10000.0  # fixed in the model's code


class RopeParams(msgspec.Struct, frozen=True):
    """The package's rope parameters."""

    theta: float
    sections: tuple[int, int, int]
    head_dim: int
    vision_head_dim: int


def family(manifest: Manifest, limits: Mapping[str, int]) -> Qwen2VL:
    """The family's half of a package.

    Raises:
        PackageError: a parameter is missing.
        InputError: the pixel limits cannot be met.
    """
    try:
        image = msgspec.convert({**manifest.image, **limits}, ImageParams)
        rope = msgspec.convert(manifest.rope, RopeParams)
        video = msgspec.convert(manifest.image.get("video", {}), VideoParams)
        tokens = {kind: manifest.tokens[kind] for kind in ("image", "video")}
    except (msgspec.ValidationError, KeyError) as error:
        raise PackageError(f"manifest.json: {error}; export the package again") from error
    if image.sizes and limits:
        sizes = ", ".join(f"{width}x{height}" for height, width in image.sizes)
        raise InputError(
            f"{', '.join(limits)}: the package sees pictures at {sizes}; leave the limit out"
        )
    if min(video.min_pixels, video.max_pixels, video.max_tokens) < 1:
        raise PackageError(f"manifest.json: {video}, expected limits above 0; export again")
    if not 0 < image.min_pixels <= image.max_pixels:
        raise InputError(
            f"pixel limits {image.min_pixels} to {image.max_pixels}: "
            "expected a minimum of at least 1 and no larger than the maximum"
        )
    return Qwen2VL(image, video.limited(limits), rope, tokens)


class Qwen2VL(Family):
    """See `vlrt_runtime.families.Family`."""

    def __init__(
        self, image: ImageParams, video: VideoParams, rope: RopeParams, tokens: Mapping[str, int]
    ) -> None:
        self.image, self.video_limits, self.rope, self.tokens = image, video, rope, tokens
        self._inverse = frequencies(rope.head_dim, rope.theta)
        self._vision_inverse = frequencies(rope.vision_head_dim // 2, VISION_THETA)

    def picture(self, image: Image.Image) -> Picture:
        """Patches of a picture, with the rotary tables of their rows and columns."""
        patches, grid = patchify(image, self.image)
        return Picture(*self._inputs(patches, grid), grid, image.size)

    def video(self, video: Video) -> Picture:
        """The same of a video: frames in pairs, each pair encoded by itself."""
        patches, grid, size = patchify_video(video, self.image, self.video_limits)
        return Picture(*self._inputs(patches, grid), grid, size, kind="video", runs=grid[0])

    def _inputs(
        self, patches: NDArray[np.float32], grid: tuple[int, int, int]
    ) -> tuple[dict[str, NDArray[Any]], int]:
        """The encoder's inputs, and how many positions they will take in the decoder."""
        merge = self.image.merge_size
        cos, sin = grid_table(patch_positions(grid, merge), self._vision_inverse)
        return {"pixel_values": patches[None], "cos": cos, "sin": sin}, len(patches) // merge**2

    def layout(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> Layout:
        """Placeholders repeated per merged patch; positions in time, row and column."""
        kinds = tuple(self.tokens.values())
        ids, slots = expand(token_ids, kinds, [p.tokens for p in pictures])
        places = [token for token in token_ids if token in kinds]
        if places != [self.tokens[picture.kind] for picture in pictures]:
            raise InputError(
                "prompt: its placeholders and what was given differ in kind; pictures and videos "
                "must be given in the order of their placeholders"
            )
        merged = [_merged(picture.grid, self.image.merge_size) for picture in pictures]
        prompt = mrope_positions(slots, merged)
        # After the prompt all three run on together from the largest so far.
        delta = int(prompt.max(initial=-1)) + 1 - len(ids)

        def inputs(embeds: NDArray[np.float32], start: int) -> dict[str, NDArray[Any]]:
            stop = start + embeds.shape[1]
            after = np.arange(max(start, len(ids)), stop, dtype=np.int64) + delta
            positions = np.concatenate([prompt[:, start:stop], np.tile(after, (3, 1))], 1)
            cos, sin = mrope_table(positions, self._inverse, self.rope.sections)
            return {"inputs_embeds": embeds, "cos": cos, "sin": sin}

        return Layout(ids, slots, inputs)

    def read(
        self, codec: TextCodec, prompt: Sequence[int], token_ids: Sequence[int]
    ) -> tuple[str, list[Entity]]:
        """The answer's text, and the boxes that its special tokens mark."""
        text = codec.decode(token_ids)
        entities = read_boxes(codec.decode(token_ids, special=True), codec.special_tokens())
        return text, entities


def _merged(grid: tuple[int, int, int], merge: int) -> tuple[int, int, int]:
    return grid[0], grid[1] // merge, grid[2] // merge


def patch_positions(grid: tuple[int, int, int], merge: int) -> NDArray[np.int64]:
    """Row and column of each patch, int64 [t * h * w, 2], in the order of merge blocks."""
    frames, height, width = grid
    rows, columns = np.indices((height, width))
    blocks = (height // merge, merge, width // merge, merge)
    ordered = [axis.reshape(blocks).transpose(0, 2, 1, 3).reshape(-1) for axis in (rows, columns)]
    return np.tile(np.stack(ordered, 1), (frames, 1))


def mrope_positions(
    slots: NDArray[np.bool_], grids: Sequence[tuple[int, int, int]]
) -> NDArray[np.int64]:
    """Time, row and column of every token of a prompt, int64 [3, s].

    Text counts up on all three. A picture at position p has time p, row p + r and column p + c;
    a video has time p + t. The text after it goes on from the largest of the three, as in training.
    (transformers 5 leaves time out, which differs where a video has more moments than rows and
    columns; 4.45, with which the model came out, had it.)

    Args:
        slots: bool [s], the picture tokens.
        grids: frames, rows and columns of each picture's merged patches.
    """
    positions = np.empty((3, len(slots)), np.int64)
    at = following = 0
    for grid in grids:
        start = at + int(np.argmax(slots[at:]))  # the picture's first token
        stop = start + grid[0] * grid[1] * grid[2]
        positions[:, at:start] = following + np.arange(start - at)
        following += start - at
        positions[:, start:stop] = following + np.indices(grid).reshape(3, -1)
        following, at = following + max(grid), stop
    positions[:, at:] = following + np.arange(len(slots) - at)
    return positions
