"""What layers take their parameters from: a checkpoint seen from a prefix, at a precision.

A layer names the tensors it needs and says how parameters are made of them; nothing is read while
a graph is built. `writer.py` does the reading, row block by row block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.checkpoint import Checkpoint, Tensor
from vlrt_runtime.errors import CheckpointError, InputError, shortlist

__all__ = ["PRECISIONS", "Fill", "Precision", "Weights"]

PRECISIONS = ("fp32", "fp16", "int8", "int4")
BLOCK_SIZES = (16, 32, 64, 128, 256)

Make = Callable[[NDArray[np.float32]], tuple[NDArray[Any], ...]]


@dataclass(frozen=True)
class Precision:
    """How the matrices of one component are stored.

    Attributes:
        kind: fp32, fp16 (stored so, computed in fp32), int8 or int4 (block-wise).
        block_size: weights that share a scale and a zero point.
        accuracy_level: of MatMulNBits; 4 computes with int8 activations, 0 with float32.
    """

    kind: str = "fp32"
    block_size: int = 128
    accuracy_level: int = 4

    def __post_init__(self) -> None:
        if self.kind not in PRECISIONS:
            raise InputError(f"precision {self.kind!r}: expected one of {', '.join(PRECISIONS)}")
        if self.block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise InputError(f"block size {self.block_size}: expected one of {sizes}")
        if self.accuracy_level not in range(5):
            raise InputError(f"accuracy level {self.accuracy_level}: expected 0 to 4")


@dataclass(frozen=True)
class Fill:
    """Graph parameters that are made in one pass over the rows of some tensors, stacked.

    `make` takes float32 rows [n, row_size] and gives one array per parameter, each with n leading
    rows; `block_rows` is how many rows it is given at a time.
    """

    tensors: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...]
    make: Make
    block_rows: int


@dataclass(frozen=True)
class Weights:
    """Tensors by canonical name, seen from a prefix.

    Attributes:
        checkpoint: notes which of its tensors were taken.
        tensors: canonical name -> tensor.
        precision: read by `Linear` alone.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    precision: Precision
    prefix: str = ""

    def at(self, name: str) -> Weights:
        """The same, seen from one level down."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """The tensor of that name, noted as used.

        Raises:
            CheckpointError: it is not there, or has another shape.
        """
        full = self.prefix + name
        tensor = self.tensors.get(full)
        if tensor is None:
            raise CheckpointError(_missing(full, self.tensors))
        if tensor.shape != tuple(shape):
            raise CheckpointError(
                f"{tensor.name}: shape {list(tensor.shape)}, expected {list(shape)} by config.json"
            )
        self.checkpoint.used.add(tensor.name)
        return tensor

    def drop(self, name: str) -> None:
        """Notes that the tensors of the module of that name are left out on purpose."""
        below = f"{self.prefix}{name}."
        dropped = (tensor.name for key, tensor in self.tensors.items() if key.startswith(below))
        self.checkpoint.used.update(dropped)


def _missing(name: str, tensors: Iterable[str]) -> str:
    parent = name.rpartition(".")[0].rpartition(".")[0]
    beside = sorted(other for other in tensors if parent and other.startswith(f"{parent}."))
    near = f"; beside it there are {shortlist(beside)}" if beside else ""
    return f"{name}: the checkpoint has no such tensor{near}"
