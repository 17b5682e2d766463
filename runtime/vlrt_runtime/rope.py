"""Rotary position tables, in float32 as transformers computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["frequencies", "grid_table", "mrope_table"]

Table = tuple[NDArray[np.float32], NDArray[np.float32]]


def frequencies(dim: int, theta: float) -> NDArray[np.float32]:
    """1 / theta^(2i / dim), float32 [dim / 2] (https://arxiv.org/abs/2104.09864)."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float32(1) / np.float32(theta) ** exponents).astype(np.float32)


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
