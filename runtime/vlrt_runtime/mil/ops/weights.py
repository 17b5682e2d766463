"""Compressed weights, made whole again.

Scales, offsets and tables are per tensor, per channel or per block: along each axis they have one
entry for so many elements of the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlrt_runtime.mil.ops.rule import Rule, bounded, integer, integers
from vlrt_runtime.mil.types import NUMPY, Array, unpack

__all__ = ["RULES"]


def _blocks(shape: tuple[int, ...], parts: tuple[int, ...]) -> list[int]:
    """Elements per entry along each axis."""
    if len(shape) != len(parts) or any(p < 1 or n % p for n, p in zip(shape, parts, strict=True)):
        raise ValueError(f"entries {list(parts)} do not divide {list(shape)}")
    return [n // p for n, p in zip(shape, parts, strict=True)]


def _split_axes(array: Array, blocks: list[int]) -> Array:
    """[n, ...] as [n / block, block, ...], axis by axis."""
    pairs = zip(array.shape, blocks, strict=True)
    return array.reshape([size for n, block in pairs for size in (n // block, block)])


def _blockwise(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """Scale * (data - offset)."""
    blocks = _blocks(data.shape, scale.shape)
    one_each = [1] * data.ndim
    values = _split_axes(data, blocks).astype(np.float32)
    if offset is not None:
        values -= _split_axes(offset.astype(np.float32), one_each)
    values *= _split_axes(scale.astype(np.float32), one_each)
    return values.reshape(data.shape)


def _look_up(indices: Array, lut: Array, vector_axis: Any = None) -> Array:
    """Each index replaced by its entry of the table [*groups, entries, 1] of its group."""
    if lut.shape[-1] != 1 or vector_axis is not None:
        raise ValueError(f"a table of vectors, {list(lut.shape)}: only of numbers is supported")
    groups = lut.shape[:-2]
    if indices.size and int(indices.max()) >= lut.shape[-2]:
        raise ValueError(f"index {int(indices.max())} into a table of {lut.shape[-2]}")
    blocks = _blocks(indices.shape, groups)
    result = np.empty(indices.shape, lut.dtype)
    for group in np.ndindex(groups):
        part = tuple(slice(g * b, (g + 1) * b) for g, b in zip(group, blocks, strict=True))
        result[part] = lut[group][:, 0][indices[part]]
    return result


def _look_up_packed(indices: Array, lut: Array, shape: Any) -> Array:
    """The form of iOS 16: indices as bytes, as many bits each as the table of 2^n needs."""
    bits = len(lut).bit_length() - 1
    if len(lut) != 1 << bits or bits not in (1, 2, 3, 4, 6, 8):
        raise ValueError(f"a table of {len(lut)} entries")
    sizes = bounded(integers(shape))
    count = int(np.prod(sizes))
    return lut[unpack(indices, count, f"uint{bits}").view(np.uint8)].reshape(sizes)


def _to_dense(indices: Array, lut: Array, shape: Any = None, vector_axis: Any = None) -> Array:
    return (
        _look_up(indices, lut, vector_axis)
        if shape is None
        else _look_up_packed(indices, lut, shape)
    )


def _affine(quantized_data: Array, zero_point: Any, scale: Any, axis: Any) -> Array:
    """The form of iOS 16: scale * (data - zero_point), scalars or one along an axis."""
    shape = [1] * quantized_data.ndim
    shape[integer(axis)] = -1

    def along(value: Any) -> Array:
        array = np.asarray(value, np.float32)
        return array.reshape(shape) if array.ndim else array

    return along(scale) * (quantized_data.astype(np.float32) - along(zero_point))


def _cast(source_val: Array, output_dtype: str) -> Array:
    return source_val.astype(NUMPY["fp32" if output_dtype == "fp16" else output_dtype])


RULES: dict[str, Rule] = {
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_lut_to_dense": _to_dense,
    "constexpr_affine_dequantize": _affine,
    "constexpr_cast": _cast,
}
