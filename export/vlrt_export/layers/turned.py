"""8-bit matrices for graphs that take many rows at a time: picture encoders and projectors.

onnxruntime multiplies whole matrices of 8-bit integers in two thirds of the time that blocks take,
but with one scale for all activations: a few large ones would cost all others their precision. So
rows are turned first, by blocks of a Hadamard matrix, which spreads what is large over its block,
and divided by their own largest value, which is multiplied back: every row has its own scale. The
weights are turned in the same way when they are stored, and the product is that of the plain
matrices. Turning: QuaRot, https://arxiv.org/abs/2404.00456. What it costs and gives:
benchmarks/activations.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.layers.base import contrib
from vlrt_export.quantize import PORTION, whole_rows
from vlrt_export.weights import Weights

__all__ = ["Turned8", "hadamard", "turning_block"]

LARGEST_BLOCK = 64  # twice as many would cost twice as much, and spread little further
SMALLEST = 1e-20  # what a row of zeros is divided by


def turning_block(k: int) -> int:
    """The size of the Hadamard matrix for rows of k: a power of two that divides it."""
    return min(k & -k, LARGEST_BLOCK)


@cache  # every block of rows that is stored asks for it
def hadamard(size: int) -> NDArray[np.float32]:
    """Sylvester's matrix [size, size], orthonormal and its own inverse."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(size))


def turn(op: Any, size: int) -> ir.Value:
    """The Hadamard matrix as a constant of the graph, there once whatever looks at it."""
    constants, name = op.builder.graph.initializers, f"hadamard_{size}"
    if name not in constants:
        tensor = ir.tensor(hadamard(size), name=name)
        kind = ir.TensorType(tensor.dtype)
        constants[name] = ir.Value(
            name=name, type=kind, shape=ir.Shape([size] * 2), const_value=tensor
        )
    return constants[name]


class Turned8:
    """8 bits with a scale per row; activations are turned and take 8 bits, a scale each row."""

    elements = PORTION
    columns = ("weight",)  # stored [k, n], as onnxruntime multiplies

    def __init__(self, weights: Weights, n: int, k: int) -> None:
        self.n, self.k, self.compute = n, k, weights.dtype
        self.block = turning_block(k)
        self.weight = nn.Parameter([k, n], ir.DataType.INT8)
        self.scales = nn.Parameter([n], self.compute)
        self.parameters = {"weight": self.weight, "scales": self.scales}

    def turned(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [n, k], every block of each multiplied by the Hadamard matrix."""
        return (rows.reshape(-1, self.block) @ hadamard(self.block)).reshape(rows.shape)

    def make(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Quantised rows."""
        return whole_rows(self.turned(rows))

    def matmul(self, op: Any, x: Any, bias: Any) -> Any:
        """X Wᵀ + b."""
        same = [0] * (len(x.shape) - 1)  # axes that a reshaping leaves as they are
        if self.block > 1:
            blocks = op.Reshape(x, [*same, self.k // self.block, self.block])
            x = op.Reshape(op.MatMul(blocks, turn(op, self.block)), [*same, self.k])
        largest = op.Max(op.ReduceMax(op.Abs(x), [-1], keepdims=1), SMALLEST)
        unit, out = op.Div(x, largest), (self.compute, [*x.shape[:-1], self.n])
        product = contrib(
            op, "DynamicQuantizeMatMul", unit, self.weight, self.scales, outputs=[out]
        )
        y = op.Mul(product, largest)
        return y if bias is None else op.Add(y, bias)
