"""GPTQ: https://arxiv.org/abs/2210.17323. What a column loses by rounding, later columns make up.

How, is told by the inputs that the matrix meets: with H = mean(x xᵀ) and U the upper triangle of
inverse(H) = Uᵀ U, the error of column j, over U[j, j], is taken off column i > j by U[j, i] of it.
Scale and zero point of a block are chosen by least squares when its turn comes.

H is kept for groups of columns: between groups nothing is made up. So a matrix needs k x width
floats, not k x k.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlrt_export.quantize import Blocks, Floats, as_columns, best_range, pack_codes, pack_zeros

__all__ = ["Gram", "quantize"]

LARGEST_GROUP = 2048  # columns
MULTIPLE = 256  # the largest block: none lies in two groups
DAMPING = 0.01  # of the mean of H's diagonal, added to it
TOGETHER = 16  # columns between two products of matrices


class Gram:
    """The sum of x xᵀ over inputs, by groups of columns."""

    def __init__(self, k: int, largest_group: int = LARGEST_GROUP) -> None:
        groups = -(-k // largest_group)
        width = -(-k // (groups * MULTIPLE)) * MULTIPLE
        self.k, self.count = k, 0
        self.sums = np.zeros((groups, width, width), np.float32)

    def add(self, x: Floats) -> None:
        """Adds inputs [..., k]."""
        x = x.reshape(-1, self.k)
        width = self.sums.shape[1]
        for i, total in enumerate(self.sums):
            part = x[:, i * width : (i + 1) * width]
            total[: part.shape[1], : part.shape[1]] += part.T @ part
        self.count += len(x)

    def factor(self) -> Floats:
        """U of each group, [groups, width, width], in the place of the sums.

        Raises:
            ValueError: an input was infinite or not a number.
        """
        if not np.isfinite(self.sums).all():
            raise ValueError("the inputs it meets are infinite or not a number")
        for total in self.sums:
            # With R R^T = H, R upper triangular, U is the inverse of R. Turned round by both
            # axes, R is the lower triangle of Cholesky.
            h = total[::-1, ::-1] / np.float32(max(self.count, 1))
            diagonal = np.einsum("ii->i", h)
            # Columns that are always zero, padding among them, stay by themselves.
            mean = diagonal.sum() / max(np.count_nonzero(diagonal), 1)
            diagonal += np.float32(DAMPING) * mean or np.float32(1)
            lower = np.linalg.cholesky(h)
            _invert(lower)
            total[:] = lower[::-1, ::-1]
        return self.sums


def _invert(lower: Floats) -> None:
    """Inverts a lower triangle in place, by halves: nearly all of it is products of matrices."""
    n = len(lower)
    if n <= 64:
        lower[:] = np.tril(np.linalg.inv(lower))
        return
    half = n // 2
    _invert(lower[:half, :half])
    _invert(lower[half:, half:])
    lower[half:, :half] = -lower[half:, half:] @ (lower[half:, :half] @ lower[:half, :half])


def quantize(weight: Floats, *, bits: int, block: int, factor: Floats) -> Blocks:
    """See `vlrt_export.quantize.quantize`; `factor` is of a `Gram` of the matrix's inputs."""
    starts = range(0, weight.shape[1], factor.shape[1])
    parts = [
        _group(weight[:, start : start + len(u)], bits, block, u)
        for start, u in zip(starts, factor, strict=True)
    ]
    codes, scales, zeros = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    return Blocks(codes, scales, pack_zeros(zeros, bits))


def _group(weight: Floats, bits: int, block: int, u: Floats) -> tuple[Any, Floats, Floats]:
    """Packed codes, scales and zero points [rows, blocks] of a group of columns."""
    rows = len(weight)
    w = as_columns(weight, block)
    blocks = w.shape[1] // rows
    # [blocks, block, rows]: a column of the matrix is one line of memory.
    w = np.ascontiguousarray(w.reshape(block, rows, blocks).transpose(2, 0, 1))
    scales, zeros = np.empty((2, blocks, rows), np.float32)
    scratch = np.empty_like(w[0])
    for b in range(blocks):
        scales[b], zeros[b] = best_range(w[b], bits, scratch=scratch)
        start, stop = b * block, (b + 1) * block
        errors = _round(w[b], scales[b], zeros[b], bits, u[start:stop, start:stop])
        for later in range(b + 1, blocks):
            columns = slice(later * block, (later + 1) * block)
            w[later] -= np.matmul(u[start:stop, columns].T, errors, out=scratch)
    t = np.ascontiguousarray(w.transpose(1, 2, 0)).reshape(block, -1)
    codes = pack_codes(t, zeros.T.ravel(), rows=rows, bits=bits)
    return codes, scales.T, zeros.T


def _round(w: Floats, scale: Floats, zero: Floats, bits: int, u: Floats) -> Floats:
    """Makes codes less zero points of the lines of a block; their errors, each over U[j, j]."""
    block = len(w)
    errors, inverse = np.empty_like(w), 1 / scale
    lowest, highest = -zero, np.float32(2**bits - 1) - zero
    update = np.empty_like(w[:TOGETHER])
    for start in range(0, block, TOGETHER):
        stop = start + TOGETHER
        for j in range(start, stop):
            line, error = w[j], errors[j]
            t = line * inverse
            np.rint(t, out=t)
            np.maximum(t, lowest, out=t)
            np.minimum(t, highest, out=t)
            np.multiply(t, scale, out=error)
            np.subtract(line, error, out=error)
            error *= 1 / u[j, j]
            if j + 1 < stop:
                later = update[: stop - j - 1]
                np.multiply(u[j, j + 1 : stop, None], error, out=later)
                w[j + 1 : stop] -= later
            line[:] = t
        if stop < block:
            w[stop:] -= u[start:stop, stop:].T @ errors[start:stop]
    return errors
