"""Products of matrices: linear layers, convolutions, attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vlrt_runtime.mil.ops.rule import Rule, bounded, integer, integers
from vlrt_runtime.mil.types import Array

__all__ = ["RULES"]


def _matmul(x: Array, y: Array, transpose_x: Any = False, transpose_y: Any = False) -> Array:
    left = x.swapaxes(-1, -2) if transpose_x else x
    right = y.swapaxes(-1, -2) if transpose_y else y
    rows = left.shape[-2:-1] if left.ndim > 1 else ()
    columns = right.shape[-1:] if right.ndim > 1 else ()
    bounded((*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), *rows, *columns))
    return left @ right


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    result = _matmul(x, weight.T)
    return result if bias is None else result + bias


def _einsum(values: list[Array], equation: str) -> Array:
    terms, _, output = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    if "..." in equation or len(operands) != len(values) or len(equation) > 100:
        raise ValueError(f"equation {equation!r} for {len(values)} values")
    sizes = {
        letter: size
        for term, value in zip(operands, values, strict=True)
        for letter, size in zip(term, value.shape, strict=True)
    }
    bounded([sizes[letter] for letter in output])
    return np.einsum(equation, *values, optimize=True)


def _conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Array:
    """Windows of x [n, c, ...] against weight [out, c / groups, ...], as one product a group."""
    spatial = x.ndim - 2
    steps = integers(strides) if strides is not None else [1] * spatial
    spread = integers(dilations) if dilations is not None else [1] * spatial
    if min(steps + spread, default=1) < 1:
        raise ValueError(f"strides {steps} and dilations {spread}: expected at least 1")
    extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    padding = _padding(pad_type, pad, x.shape[2:], extent, steps)
    bounded([size + sum(added) for size, added in zip(x.shape[2:], padding, strict=True)])
    if any(map(any, padding)):
        x = np.pad(x, [(0, 0), (0, 0), *padding])
    windows = np.lib.stride_tricks.sliding_window_view(x, extent, axis=tuple(range(2, x.ndim)))
    every: list[Any] = [slice(None)] * 2
    windows = windows[(*every, *(slice(None, None, s) for s in (*steps, *spread)))]
    batch, channels, *places = windows.shape[: 2 + spatial]
    count, parts = weight.shape[0], integer(groups)
    if parts < 1 or channels % parts or count % parts or weight.shape[1] * parts != channels:
        raise ValueError(f"weight {list(weight.shape)} for {channels} channels, {parts} groups")
    area = math.prod(weight.shape[2:])
    bounded([batch, *places, channels * area])
    bounded([batch, *places, count])
    outputs: list[Array] = []
    for group in range(parts):
        mine = slice(group * channels // parts, (group + 1) * channels // parts)
        rows = np.moveaxis(windows[:, mine], 1, 1 + spatial).reshape(
            batch, math.prod(places), channels // parts * area
        )
        kernel = weight[group * count // parts : (group + 1) * count // parts]
        outputs.append(rows @ kernel.reshape(len(kernel), -1).T)
    result = np.concatenate(outputs, axis=-1)
    if bias is not None:
        result = result + bias
    return np.moveaxis(result, -1, 1).reshape(batch, count, *places)


def _padding(
    kind: str, pad: Any, sizes: tuple[int, ...], extent: list[int], steps: list[int]
) -> list[tuple[int, int]]:
    """Zeros before and behind each spatial axis."""
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        flat = integers(pad)
        if len(flat) != 2 * len(sizes) or min(flat, default=0) < 0:
            raise ValueError(f"pad {flat} for {len(sizes)} axes")
        return list(zip(flat[::2], flat[1::2], strict=True))
    if kind in ("same", "same_lower"):
        total = [
            max((-(-size // step) - 1) * step + reach - size, 0)
            for size, reach, step in zip(sizes, extent, steps, strict=True)
        ]
        low = [n // 2 if kind == "same" else n - n // 2 for n in total]
        return [(before, n - before) for before, n in zip(low, total, strict=True)]
    raise ValueError(f"pad_type {kind!r} is unknown")


def _attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    scores = _matmul(query, key, transpose_y=True) / np.float32(math.sqrt(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = np.where(attn_mask, scores, np.float32(-np.inf))
    elif attn_mask is not None:
        scores = scores + attn_mask
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)) @ value


RULES: dict[str, Rule] = {
    "matmul": _matmul,
    "linear": _linear,
    "einsum": _einsum,
    "conv": _conv,
    "scaled_dot_product_attention": _attention,
}
