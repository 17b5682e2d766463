"""Shapes of arrays: reshaping, joining, splitting, repeating, making."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vlrt_runtime.mil.ops.rule import Rule, axes_of, bounded, integer, integers
from vlrt_runtime.mil.types import Array

__all__ = ["RULES"]

PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _reshape(x: Array, shape: Any) -> Array:
    sizes = integers(shape)  # 0 keeps a size, -1 takes what is left
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


def _transpose(x: Array, perm: Any) -> Array:
    return x.transpose(integers(perm))


def _expand_dims(x: Array, axes: Any) -> Array:
    return np.expand_dims(x, tuple(integers(axes)))


def _squeeze(x: Array, axes: Any = None) -> Array:
    return np.squeeze(x, None if axes is None else axes_of(axes, x.ndim))


def _concat(values: list[Array], axis: Any, interleave: Any = False) -> Array:
    along = integer(axis)
    if not interleave:
        return np.concatenate([np.atleast_1d(value) for value in values], along)
    along %= values[0].ndim
    shape = list(values[0].shape)
    shape[along] *= len(values)
    return np.stack(values, along + 1).reshape(shape)


def _stack(values: list[Array], axis: Any) -> Array:
    return np.stack(values, integer(axis))


def _split(x: Array, axis: Any, num_splits: Any = None, split_sizes: Any = None) -> list[Array]:
    along = integer(axis)
    if split_sizes is None:
        return np.split(x, integer(num_splits), along)
    sizes = integers(split_sizes)
    if min(sizes) < 0 or sum(sizes) != x.shape[along]:
        raise ValueError(f"split_sizes {sizes} of {x.shape[along]}")
    return np.split(x, np.cumsum(sizes)[:-1], along)


def _tile(x: Array, reps: Any) -> Array:
    times = integers(reps)
    bounded([size * many for size, many in zip(x.shape, times, strict=True)])
    return np.tile(x, times)


def _reverse(x: Array, axes: Any = None) -> Array:
    return np.flip(x, axes_of(axes, x.ndim))


def _shape(x: Array) -> Array:
    return np.array(x.shape, np.int32)


def _fill(shape: Any, value: Any = 0.0) -> Array:
    return np.full(bounded(integers(shape)), value)


def _pad(x: Array, pad: Any, mode: str = "constant", constant_val: Any = 0) -> Array:
    flat = integers(pad)
    if len(flat) % 2 or len(flat) > 2 * x.ndim or min(flat, default=0) < 0:
        raise ValueError(f"pad {flat} of a value of rank {x.ndim}")
    widths = [(0, 0)] * (x.ndim - len(flat) // 2) + list(
        zip(flat[::2], flat[1::2], strict=True)
    )  # of the last axes
    bounded([size + sum(width) for size, width in zip(x.shape, widths, strict=True)])
    if PAD_MODES[mode] == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    repeat: Any = np.pad
    return repeat(x, widths, mode=PAD_MODES[mode])


def _range_1d(end: Any, start: Any, step: Any) -> Array:
    count = math.ceil((np.asarray(end).item() - np.asarray(start).item()) / np.asarray(step).item())
    bounded([max(count, 0)])
    return np.arange(start, end, step, dtype=np.asarray(start).dtype)


RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "concat": _concat,
    "stack": _stack,
    "split": _split,
    "tile": _tile,
    "reverse": _reverse,
    "fill": _fill,
    "pad": _pad,
    "range_1d": _range_1d,
    "shape": _shape,
}
