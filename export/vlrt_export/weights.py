"""What layers take their parameters from: a checkpoint seen from a prefix, at a precision.

A layer names the tensors it needs and says how parameters are made of them; nothing is read while
a graph is built. `writer.py` does the reading, row block by row block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.checkpoint import DTYPES, Checkpoint, Tensor
from vlrt_export.quantizers import DEFAULT, QUANTIZERS
from vlrt_export.target import CPU, Target
from vlrt_runtime.errors import InputError

__all__ = ["PRECISIONS", "Factors", "Faults", "Fill", "Precision", "Table", "Weights"]

PRECISIONS = ("fp32", "fp16", "int8", "int4")
BLOCK_SIZES = (16, 32, 64, 128, 256)

Make = Callable[[NDArray[np.float32]], tuple[NDArray[Any], ...]]
Factors = Callable[[str], NDArray[np.float32]]


@dataclass(frozen=True)
class Precision:
    """How the matrices of one component are stored.

    Attributes:
        kind: fp32, fp16 (on the CPU stored so and computed in fp32), int8 or int4 (block-wise).
        block_size: weights that share a scale and a zero point; 0: int8 has a scale per row, for
            graphs that take many rows at a time (see `vlrt_export.layers.turned`).
        accuracy_level: of MatMulNBits; 4 computes with int8 activations, 0 with float32.
        quantizer: how int8 and int4 are made: a name of `vlrt_export.quantizers`.
    """

    kind: str = "fp32"
    block_size: int = 128
    accuracy_level: int = 4
    quantizer: str = DEFAULT

    def __post_init__(self) -> None:
        if self.kind not in PRECISIONS:
            raise InputError(f"precision {self.kind!r}: expected one of {', '.join(PRECISIONS)}")
        if self.block_size not in BLOCK_SIZES and (self.kind, self.block_size) != ("int8", 0):
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise InputError(f"block size {self.block_size}: expected one of {sizes}")
        if self.accuracy_level not in range(5):
            raise InputError(f"accuracy level {self.accuracy_level}: expected 0 to 4")
        if self.quantizer not in QUANTIZERS:
            names = ", ".join(QUANTIZERS)
            raise InputError(f"quantizer {self.quantizer!r}: expected one of {names}")

    @property
    def form(self) -> str:
        """What `Linear` stores matrices as, where the target has no form of its own."""
        return self.kind if self.block_size else "turned8"


@dataclass(frozen=True)
class Fill:
    """Graph parameters that are made in one pass over the rows of some tensors, stacked.

    `make` takes float32 rows [n, row_size] and gives one array per parameter, each with n leading
    rows; `block_rows` is how many rows it is given at a time. Rows become the columns of those
    parameters that are in `columns` too.
    """

    tensors: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...]
    make: Make
    block_rows: int
    columns: tuple[nn.Parameter, ...] = ()


@dataclass(frozen=True)
class Table:
    """The file of the embedding table as graphs may point at it.

    `weight` and `scales` (of int8 alone) are its tensors.
    """

    weight: ir.ExternalTensor
    scales: ir.ExternalTensor | None = None


@dataclass(frozen=True)
class Faults:
    """Tensors that were asked for and are not there, or not in the shape that was asked for."""

    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Weights:
    """Tensors by canonical name, seen from a prefix.

    Attributes:
        checkpoint: notes which of its tensors were taken.
        tensors: canonical name -> tensor.
        precision: read by `Linear` alone.
        target: the device that the graph is made for.
        faults: gathered while graphs are built, so that one error can name them all.
        factors: what calibration saw, by the name of a graph's parameter; read by `Linear` alone.
        table: the embedding table's file, for graphs that look rows up.
        dtype: of activations, and of parameters that are no matrices.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    precision: Precision
    prefix: str = ""
    faults: Faults = field(default_factory=Faults)
    factors: Factors | None = None
    target: Target = CPU
    table: Table | None = None
    dtype: ir.DataType = field(init=False)

    def __post_init__(self) -> None:
        compute = self.target.compute.get(self.precision.kind, ir.DataType.FLOAT)
        object.__setattr__(self, "dtype", compute)

    @property
    def wide(self) -> Weights:
        """The same with float32 activations.

        For what is added up from layer to layer: in picture encoders it grows beyond what float16
        holds, while every layer reads it through a norm.
        """
        return replace(self, target=replace(self.target, compute={}))

    def at(self, name: str) -> Weights:
        """The same, seen from one level down."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """The tensor of that name, noted as used; one that is none where `faults` has noted it."""
        full = self.prefix + name
        tensor = self.tensors.get(full)
        if tensor is None:
            self.faults.missing.append(full)
            return Tensor(full, Path(), 0, DTYPES["F32"], tuple(shape))
        if tensor.shape != tuple(shape):
            found = f"{tensor.name} {list(tensor.shape)}, expected {list(shape)}"
            self.faults.misshapen.append(found)
        self.checkpoint.used.add(tensor.name)
        return replace(tensor, shape=tuple(shape))

    def drop(self, name: str) -> None:
        """Notes that the tensors of the module of that name are left out on purpose."""
        below = f"{self.prefix}{name}."
        dropped = (tensor.name for key, tensor in self.tensors.items() if key.startswith(below))
        self.checkpoint.used.update(dropped)
