"""What operations share: their type, and limits on what they may allocate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from vlrt_runtime.mil.types import MAX_ELEMENTS, Array

__all__ = ["Rule", "axes_of", "bounded", "broadcast", "integer", "integers"]

Rule = Callable[..., Any]  # an array, or a list of them, of an operation's parameters by name


def integer(value: Any) -> int:
    """A parameter that is one whole number."""
    return int(np.asarray(value).reshape(()))


def integers(value: Any) -> list[int]:
    """A parameter that is a list of whole numbers."""
    return [int(item) for item in np.atleast_1d(value)]


def axes_of(value: Any, rank: int) -> tuple[int, ...]:
    """Axes, counted from the front; all of them where the parameter is absent."""
    if value is None:
        return tuple(range(rank))
    axes = integers(value)
    if any(not -rank <= axis < rank for axis in axes):
        raise ValueError(f"axes {axes} of a value of rank {rank}")
    return tuple(axis % rank for axis in axes)


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a result that may be larger than its operands, before it is allocated."""
    if any(size < 0 for size in shape) or prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a result of shape {list(shape)}: expected at most 2^30 elements")
    return tuple(shape)


def broadcast(*values: Array) -> None:
    """Makes sure that operands broadcast to a shape within bounds."""
    bounded(np.broadcast_shapes(*(np.shape(value) for value in values)))
