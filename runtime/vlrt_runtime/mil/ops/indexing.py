"""Parts of arrays: slices, updates of slices, gathering."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlrt_runtime.mil.ops.rule import Rule, bounded, integer, integers
from vlrt_runtime.mil.types import Array

__all__ = ["RULES", "slice_update"]


def _slices(
    shape: tuple[int, ...],
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """One slice an axis, and the axes that are squeezed; a mask means from or to the very end."""
    rank = len(shape)
    starts, ends = integers(begin), integers(end)
    steps = [1] * rank if stride is None else integers(stride)
    from_start, to_end, single = (
        [False] * rank if mask is None else [bool(item) for item in np.atleast_1d(mask)]
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    found: list[slice] = []
    for axis in range(rank):
        first, last = starts[axis], ends[axis]
        if single[axis]:
            first %= shape[axis]
            found.append(slice(first, first + 1))
            continue
        # Unlike numpy's, an end of 0 that is not masked is no position.
        found.append(
            slice(
                None if from_start[axis] else first,
                None if to_end[axis] else last,
                steps[axis],
            )
        )
    return tuple(found), tuple(axis for axis in range(rank) if single[axis])


def _slice_by_index(x: Array, **parameters: Any) -> Array:
    slices, squeezed = _slices(x.shape, **parameters)
    return np.squeeze(x[slices], squeezed) if squeezed else x[slices]


def slice_update(x: Array, update: Array, *, in_place: bool = False, **parameters: Any) -> Array:
    """X with a slice of it replaced: in a copy, unless nothing else will read the old x."""
    slices, squeezed = _slices(x.shape, **parameters)
    result = x if in_place else x.copy()
    target = result[slices]
    shape = np.squeeze(target, squeezed).shape if squeezed else target.shape
    if shape != update.shape:
        raise ValueError(f"an update of shape {list(update.shape)} for a slice {list(shape)}")
    target[...] = update.reshape(target.shape)
    return result


def _slice_by_size(x: Array, begin: Any, size: Any) -> Array:
    starts, sizes = integers(begin), integers(size)
    ends = [
        whole if many == -1 else first + many
        for whole, first, many in zip(x.shape, starts, sizes, strict=True)
    ]
    if any(not 0 <= a <= b <= n for a, b, n in zip(starts, ends, x.shape, strict=True)):
        raise ValueError(f"begin {starts} and size {sizes} of a value {list(x.shape)}")
    return x[tuple(slice(a, b) for a, b in zip(starts, ends, strict=True))]


def _gather(
    x: Array, indices: Any, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False
) -> Array:
    along, batch = integer(axis) % x.ndim, integer(batch_dims)
    places = np.asarray(indices)
    bounded([*x.shape[:along], *places.shape[batch:], *x.shape[along + 1 :]])
    places = _checked(places, x.shape[along])
    if batch == 0:
        return np.take(x, places, along)
    if batch < 0 or batch > along or x.shape[:batch] != places.shape[:batch]:
        raise ValueError(f"batch_dims {batch} of {list(x.shape)} and {list(places.shape)}")
    rows = [np.take(x[at], places[at], along - batch) for at in np.ndindex(x.shape[:batch])]
    return np.stack(rows).reshape(*x.shape[:batch], *rows[0].shape)


def _gather_along_axis(
    x: Array, indices: Array, axis: Any = 0, validate_indices: Any = False
) -> Array:
    along = integer(axis) % x.ndim
    return np.take_along_axis(x, _checked(indices, x.shape[along]), along)


def _checked(indices: Array, size: int) -> Array:
    """Indices counted from the front; one beyond the end would read anything on a device."""
    found = indices.astype(np.int64)
    if found.size and not (-size <= found.min() and found.max() < size):
        raise ValueError(f"indices {found.min()} to {found.max()} of {size}")
    return np.where(found < 0, found + size, found)


RULES: dict[str, Rule] = {
    "slice_by_index": _slice_by_index,
    "slice_update": slice_update,
    "slice_by_size": _slice_by_size,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
}
