"""What a family does at run time: pictures, placeholders, positions; and where each one is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.entities import Entity
from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.text import TextCodec, stream_text
from vlrt_runtime.video import Video

__all__ = ["Family", "Layout", "Picture", "expand", "family_of"]

Array = NDArray[Any]
Reason = TypeVar("Reason")

# The manifest's `family` -> the module with its `family` function.
FAMILIES = {
    "kosmos2": "vlrt_runtime.families.kosmos2",
    "llama3_vision_alpha": "vlrt_runtime.families.llama3_vision_alpha",
    "llava": "vlrt_runtime.families.llava",
    "mllama": "vlrt_runtime.families.mllama",
    "qwen2_vl": "vlrt_runtime.families.qwen2_vl",
}


@dataclass(frozen=True)
class Picture:
    """A preprocessed picture, or a video: several in one.

    Attributes:
        inputs: the vision encoder's inputs by name.
        tokens: positions it takes in the decoder.
        grid: frames, rows and columns of patches (or of tiles, in families that have those).
        size: width and height of the original, in pixels.
        kind: of its placeholder: image or video.
        runs: pieces that the encoder takes one after the other, equal ones along axis 1 of all its
            inputs: moments of a video, which do not see one another there.
        projected: the projector's outputs, where they are known; then `inputs` may be empty,
        known_digest: and its digest stands here.
    """

    inputs: Mapping[str, Array]
    tokens: int
    grid: tuple[int, int, int]
    size: tuple[int, int]
    kind: str = "image"
    runs: int = 1

    projected: Mapping[str, Array] | None = None
    known_digest: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that encoder and decoder see of it."""
        if self.known_digest is not None:
            return self.known_digest
        found = hashlib.sha256(repr((self.tokens, self.grid, self.kind, self.runs)).encode())
        for name, array in sorted(self.inputs.items()):
            found.update(repr((name, array.dtype.str, array.shape)).encode())
            found.update(np.ascontiguousarray(array).view(np.uint8).data)
        return found.hexdigest()


@dataclass(frozen=True)
class Layout:
    """A prompt as the decoder will see it.

    Attributes:
        token_ids: int64 [s], placeholders repeated.
        slots: bool [s], the positions that rows of pictures replace.
        inputs: (embeddings float32 [1, n, hidden], index of the first) -> the decoder's inputs for
            those positions, before or after the end of the prompt.
        prefill_rows: positions to give the decoder at a time, where fewer than usual.
        placeholders: bool [s], positions of pictures that keep their own embedding; as `slots`
            where not given.
    """

    token_ids: NDArray[np.int64]
    slots: NDArray[np.bool_]
    inputs: Callable[[NDArray[np.float32], int], dict[str, Array]]
    prefill_rows: int | None = None
    placeholders: NDArray[np.bool_] | None = None

    @property
    def places(self) -> NDArray[np.bool_]:
        """Positions that stand for pictures, in their order: `Picture.tokens` each."""
        return self.slots if self.placeholders is None else self.placeholders

    def step(
        self, token_ids: NDArray[np.int64], embeds: NDArray[np.float32], start: int
    ) -> dict[str, Array]:
        """As `inputs`, for ids [n] of the answer, for families that look at them."""
        return self.inputs(embeds, start)


class Family(ABC):
    """One model's preprocessing, positions and text. Stateless: safe to use from any thread."""

    @abstractmethod
    def picture(self, image: Image.Image) -> Picture:
        """Preprocesses an RGB picture."""

    def video(self, video: Video) -> Picture:
        """Preprocesses a video; raises InputError where the family takes none."""
        raise InputError(
            "video: this model takes pictures only; give some of its frames as images, "
            "or use a model that takes videos, such as qwen2-vl-2b"
        )

    @abstractmethod
    def layout(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> Layout:
        """Lays a prompt out; raises InputError where placeholders and pictures do not match."""

    def token_ids(self, text: str, pictures: int, codec: TextCodec) -> list[int]:
        """Ids of a prompt's text with so many pictures, as `layout` takes them."""
        return codec.encode(text)

    def stream(
        self,
        codec: TextCodec,
        prompt: Sequence[int],
        token_ids: Generator[int, None, Reason],
        collected: list[int],
    ) -> Generator[str, None, Reason]:
        """Text as the ids come, all that `read` finds in them; `collected` receives the ids."""
        return stream_text(codec, token_ids, collected)

    def read(
        self, codec: TextCodec, prompt: Sequence[int], token_ids: Sequence[int]
    ) -> tuple[str, Sequence[Entity]]:
        """The answer's text and what it points at, of the ids of prompt and answer."""
        return codec.decode(token_ids), ()


def family_of(
    manifest: Manifest, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> Family:
    """The family of a package; pixel limits take the place of the package's own.

    Raises:
        PackageError: this version does not know the family, or parameters are missing.
    """
    module = FAMILIES.get(manifest.family)
    if module is None:
        raise PackageError(
            f"family {manifest.family!r}: expected one of {', '.join(FAMILIES)}; update vlrt"
        )
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    return import_module(module).family(
        manifest, {key: value for key, value in limits.items() if value is not None}
    )


def expand(
    token_ids: Sequence[int], placeholder: int | Sequence[int], counts: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Repeats each placeholder as often as its picture has tokens; there may be several kinds.

    Returns:
        The ids int64 [s] and where the placeholders are, bool [s].

    Raises:
        InputError: placeholders and pictures differ in number.
    """
    ids = np.asarray(token_ids, np.int64)
    found = np.isin(ids, placeholder)
    if int(found.sum()) != len(counts):
        raise InputError(
            f"prompt: {int(found.sum())} picture placeholders, {len(counts)} pictures given; "
            "there must be one for each"
        )
    repeats = np.ones(len(ids), np.int64)
    repeats[found] = counts
    expanded = np.repeat(ids, repeats)
    return expanded, np.isin(expanded, placeholder)
