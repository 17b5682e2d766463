"""What every form of block-wise integers has in common: how they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.layers.base import stored
from vlrt_export.quantize import Blocks
from vlrt_export.quantizers import QUANTIZERS
from vlrt_export.weights import Weights

__all__ = ["Integers"]


class Integers:
    """A matrix [n, k] of 4 or 8 bits with a scale and a zero point per block of a row.

    Attributes:
        bits: of a code.
        weight: the parameter that holds the codes; calibration knows the matrix by its name.
        compute: dtype of scales, and of activations.
        blocks: of a row, of `block` weights each; the last one may be filled up.
        elements: weights to make at a time.
        columns: parameters whose columns are the matrix's rows.
    """

    bits: int
    columns: tuple[str, ...] = ()
    weight: nn.Parameter

    def __init__(self, weights: Weights, n: int, k: int) -> None:
        precision, self.factors = weights.precision, weights.factors
        self.n, self.k, self.compute, self.block = n, k, weights.dtype, precision.block_size
        self.blocks = -(-k // self.block)
        self.quantizer = QUANTIZERS[precision.quantizer]
        self.elements = self.quantizer.elements

    def quantized(self, rows: NDArray[np.float32]) -> Blocks:
        """Rows by the quantiser, with what calibration saw where it wants that; scales stored."""
        seen: dict[str, Any] = {}
        if self.quantizer.calibrated:
            assert self.factors is not None, "calibrated quantisers come with factors"
            seen["factor"] = self.factors(self.weight.name or "")
        made = self.quantizer.make(rows, bits=self.bits, block=self.block, **seen)
        return made._replace(scales=stored(made.scales, self.compute))
