"""Block-wise integer weights: w = (code - zero) * scale, a scale and a zero point per block.

Here are the layout, and the two quantisers that need nothing but the weights and hardly any time:
plain rounding, and the scale of least squared error. For given t = code - zero the best scale has
the closed form s = <w, t> / <t, t>, and what it takes off the squared error is <w, t>^2 / <t, t>;
so a handful of clipped ranges is tried, and the one that takes off most wins.

Layouts are those of onnxruntime's MatMulNBits:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLIP_RATIOS",
    "PORTION",
    "Blocks",
    "as_columns",
    "best_range",
    "dequantize",
    "nearest",
    "pack",
    "pack_codes",
    "pack_zeros",
    "plain_range",
    "quantize",
    "round_plainly",
    "whole_rows",
]

# Shares of a block's range that are tried. Five are enough: they take about 10 % off the error of
# the plain range, and further ones change the third digit.
CLIP_RATIOS = {4: (1.0, 0.94, 0.88, 0.82, 0.76), 8: (1.0,)}

# Weights to make at a time: threads that call numpy for little wait for one another. A quarter as
# many take half as long again on two cores; twice as many would take a tenth off, and more memory.
PORTION = 1 << 19
SMALLEST_SCALE = np.float32(1e-30)  # below it, 1 / scale overflows: such a block is zero
LARGEST = np.float32(1e15)  # beyond it, sums of squares overflow; no weight is near it

Floats = NDArray[np.float32]


class Blocks(NamedTuple):
    """Quantised rows.

    `codes` uint8 [rows, blocks, block * bits / 8], two 4-bit codes per byte, the first in the low
    half; `scales` float32 [rows, blocks]; `zeros` uint8 [rows, blocks * bits / 8 rounded up],
    packed as the codes.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]


def quantize(weight: Floats, *, bits: int, block: int) -> Blocks:
    """Quantises rows [rows, k] to 4 or 8 bits; k is padded with zeros to whole blocks.

    Raises:
        ValueError: a value is infinite, not a number, or beyond 1e15.
    """
    w = as_columns(weight, block)
    t = np.empty_like(w)
    scale, zero = best_range(w, bits, scratch=t)
    nearest(w, scale, zero, bits, out=t)
    return pack(t, scale, zero, rows=len(weight), bits=bits)


def round_plainly(weight: Floats, *, bits: int, block: int) -> Blocks:
    """As `quantize`, with the whole range of every block and no search."""
    w = as_columns(weight, block)
    scale, zero = plain_range(w, bits)
    t = nearest(w, scale, zero, bits, out=np.empty_like(w))
    return pack(t, scale, zero, rows=len(weight), bits=bits)


def as_columns(weight: Floats, block: int) -> Floats:
    """Blocks as columns, [block, rows * blocks], so that every step runs along memory.

    Raises:
        ValueError: a value is infinite, not a number, or beyond 1e15.
    """
    rows, k = weight.shape
    blocks = -(-k // block)
    if not (weight.min() >= -LARGEST and weight.max() <= LARGEST):
        raise ValueError(f"holds values beyond {LARGEST:g}, or not a number")
    if k % block:
        weight = np.pad(weight, ((0, 0), (0, blocks * block - k)))
    return np.ascontiguousarray(weight.reshape(rows * blocks, block).T)


def plain_range(w: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scale and zero point of each column by its smallest and its largest value, and zero."""
    low, high = np.minimum(w.min(0), 0), np.maximum(w.max(0), 0)
    scale = (high - low) / np.float32(2**bits - 1)
    scale[scale < SMALLEST_SCALE] = 1
    return scale, np.rint(-low / scale)


def best_range(w: Floats, bits: int, *, scratch: Floats) -> tuple[Floats, Floats]:
    """Scale and zero point of each column that leave the least squared error."""
    full, zero = plain_range(w, bits)  # clipping both ends alike leaves the zero point in place
    steps = full * np.array(CLIP_RATIOS[bits], np.float32)[:, None]
    dots, squares = np.empty_like(steps), np.empty_like(steps)
    for step, dot, square in zip(steps, dots, squares, strict=True):
        t = nearest(w, step, zero, bits, out=scratch)
        np.einsum("ij,ij->j", w, t, out=dot)
        np.einsum("ij,ij->j", t, t, out=square)
    scales = np.where(dots > 0, dots / np.maximum(squares, 1), steps)
    best = np.take_along_axis(scales, (dots * scales).argmax(0)[None], 0)[0]
    best[best < SMALLEST_SCALE] = 1
    return best, zero


def nearest(w: Floats, scale: Floats, zero: Floats, bits: int, *, out: Floats) -> Floats:
    """Nearest codes, less the zero point, still as floats: w / scale within [-zero, top - zero]."""
    np.multiply(w, 1 / scale, out=out)
    np.rint(out, out=out)
    np.maximum(out, -zero, out=out)  # a third faster than np.clip with two arrays
    np.minimum(out, np.float32(2**bits - 1) - zero, out=out)
    return out


def pack(t: Floats, scale: Floats, zero: Floats, *, rows: int, bits: int) -> Blocks:
    """What is stored, of columns of codes less the zero point (which are overwritten)."""
    codes = pack_codes(t, zero, rows=rows, bits=bits)
    return Blocks(codes, scale.reshape(rows, -1), pack_zeros(zero.reshape(rows, -1), bits))


def pack_codes(t: Floats, zero: Floats, *, rows: int, bits: int) -> NDArray[np.uint8]:
    """`Blocks.codes`, of the same."""
    t += zero
    codes: NDArray[Any] = t.astype(np.uint8)
    if bits == 4:
        codes = codes[0::2] | (codes[1::2] << 4)
    return np.ascontiguousarray(codes.T).reshape(rows, len(zero) // rows, -1)


def pack_zeros(zero: Floats, bits: int) -> NDArray[np.uint8]:
    """`Blocks.zeros`, of zero points [rows, blocks]."""
    zeros: NDArray[Any] = zero.astype(np.uint8)
    if bits == 4:
        zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
        zeros = zeros[:, 0::2] | (zeros[:, 1::2] << 4)
    return zeros


def dequantize(quantized: Blocks, *, bits: int, k: int) -> Floats:
    """The rows [rows, k] that quantised ones stand for: `quantize` undone, but for rounding."""
    codes, scales, zeros = quantized
    rows, blocks = scales.shape
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(rows, blocks, -1)
        zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(rows, -1)[:, :blocks]
    values = (codes.astype(np.float32) - zeros[..., None]) * scales[..., None]
    return values.reshape(rows, -1)[:, :k]


def whole_rows(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """8-bit codes [n, k], -127 to 127, and a scale per row [n]."""
    scales = np.abs(rows).max(1) / np.float32(127)
    scales[scales < SMALLEST_SCALE] = 1
    return np.rint(rows / scales[:, None]).astype(np.int8), scales
