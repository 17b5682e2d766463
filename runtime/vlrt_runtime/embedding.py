"""The token embedding table: a memory-mapped file. It costs the memory of the rows touched."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.errors import InputError, PackageError

__all__ = ["EmbeddingTable"]

# dtypes of safetensors -> as numpy can hold them; BF16 as its bits
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}
MAX_HEADER = 1 << 20


class EmbeddingTable:
    """Rows of a safetensors file: `weight` [rows, width], and `scales` [rows] where it is int8.

    Raises:
        PackageError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, MAX_HEADER)))
            self._kind = str(header["weight"]["dtype"])
            self._weight = _mapped(path, header["weight"], 8 + length)
            self._scales = (
                _mapped(path, header["scales"], 8 + length) if "scales" in header else None
            )
            self.rows, self.width = self._weight.shape
            if self._scales is not None and self._scales.shape != (self.rows,):
                raise ValueError(f"{self._scales.shape} scales for {self.rows} rows")
        except Exception as error:  # RecursionError and the like: the header may hold anything
            raise PackageError(
                f"{path}: damaged: {type(error).__name__}: {error}; export the package again"
            ) from error

    def __call__(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of the ids: int64 [s] -> float32 [s, width].

        Raises:
            InputError: an id has no row.
        """
        outside = token_ids[(token_ids < 0) | (token_ids >= self.rows)]
        if outside.size:
            raise InputError(f"token id {outside[0]}: expected 0 to {self.rows - 1}")
        rows = self._weight[token_ids]
        if self._kind == "BF16":  # the upper half of a float32
            return np.left_shift(rows, 16, dtype=np.uint32).view(np.float32)
        rows = rows.astype(np.float32, copy=False)
        return rows if self._scales is None else rows * self._scales[token_ids, None]


def _mapped(path: Path, entry: dict[str, Any], base: int) -> NDArray[Any]:
    dtype, shape = np.dtype(STORED[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
    first, last = entry["data_offsets"]
    if first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{last - first} bytes do not hold {dtype} {list(shape)}")
    mapped = np.memmap(path, dtype=dtype, mode="r", offset=base + first, shape=shape)
    return np.asarray(mapped)  # a plain view: indexing a memmap costs more than the row
