"""Kosmos-2 at run time (https://arxiv.org/abs/2306.14824): a text that goes on, with boxes in it.

A prompt has at most one picture, in front. There is no chat: the answer's text is the whole
caption, prompt included, and spans refer to it. Positions are sinusoids, added to the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.entities import Entity
from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.families import Family, Layout, Picture, Reason
from vlrt_runtime.families.kosmos2_text import clean_up, read_caption
from vlrt_runtime.families.square import ImageParams, square_picture
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.text import TextCodec, stream_read

__all__ = ["Kosmos2", "family", "sinusoids"]

FIRST = 2  # position of a prompt's first token
PADDING = 1  # position of padding: a row of zeros
WAVELENGTH = 10000.0  # all three are fixed in the model's code


class PositionParams(msgspec.Struct, frozen=True):
    """The package's parameters of positions."""

    width: int
    padding_id: int
    embed_scale: float


class TokenIds(msgspec.Struct, frozen=True):
    """The package's special ids; a picture's slots have the ids from `first_slot` on."""

    bos: int
    image: int
    image_end: int
    first_slot: int


def family(manifest: Manifest, limits: Mapping[str, int]) -> Kosmos2:
    """The family's half of a package.

    Raises:
        PackageError: a parameter is missing.
        InputError: pixel limits, where every picture becomes the same size.
    """
    if limits:
        raise InputError(
            f"{', '.join(limits)}: Kosmos-2 sees every picture at one size; leave the limit out"
        )
    try:
        image = msgspec.convert(manifest.image, ImageParams)
        positions = msgspec.convert(manifest.rope, PositionParams)
        tokens = msgspec.convert(manifest.tokens, TokenIds)
    except msgspec.ValidationError as error:
        raise PackageError(f"manifest.json: {error}; export the package again") from error
    return Kosmos2(image, positions, tokens, cleans=bool(manifest.text.get("clean_up")))


@dataclass(frozen=True, kw_only=True)
class _Layout(Layout):
    params: PositionParams

    def step(
        self, token_ids: NDArray[np.int64], embeds: NDArray[np.float32], start: int
    ) -> dict[str, NDArray[Any]]:
        """As the base says; padding has no position."""
        padding = (token_ids == self.params.padding_id)[None, :, None]
        placed = self.inputs(embeds, start)["inputs_embeds"]
        return {"inputs_embeds": np.where(padding, embeds * self.params.embed_scale, placed)}


class Kosmos2(Family):
    """See `vlrt_runtime.families.Family`."""

    def __init__(
        self, image: ImageParams, positions: PositionParams, tokens: TokenIds, *, cleans: bool
    ) -> None:
        self.image, self.positions, self.tokens, self.cleans = image, positions, tokens, cleans

    def picture(self, image: Image.Image) -> Picture:
        """The picture squashed to a square."""
        pixels = square_picture(image, self.image)
        return Picture({"pixel_values": pixels}, self.image.tokens, (1, 1, 1), image.size)

    def token_ids(self, text: str, pictures: int, codec: TextCodec) -> list[int]:
        """Start, the picture's two tags, the text; nothing behind it."""
        if pictures > 1:
            raise InputError(f"pictures: {pictures} given, Kosmos-2 takes 1 in a prompt")
        tags = [self.tokens.image, self.tokens.image_end] * pictures
        return [self.tokens.bos, *tags, *codec.encode(text.strip(), bare=True)]

    def layout(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> Layout:
        """Slots behind the picture's first tag; positions count every token but padding."""
        found = list(token_ids).count(self.tokens.image)
        if found != len(pictures):
            raise InputError(
                f"prompt: {found} picture placeholders, {len(pictures)} pictures given; leave "
                "<image> out of the prompt, it comes with the picture"
            )
        at = list(token_ids).index(self.tokens.image) + 1 if found else 0
        rows = sum(picture.tokens for picture in pictures)
        slot_ids = range(self.tokens.first_slot, self.tokens.first_slot + rows)
        ids = np.array([*token_ids[:at], *slot_ids, *token_ids[at:]], np.int64)
        slots = np.zeros(len(ids), np.bool_)
        slots[at : at + rows] = True
        counted = ids != self.positions.padding_id
        prompt = np.where(counted, np.cumsum(counted) - 1 + FIRST, PADDING)

        def inputs(embeds: NDArray[np.float32], start: int) -> dict[str, NDArray[Any]]:
            stop = start + embeds.shape[1]
            after = np.arange(max(start, len(ids)), stop, dtype=np.int64) + FIRST
            table = sinusoids(np.concatenate([prompt[start:stop], after]), self.positions.width)
            return {"inputs_embeds": embeds * self.positions.embed_scale + table}

        return _Layout(ids, slots, inputs, params=self.positions)

    def stream(
        self,
        codec: TextCodec,
        prompt: Sequence[int],
        token_ids: Generator[int, None, Reason],
        collected: list[int],
    ) -> Generator[str, None, Reason]:
        """The caption without its tags, prompt included."""
        return stream_read(lambda ids: self.read(codec, prompt, ids)[0], token_ids, collected)

    def read(
        self, codec: TextCodec, prompt: Sequence[int], token_ids: Sequence[int]
    ) -> tuple[str, list[Entity]]:
        """The caption without its tags, prompt included, and the entities that they mark."""
        raw = codec.decode([*prompt, *token_ids])
        return read_caption(clean_up(raw) if self.cleans else raw)


def sinusoids(positions: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Rows of the position table: integers [s] -> [s, width], sines then cosines."""
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(WAVELENGTH) / (half - 1))
    # A last bit of a frequency is a ten-thousandth of an angle of 2000: float32's exp is too rough.
    inverse = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = positions.astype(np.float32)[:, None] * inverse
    table = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    table[positions == PADDING] = 0
    return table
