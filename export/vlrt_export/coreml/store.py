"""Constants in the form that programs take them, made once and kept on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Store", "narrowed"]

SMALL = 1 << 16  # bytes: not worth a place on disk
TINY = float(np.finfo(np.float16).smallest_subnormal)


class Store:
    """Arrays by key, in a file of `folder` that is mapped: however many, they take no memory."""

    def __init__(self, folder: Path) -> None:
        self._made: dict[str, NDArray[Any]] = {}
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this

    def get(self, key: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What `make` gives, the first time."""
        if key not in self._made:
            self._made[key] = self._kept(make())
        return self._made[key]

    def close(self) -> None:
        """Lets go of everything."""
        self._made.clear()
        self._file.close()

    def _kept(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.nbytes < SMALL or _mapped(array):
            return array
        offset = -(-self._file.seek(0, 2) // 64) * 64
        self._file.seek(offset)
        array.tofile(self._file)
        self._file.flush()
        return np.memmap(self._file, array.dtype, "r", offset, array.shape)


def _mapped(array: Any) -> bool:
    """Whether its memory is a file's."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return array is not None and not isinstance(array, bytes)


def narrowed(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """In that dtype; a number too small for float16 becomes its smallest, not zero.

    Raises:
        ValueError: a number is too large for it.
    """
    if array.dtype == dtype:
        return array
    made = array.astype(dtype)
    if dtype == np.float16 and array.dtype.kind == "f":
        if not np.isfinite(made).all():
            raise ValueError("holds values beyond 65504; choose another precision")
        if array.size == 1 and made == 0 and array != 0:
            made = np.full_like(made, np.copysign(TINY, array))
    return made
