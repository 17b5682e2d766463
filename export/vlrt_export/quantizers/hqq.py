"""Half-quadratic quantisation, https://mobiusml.github.io/hqq_blog/, with integer zero points.

Few weights of a block are far from any code, and least squares gives in to them. Here the error is
split in two: e, which may be anything but pays by its p-norm, p < 1, and what is left, which pays
by its square. The two are made small in turn: e by a shrinkage in closed form, the zero point as a
mean. The paper's zero point is a real number; MatMulNBits is fast with integers alone, so it is
rounded, and then the scale follows by the same split.

Errors are counted in steps, not in the weights' own unit: the shrinkage does not scale.
"""

from __future__ import annotations

import numpy as np

from vlrt_export.quantize import (
    SMALLEST_SCALE,
    Blocks,
    Floats,
    as_columns,
    best_range,
    nearest,
    pack,
)

__all__ = ["quantize"]

NORM = np.float32(0.7)  # p
WEIGHT = 10.0  # of the squares at first; it grows by GROWTH a round
GROWTH = 1.01
ROUNDS = 10  # of each half: further ones change the fourth digit


def quantize(weight: Floats, *, bits: int, block: int) -> Blocks:
    """See `vlrt_export.quantize.quantize`; the p-norm of the error takes the square's place."""
    w = as_columns(weight, block)
    t, top = np.empty_like(w), np.float32(2**bits - 1)
    scale, zero = best_range(w, bits, scratch=t)
    steps, real = w / scale, zero
    for i in range(ROUNDS):
        np.add(steps, real, out=t)
        np.rint(t, out=t)
        np.clip(t, 0, top, out=t)
        left = _shrunk(steps + real - t, i)
        real = (t - steps + left).mean(0)
    zero = np.clip(np.rint(real), 0, top)
    for i in range(ROUNDS):
        nearest(w, scale, zero, bits, out=t)
        left = _shrunk(w / scale - t, i)
        dot, square = np.einsum("ij,ij->j", w - left * scale, t), np.einsum("ij,ij->j", t, t)
        scale = np.where(dot > 0, dot / np.maximum(square, 1), scale)
        scale[scale < SMALLEST_SCALE] = 1
    nearest(w, scale, zero, bits, out=t)
    return pack(t, scale, zero, rows=len(weight), bits=bits)


def _shrunk(error: Floats, i: int) -> Floats:
    """What minimises |e|^p + weight / 2 (error - e)^2, but for a constant."""
    size = np.abs(error)
    np.maximum(size, np.float32(1e-6), out=size)
    power = np.exp(np.log(size) * (NORM - 1))  # a third of the time of size ** (NORM - 1)
    size -= power * np.float32(1 / (WEIGHT * GROWTH**i))
    np.maximum(size, 0, out=size)
    return np.copysign(size, error)
