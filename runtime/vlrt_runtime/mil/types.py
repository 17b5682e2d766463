"""Types of values in an ML program, and the packing of their elements."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.errors import PackageError

__all__ = ["BITS", "FLOATS", "MAX_ELEMENTS", "NUMPY", "Array", "TensorSpec", "Type", "unpack"]

Array = NDArray[Any]

MAX_ELEMENTS = 1 << 30  # of one value; 4 GiB at float32, a limit on what a package may ask for

# DataType of MIL.proto
NAMES = {
    1: "bool",
    2: "string",
    10: "fp16",
    11: "fp32",
    12: "fp64",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
SUB_BYTE = {"int4": 4, "uint4": 4, "uint2": 2, "uint1": 1, "uint6": 6, "uint3": 3}
NUMPY: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.bool_),
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
    "fp64": np.dtype("<f8"),
    **{
        f"{kind}{bits}": np.dtype(f"<{code}{bits // 8}")
        for bits in (8, 16, 32, 64)
        for kind, code in (("int", "i"), ("uint", "u"))
    },
    **{name: np.dtype(np.int8 if name == "int4" else np.uint8) for name in SUB_BYTE},
}
BITS = {name: SUB_BYTE.get(name, dtype.itemsize * 8) for name, dtype in NUMPY.items()}
FLOATS = ("fp16", "fp32", "fp64")


@dataclass(frozen=True)
class Type:
    """A tensor's element type, `string` included, and shape; None is a size that is free."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{sizes}]"

    @classmethod
    def of(cls, message: dict[str, Any], where: str) -> Type:
        """Reads the message `Type` of a tensor.

        Raises:
            PackageError: it is no tensor, or of an element type that is unknown.
        """
        tensor = message.get("tensor")
        if tensor is None:
            raise PackageError(f"{where}: no tensor; only tensors and states can be run")
        dtype = NAMES.get(tensor.get("dtype", 0))
        if dtype is None:
            raise PackageError(f"{where}: element type {tensor.get('dtype', 0)} is unknown")
        shape = tuple(
            dim["constant"].get("size", 0) if "constant" in dim else None
            for dim in tensor.get("dims", [])
        )
        if any(size is not None and size < 0 for size in shape):
            raise PackageError(f"{where}: shape {list(shape)} has a negative size")
        if prod(size or 1 for size in shape) > MAX_ELEMENTS:
            raise PackageError(f"{where}: shape {list(shape)}: expected at most 2^30 elements")
        return cls(dtype, shape)

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of that shape is of this type."""
        return len(shape) == len(self.shape) and all(
            declared in (None, size) for declared, size in zip(self.shape, shape, strict=True)
        )

    @property
    def count(self) -> int:
        """Elements; a free size counts as one."""
        return prod(1 if size is None else size for size in self.shape)


@dataclass(frozen=True)
class TensorSpec:
    """An input, output or state of a function; `shape` holds None where a size is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def unpack(data: Array, count: int, dtype: str) -> Array:
    """Elements out of their bytes (uint8, one axis); below a byte, low bits come first.

    Sub-byte integers come back as int8 or uint8. Whole bytes are a view.

    Raises:
        PackageError: there are not as many bytes as the elements take.
    """
    bits = BITS[dtype]
    if len(data) != (expected := (count * bits + 7) // 8):
        raise PackageError(f"{count} elements of {dtype}: expected {expected} bytes, {len(data)}")
    if dtype not in SUB_BYTE:
        return data.view(NUMPY[dtype])
    if bits == 4:
        codes = np.empty(2 * len(data), np.uint8)
        np.bitwise_and(data, 15, out=codes[::2])
        np.right_shift(data, 4, out=codes[1::2])
        codes = codes[:count]
    else:
        ones = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
        codes = np.packbits(ones, axis=1, bitorder="little")[:, 0]
    return ((codes ^ 8).view(np.int8) - 8).astype(np.int8) if dtype == "int4" else codes
