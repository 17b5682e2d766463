"""`Linear`: the only layer that knows in what form a matrix is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.layers.base import FLOAT, Layer, cast, contrib, stored
from vlrt_export.layers.codes import Codes4, Codes8, Rows8
from vlrt_export.layers.integers import Integers
from vlrt_export.layers.turned import Turned8
from vlrt_export.quantize import PORTION
from vlrt_export.weights import Weights

__all__ = ["Linear", "language_head"]


class Linear(Layer):
    """y = x Wᵀ + b.

    Args:
        weights: where the tensors are, and the precision.
        names: of the modules whose `weight` (and `bias`) are stacked by rows: q, k and v read
            their input once that way.
        k: length of the input's last axis.
        sizes: rows of each.
        bias: whether they have one.
        shape: of one weight tensor where it is no matrix (a patch embedding's kernel).
        suffix: of the weight's name.
    """

    def __init__(
        self,
        weights: Weights,
        names: str | Sequence[str],
        k: int,
        sizes: int | Sequence[int],
        *,
        bias: bool = False,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        names = [names] if isinstance(names, str) else list(names)
        sizes = [sizes] if isinstance(sizes, int) else list(sizes)
        self.k, self.n = k, sum(sizes)
        pairs = list(zip(names, sizes, strict=True))
        tensors = [weights.take(f"{name}.weight", shape or (size, k)) for name, size in pairs]
        form = weights.precision.form
        storage = STORAGE[weights.target.storage.get(form, form)]
        self.storage = storage(weights, self.n, k)
        # Modules register parameters by attribute, so each gets one.
        for name, parameter in self.storage.parameters.items():
            setattr(self, name, parameter)
        rows = max(1, self.storage.elements // k)
        columns = [self.storage.parameters[name] for name in self.storage.columns]
        made = self.storage.parameters.values()
        self.fill(tensors, made, self.storage.make, rows, columns)
        self.bias = (
            self.vector(weights, [f"{name}.bias" for name in names], sizes) if bias else None
        )

    def forward(self, op: Any, x: Any) -> Any:
        """X [..., k] -> [..., n]."""
        return self.storage.matmul(op, cast(op, x, self.storage.compute), self.bias)


def language_head(table: Weights, head: Weights, hidden: int, vocab: int, *, tied: bool) -> Linear:
    """Rows of the decoder to logits: by the embedding table where they are tied.

    `table` is seen from where `embed_tokens` is, `head` from where `lm_head` is.
    """
    where, name = (table, "embed_tokens") if tied else (head, "lm_head")
    return Linear(where, name, hidden, vocab)


class Plain:
    """float32, in the checkpoint's layout: FusedMatMul transposes at full speed."""

    dtype = FLOAT
    elements = PORTION
    columns: tuple[str, ...] = ()

    def __init__(self, weights: Weights, n: int, k: int) -> None:
        self.n, self.compute = n, weights.dtype
        self.weight = nn.Parameter([n, k], self.dtype)
        self.parameters = {"weight": self.weight}

    def make(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Rows as they are stored.

        Raises:
            ValueError: a value does not fit.
        """
        return (stored(rows, self.dtype),)

    def matmul(self, op: Any, x: Any, bias: Any) -> Any:
        """X Wᵀ + b."""
        weight = cast(op, self.weight, self.compute)
        out = (self.compute, [*x.shape[:-1], self.n])
        y = contrib(op, "FusedMatMul", x, weight, outputs=[out], transB=1)
        return y if bias is None else op.Add(y, bias)


class Half(Plain):
    """float16 on disk; onnxruntime widens it once, at loading, for graphs in float32."""

    dtype = ir.DataType.FLOAT16


class Blockwise(Integers):
    """4 or 8 bits with a scale and a zero point per block, multiplied as they are stored."""

    def __init__(self, weights: Weights, n: int, k: int) -> None:
        super().__init__(weights, n, k)
        self.fused_bias, self.level = weights.target.fused_bias, weights.precision.accuracy_level
        uint8 = ir.DataType.UINT8
        self.weight = nn.Parameter([n, self.blocks, self.block * self.bits // 8], uint8)
        self.scales = nn.Parameter([n, self.blocks], self.compute)
        self.zeros = nn.Parameter([n, -(-self.blocks * self.bits // 8)], uint8)
        self.parameters = {"weight": self.weight, "scales": self.scales, "zeros": self.zeros}

    def make(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Quantised rows."""
        return self.quantized(rows)

    def matmul(self, op: Any, x: Any, bias: Any) -> Any:
        """X Wᵀ + b."""
        y = contrib(
            op,
            "MatMulNBits",
            x,
            self.weight,
            self.scales,
            self.zeros,
            None,
            bias if self.fused_bias else None,
            outputs=[(self.compute, [*x.shape[:-1], self.n])],
            K=self.k,
            N=self.n,
            bits=self.bits,
            block_size=self.block,
            accuracy_level=self.level,
        )
        return y if bias is None or self.fused_bias else op.Add(y, bias)


class Int4(Blockwise):
    """Two weights a byte."""

    bits = 4


class Int8(Blockwise):
    """One weight a byte."""

    bits = 8


STORAGE = {
    "fp32": Plain,
    "fp16": Half,
    "int8": Int8,
    "int4": Int4,
    "codes8": Codes8,
    "codes4": Codes4,
    "rows8": Rows8,
    "turned8": Turned8,
}
