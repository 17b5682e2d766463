"""What a family does at run time: pictures, placeholders, positions; and where each one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.manifest import Manifest

__all__ = ["Family", "Layout", "Picture", "expand", "family_of"]

Array = NDArray[Any]

# The manifest's `family` -> the module with its `family` function.
FAMILIES = {"qwen2_vl": "vlrt_runtime.families.qwen2_vl"}


@dataclass(frozen=True)
class Picture:
    """A preprocessed picture.

    Attributes:
        inputs: the vision encoder's inputs by name.
        tokens: positions it takes in the decoder.
        grid: frames, rows and columns of patches.
        size: width and height of the original, in pixels.
    """

    inputs: Mapping[str, Array]
    tokens: int
    grid: tuple[int, int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """A prompt as the decoder will see it.

    Attributes:
        token_ids: int64 [s], placeholders repeated.
        slots: bool [s], the positions that rows of pictures replace.
        inputs: (embeddings float32 [1, n, hidden], index of the first) -> the decoder's inputs for
            those positions, before or after the end of the prompt.
    """

    token_ids: NDArray[np.int64]
    slots: NDArray[np.bool_]
    inputs: Callable[[NDArray[np.float32], int], dict[str, Array]]


class Family(Protocol):
    """One model's preprocessing and positions. Stateless: safe to use from any thread."""

    def picture(self, image: Image.Image) -> Picture:
        """Preprocesses an RGB picture."""
        ...

    def layout(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> Layout:
        """Lays a prompt out; raises InputError where placeholders and pictures do not match."""
        ...


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
    token_ids: Sequence[int], placeholder: int, counts: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Repeats each placeholder as often as its picture has tokens.

    Returns:
        The ids int64 [s] and where the placeholders are, bool [s].

    Raises:
        InputError: placeholders and pictures differ in number.
    """
    ids = np.asarray(token_ids, np.int64)
    found = ids == placeholder
    if int(found.sum()) != len(counts):
        raise InputError(
            f"prompt: {int(found.sum())} picture placeholders, {len(counts)} pictures given; "
            "there must be one for each"
        )
    repeats = np.ones(len(ids), np.int64)
    repeats[found] = counts
    expanded = np.repeat(ids, repeats)
    return expanded, expanded == placeholder
