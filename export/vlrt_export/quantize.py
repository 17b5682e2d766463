"""Block-wise integer weights: w = (code - zero) * scale, a scale and a zero point per block.

The scale is chosen to minimise the squared error of the block. For given t = code - zero the best
scale has the closed form s = <w, t> / <t, t>, and what it takes off the squared error is
<w, t>^2 / <t, t>; so a handful of clipped ranges is tried, and the one that takes off most wins.

Layouts are those of onnxruntime's MatMulNBits:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLIP_RATIOS", "Blocks", "dequantize", "quantize"]

# Shares of a block's range that are tried. Five are enough: they take about 10 % off the error of
# the plain range, and further ones change the third digit.
CLIP_RATIOS = {4: (1.0, 0.94, 0.88, 0.82, 0.76), 8: (1.0,)}
SMALLEST_SCALE = np.float32(1e-30)  # below it, 1 / scale overflows: such a block is zero
LARGEST = np.float32(1e15)  # beyond it, sums of squares overflow; no weight is near it


class Blocks(NamedTuple):
    """Quantised rows.

    `codes` uint8 [rows, blocks, block * bits / 8], two 4-bit codes per byte, the first in the low
    half; `scales` float32 [rows, blocks]; `zeros` uint8 [rows, blocks * bits / 8 rounded up],
    packed as the codes.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]


def quantize(weight: NDArray[np.float32], *, bits: int, block: int) -> Blocks:
    """Quantises rows [rows, k] to 4 or 8 bits; k is padded with zeros to whole blocks.

    Raises:
        ValueError: a value is infinite, not a number, or beyond 1e15.
    """
    rows, k = weight.shape
    blocks, top = -(-k // block), np.float32(2**bits - 1)
    if k % block:
        weight = np.pad(weight, ((0, 0), (0, blocks * block - k)))
    # The block axis comes first, so that every step below runs along memory.
    w = np.ascontiguousarray(weight.reshape(rows * blocks, block).T)
    low, high = np.minimum(w.min(0), 0), np.maximum(w.max(0), 0)
    if not (low.min() >= -LARGEST and high.max() <= LARGEST):
        raise ValueError(f"holds values beyond {LARGEST:g}, or not a number")
    t = np.empty_like(w)
    best_gain = np.full(w.shape[1], -1, np.float32)
    best_scale, best_zero = np.ones_like(best_gain), np.zeros_like(best_gain)
    for ratio in CLIP_RATIOS[bits]:
        step = (high - low) * (np.float32(ratio) / top)
        step[step < SMALLEST_SCALE] = 1
        zero = np.rint(-low * np.float32(ratio) / step)
        _codes(w, step, zero, top, out=t)
        dot, square = np.einsum("ij,ij->j", w, t), np.einsum("ij,ij->j", t, t)
        scale = np.where(dot > 0, dot / np.maximum(square, 1), step)
        better = (gain := dot * scale) > best_gain
        for best, value in ((best_gain, gain), (best_scale, scale), (best_zero, zero)):
            np.copyto(best, value, where=better)
    best_scale[best_scale < SMALLEST_SCALE] = 1
    _codes(w, best_scale, best_zero, top, out=t)
    t += best_zero
    codes: NDArray[Any] = t.astype(np.uint8)
    zeros: NDArray[Any] = best_zero.astype(np.uint8).reshape(rows, blocks)
    if bits == 4:
        codes = codes[0::2] | (codes[1::2] << 4)
        zeros = np.pad(zeros, ((0, 0), (0, blocks % 2)))
        zeros = zeros[:, 0::2] | (zeros[:, 1::2] << 4)
    packed = np.ascontiguousarray(codes.T).reshape(rows, blocks, -1)
    return Blocks(packed, best_scale.reshape(rows, blocks), zeros)


def dequantize(quantized: Blocks, *, bits: int, k: int) -> NDArray[np.float32]:
    """The rows [rows, k] that quantised ones stand for: `quantize` undone, but for rounding."""
    codes, scales, zeros = quantized
    rows, blocks = scales.shape
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(rows, blocks, -1)
        zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(rows, -1)[:, :blocks]
    values = (codes.astype(np.float32) - zeros[..., None]) * scales[..., None]
    return values.reshape(rows, -1)[:, :k]


def _codes(
    w: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    top: np.float32,
    *,
    out: NDArray[np.float32],
) -> None:
    """Nearest codes, less the zero point, still as floats: w / scale within [-zero, top - zero]."""
    np.multiply(w, 1 / scale, out=out)
    np.rint(out, out=out)
    np.maximum(out, -zero, out=out)  # a third faster than np.clip with two arrays
    np.minimum(out, top - zero, out=out)
