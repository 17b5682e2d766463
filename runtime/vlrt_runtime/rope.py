"""Rotary position tables, in float32 as transformers computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Llama3Scaling",
    "frequencies",
    "grid_table",
    "llama3_frequencies",
    "mrope_table",
    "rope_table",
]

Table = tuple[NDArray[np.float32], NDArray[np.float32]]


def frequencies(dim: int, theta: float) -> NDArray[np.float32]:
    """1 / theta^(2i / dim), float32 [dim / 2] (https://arxiv.org/abs/2104.09864)."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # numpy's float32 power is off in the last bit where torch's is not: 6e-5 in the angle at
    # position 1000.
    powers = (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches its positions; named as in config.json's `rope_scaling`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


def llama3_frequencies(inverse: NDArray[np.float32], scaling: Llama3Scaling) -> NDArray[np.float32]:
    """Frequencies whose long waves are `factor` times longer, short ones as before.

    In between it fades from one to the other (https://arxiv.org/abs/2407.21783, section 3.2).
    """
    length, low = scaling.original_max_position_embeddings, scaling.low_freq_factor
    wavelengths = 2 * math.pi / inverse
    smooth = (length / wavelengths - low) / (scaling.high_freq_factor - low)
    faded = (1 - smooth) * inverse / scaling.factor + smooth * inverse
    long, short = wavelengths > length / low, wavelengths < length / scaling.high_freq_factor
    return np.where(long, inverse / scaling.factor, np.where(short, inverse, faded))


def rope_table(start: int, count: int, inverse: NDArray[np.float32]) -> Table:
    """Tables of `count` positions that count up from `start`.

    Args:
        start: the first position.
        count: how many.
        inverse: frequencies [head_dim / 2].

    Returns:
        cos and sin, float32 [1, count, head_dim / 2].
    """
    angles = np.arange(start, start + count).astype(np.float32)[:, None] * inverse
    return np.cos(angles)[None], np.sin(angles)[None]


def mrope_table(
    positions: NDArray[np.int64], inverse: NDArray[np.float32], sections: Sequence[int]
) -> Table:
    """Multimodal rotary tables (https://arxiv.org/abs/2409.12191, section 2.1).

    Args:
        positions: int64 [3, s]: time, row and column of each token.
        inverse: frequencies [head_dim / 2].
        sections: how many frequencies turn with each of the three.

    Returns:
        cos and sin, float32 [1, s, head_dim / 2].
    """
    axis = np.repeat(np.arange(len(sections)), sections)
    angles = positions[axis].T.astype(np.float32) * inverse
    return np.cos(angles)[None], np.sin(angles)[None]


def grid_table(positions: NDArray[np.int64], inverse: NDArray[np.float32]) -> Table:
    """Tables for patches of a picture: positions int64 [s, 2], row and column.

    Returns:
        cos and sin, float32 [1, s, 2 * len(inverse)]: the row's angles, then the column's.
    """
    angles = (positions[:, :, None].astype(np.float32) * inverse).reshape(len(positions), -1)
    return np.cos(angles)[None], np.sin(angles)[None]
