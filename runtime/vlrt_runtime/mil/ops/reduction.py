"""Along axes: sums, extremes, norms and order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlrt_runtime.mil.ops.rule import Rule, axes_of, bounded, integer
from vlrt_runtime.mil.types import NUMPY, Array

__all__ = ["RULES"]


def _reduce(function: Callable[..., Any]) -> Rule:
    def rule(x: Array, axes: Any = None, keep_dims: Any = False) -> Array:
        return function(x, axis=axes_of(axes, x.ndim), keepdims=bool(keep_dims))

    return rule


def _argument(function: Callable[..., Any]) -> Rule:
    def rule(
        x: Array, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32"
    ) -> Array:
        return function(x, integer(axis), keepdims=bool(keep_dims)).astype(NUMPY[output_dtype])

    return rule


def _layer_norm(
    x: Array,
    axes: Any = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    kept = axes_of(axes, x.ndim)
    centred = x - x.mean(axis=kept, keepdims=True)
    variance = np.square(centred).mean(axis=kept, keepdims=True)
    result = centred / np.sqrt(variance + np.float32(epsilon))
    shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
    if gamma is not None:
        result = result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def _l2_norm(x: Array, epsilon: Any = 1e-6) -> Array:
    """Divides by the length along the last three axes, as MIL has it."""
    length = np.square(x).sum(axis=tuple(range(max(x.ndim - 3, 0), x.ndim)), keepdims=True)
    return x / np.sqrt(length + np.float32(epsilon))


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    most = x.max(axis=axis, keepdims=True)
    total = most + np.log(np.exp(x - most).sum(axis=axis, keepdims=True))
    return total if keepdims else total.squeeze(axis)


def _top_k(
    x: Array,
    k: Any = 1,
    axis: Any = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> list[Array]:
    along, count = integer(axis), integer(k)
    if not 1 <= count <= x.shape[along]:
        raise ValueError(f"the {count} first of {x.shape[along]}")
    order = np.argsort(x if ascending else -x, axis=along, kind="stable")
    indices = np.take(order, np.arange(count), axis=along)
    values = np.take_along_axis(x, indices, along)
    return [values, indices.astype(NUMPY[output_indices_dtype])] if return_indices else [values]


def _cumulative_sum(x: Array, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Array:
    along = integer(axis)
    result = np.flip(x, along) if reverse else x
    result = np.cumsum(result, along, dtype=x.dtype)
    if exclusive:
        result = np.roll(result, 1, along)
        first: list[Any] = [slice(None)] * x.ndim
        first[along] = 0
        result[tuple(first)] = 0
    return np.flip(result, along) if reverse else result


def _band_part(x: Array, lower: Any = -1, upper: Any = -1) -> Array:
    below, above = integer(lower), integer(upper)
    height, width = bounded(x.shape[-2:])
    band: Any = np.tri  # np.tri(..., k) is true up to k columns right of the diagonal
    kept: Array = np.ones((height, width), np.bool_)
    if above >= 0:
        kept &= band(height, width, above, dtype=np.bool_)
    if below >= 0:
        kept &= ~band(height, width, -below - 1, dtype=np.bool_)
    return np.where(kept, x, np.zeros((), x.dtype))


def _sum(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _prod(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _sum_square(x: Array, axis: Any, keepdims: bool) -> Array:
    return _sum(np.square(x), axis, keepdims)


def _l1_norm(x: Array, axis: Any, keepdims: bool) -> Array:
    return _sum(np.abs(x), axis, keepdims)


def _l2_length(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.sqrt(_sum_square(x, axis, keepdims))


def _log_sum(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.log(_sum(x, axis, keepdims))


RULES: dict[str, Rule] = {
    "reduce_sum": _reduce(_sum),
    "reduce_prod": _reduce(_prod),
    "reduce_mean": _reduce(np.mean),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_sum_square": _reduce(_sum_square),
    "reduce_l1_norm": _reduce(_l1_norm),
    "reduce_l2_norm": _reduce(_l2_length),
    "reduce_log_sum": _reduce(_log_sum),
    "reduce_log_sum_exp": _reduce(_log_sum_exp),
    "reduce_argmax": _argument(np.argmax),
    "reduce_argmin": _argument(np.argmin),
    "layer_norm": _layer_norm,
    "l2_norm": _l2_norm,
    "topk": _top_k,
    "cumsum": _cumulative_sum,
    "band_part": _band_part,
}
