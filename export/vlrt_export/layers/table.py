"""Learned rows that are looked up by an index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnxscript import nn

from vlrt_export.layers.base import FLOAT, Layer, cast
from vlrt_export.layers.linear import Half, Plain
from vlrt_export.quantize import PORTION
from vlrt_export.weights import Weights

__all__ = ["Table"]


class Table(Layer):
    """`rows` entries of `shape`, float16 where the plan stores less than float32.

    onnxruntime maps the table from disk and touches the entry asked for, nothing else.
    """

    def __init__(self, weights: Weights, name: str, rows: int, shape: Sequence[int]) -> None:
        super().__init__()
        tensor = weights.take(name, (rows, math.prod(shape)))
        width = shape[-1]
        # An entry may be many megabytes: it is read in pieces of its last axis.
        pieces = replace(tensor, shape=(rows * math.prod(shape) // width, width))
        kind = Plain if weights.precision.kind == "fp32" else Half
        self.weight = nn.Parameter([rows, *shape], kind.dtype)
        storage = kind(weights, pieces.rows, width)
        self.fill([pieces], [self.weight], storage.make, max(1, PORTION // width))

    def forward(self, op: Any, index: Any) -> Any:
        """Index int64 [1] -> float32 [1, *shape]."""
        return cast(op, op.Gather(self.weight, index, axis=0), FLOAT)
