"""Checkpoints whose matrices went through the quantiser and back, for transformers to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["dequantized", "rewrite"]

TABLES = ("embed_tokens.weight", "position_embedding.weight")


def dequantized(rows: np.ndarray, bits: int, block: int) -> np.ndarray:
    """What `quantize` leaves of a matrix [n, k], by its codes, scales and zero points."""
    from vlrt_export.quantize import quantize

    codes, scales, zeros = quantize(rows, bits=bits, block=block)
    n, blocks = scales.shape
    if bits == 4:
        codes, zeros = _unpacked(codes), _unpacked(zeros)[:, :blocks]
    steps = codes.reshape(n, blocks, block).astype(np.float32) - zeros.reshape(n, blocks, 1)
    return (steps * scales[:, :, None]).reshape(n, -1)[:, : rows.shape[1]]


def rewrite(source: Path, target: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Path:
    """A copy of a single-file checkpoint whose matrices went through `change(name, rows)`.

    Tables are left as they are: they are looked up, not multiplied.
    """
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and not name.endswith(TABLES):
            rows = tensor.reshape(len(tensor), -1)
            # save_file writes what lies behind an array, not what a slice of it shows.
            tensors[name] = np.ascontiguousarray(change(name, rows).reshape(tensor.shape))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _unpacked(packed: np.ndarray) -> np.ndarray:
    """Two values a byte, the low half first."""
    halves = np.stack([packed & 15, packed >> 4], -1)
    return halves.reshape(*packed.shape[:-1], -1)
