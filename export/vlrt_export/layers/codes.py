"""Matrices of 4 or 8 bits as plain operators have them: DequantizeLinear, then a multiplication.

For runtimes that multiply with such weights wherever they find them dequantised, as Core ML does. A
code takes a byte here whatever its width: what is made of the graph packs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.layers.base import cast, contrib, stored
from vlrt_export.layers.integers import Integers
from vlrt_export.quantize import PORTION, SMALLEST_SCALE
from vlrt_export.weights import Weights

__all__ = ["Codes4", "Codes8", "Rows8"]

UINT8, INT8 = ir.DataType.UINT8, ir.DataType.INT8


class Codes(Integers):
    """A scale and a zero point per block of a row; k is filled up to whole blocks."""

    def __init__(self, weights: Weights, n: int, k: int) -> None:
        super().__init__(weights, n, k)
        self.weight = nn.Parameter([n, self.blocks * self.block], UINT8)
        self.scales = nn.Parameter([n, self.blocks], self.compute)
        self.zeros = nn.Parameter([n, self.blocks], UINT8)
        self.parameters = {"weight": self.weight, "scales": self.scales, "zeros": self.zeros}

    def make(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Quantised rows."""
        made = self.quantized(rows)
        codes, zeros = self.unpacked(made.codes), self.unpacked(made.zeros)
        return codes.reshape(len(rows), -1), made.scales, zeros[:, : self.blocks]

    def unpacked(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A code a byte."""
        if self.bits == 8:
            return packed
        halves: NDArray[np.uint8] = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], -1)
        return np.ascontiguousarray(halves.reshape(*packed.shape[:-1], -1))

    def matmul(self, op: Any, x: Any, bias: Any) -> Any:
        """X Wᵀ + b."""
        codes, zeros = self.weight, self.zeros
        if self.bits == 4:  # so says the graph how wide they are
            codes, zeros = (op.Cast(each, to=ir.DataType.UINT4) for each in (codes, zeros))
        weight = op.DequantizeLinear(codes, self.scales, zeros, axis=1, block_size=self.block)
        shape = x.shape
        if extra := self.blocks * self.block - self.k:
            x = op.Pad(x, [0] * (2 * len(shape) - 1) + [extra])
        return product(op, cast(op, x, self.compute), weight, bias, [*shape[:-1], self.n])


class Codes8(Codes):
    """Of 8 bits."""

    bits = 8


class Codes4(Codes):
    """Of 4 bits."""

    bits = 4


class Rows8:
    """8 bits with a scale per row, and none where zero is: all that the Neural Engine knows."""

    elements = PORTION
    columns: tuple[str, ...] = ()

    def __init__(self, weights: Weights, n: int, k: int) -> None:
        self.n, self.compute = n, weights.dtype
        self.weight = nn.Parameter([n, k], INT8)
        self.scales = nn.Parameter([n], self.compute)
        self.parameters = {"weight": self.weight, "scales": self.scales}

    def make(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Quantised rows."""
        scales = stored(np.abs(rows).max(1) / np.float32(127), self.compute).astype(np.float32)
        scales[scales < SMALLEST_SCALE] = 1
        codes = np.rint(rows / scales[:, None]).clip(-127, 127)
        return codes.astype(np.int8), scales.astype(self.compute.numpy())

    def matmul(self, op: Any, x: Any, bias: Any) -> Any:
        """X Wᵀ + b."""
        weight = op.DequantizeLinear(self.weight, self.scales, axis=0)
        return product(op, x, weight, bias, [*x.shape[:-1], self.n])


def product(op: Any, x: Any, weight: Any, bias: Any, shape: Any) -> Any:
    """X Wᵀ + b of a weight [n, k]."""
    y = contrib(op, "FusedMatMul", x, weight, outputs=[(x.dtype, shape)], transB=1)
    return y if bias is None else op.Add(y, bias)
