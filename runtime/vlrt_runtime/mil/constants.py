"""Values that a program holds: given in place, in weight.bin, or computed from these.

Weights stay in their mapped file until an operation asks for them, and what was unpacked is kept as
long as a budget of bytes lasts. What came first stays: a model's weights are asked for in the same
order step after step, where dropping the oldest would drop each one just before its next use.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from vlrt_runtime.errors import PackageError
from vlrt_runtime.mil.folder import Folder
from vlrt_runtime.mil.types import BITS, FLOATS, NUMPY, Array, Type, unpack

__all__ = ["BUDGET", "Constant", "Constants", "literal"]

BUDGET = 2 << 30  # bytes of unpacked weights that are kept

# immediate tensors: field of TensorValue -> elements of its `values`
FIELDS = {"floats": "fp32", "doubles": "fp64"}


@dataclass(frozen=True)
class Constant:
    """A value known before the program runs.

    Attributes:
        type: as declared.
        key: equal for equal values, so that functions share what is kept.
        make: computes it: floats as float32, strings as str.
    """

    type: Type
    key: Hashable
    make: Callable[[], Any]


class Constants:
    """Constants' values, kept within `budget` bytes."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget, self.nbytes = budget, 0
        self._kept: dict[Hashable, Any] = {}

    def get(self, constant: Constant, *, declared: bool) -> Any:
        """The value; rounded to a declared float16 where asked for."""
        key = (constant.key, declared)
        found: Any = self._kept.get(key)
        if found is None:
            found = constant.make()
            if declared and constant.type.dtype == "fp16":
                found = found.astype(np.float16).astype(np.float32)
            size = 0 if isinstance(found, str) else found.nbytes
            if self.nbytes + size <= self.budget:
                self._kept[key] = found
                self.nbytes += size
        return found


def literal(message: dict[str, Any], folder: Folder, where: str) -> Constant:
    """A constant out of the message `Value`.

    Raises:
        PackageError: it does not fit its declared type, or its weight is not in the file.
    """
    type_ = Type.of(message.get("type", {}), where)
    if None in type_.shape:
        raise PackageError(f"{where}: a constant of unknown size, {type_}; export it again")
    shape = [size or 0 for size in type_.shape]
    if "blob" in message:
        file, offset = message["blob"].get("file", ""), message["blob"].get("offset", 0)
        packed = folder.blob(file, offset, type_)
        return Constant(
            type_,
            (file, offset, type_),
            lambda: _widen(unpack(packed, type_.count, type_.dtype)).reshape(shape),
        )
    value = _immediate(message, type_, where)
    if isinstance(value, str):
        return Constant(type_, (type_, value), lambda: value)
    array = _widen(value).reshape(shape)
    return Constant(type_, (type_, array.tobytes()), lambda: array)


def _widen(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _immediate(message: dict[str, Any], type_: Type, where: str) -> Any:
    tensor: dict[str, dict[str, Any]] = message.get("immediate", {}).get("tensor", {})
    if len(tensor) != 1:
        raise PackageError(f"{where}: no value of {type_}; export the package again")
    ((field, content),) = tensor.items()
    values: Any = content.get("values", b"" if field in ("bytes", *FIELDS) else [])
    if field == "strings":
        if type_.dtype != "string" or len(values) != 1:
            raise PackageError(f"{where}: {len(values)} strings, expected one; export it again")
        return values[0]
    if type_.dtype == "string":
        raise PackageError(f"{where}: {field} for a string; export the package again")
    if field in ("bytes", *FIELDS):
        dtype = FIELDS.get(field, type_.dtype)
        data = np.frombuffer(values, np.uint8)
        if len(data) != (size := (type_.count * BITS[dtype] + 7) // 8):
            raise PackageError(f"{where}: {type_} takes {size} bytes, got {len(data)}")
        array = unpack(data, type_.count, dtype)
    else:
        array = np.array(values, np.int64)
    if len(array) != prod(size or 0 for size in type_.shape):
        raise PackageError(f"{where}: {len(array)} elements for {type_}; export it again")
    if (array.dtype.kind == "f") != (type_.dtype in FLOATS):
        raise PackageError(f"{where}: {field} for {type_}; export the package again")
    return array.astype(NUMPY[type_.dtype])
