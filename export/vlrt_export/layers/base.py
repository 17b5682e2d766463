"""The base of all layers, and the one helper that emits onnxruntime's own operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import nn

from vlrt_export.weights import Fill, Make, Weights

__all__ = ["FLOAT", "Layer", "add", "cast", "contrib", "parameter_shape", "stored"]

FLOAT = ir.DataType.FLOAT
VECTOR_ROWS = 1 << 17  # elements of a vector that are made at a time

Like = ir.Value | tuple[ir.DataType, Sequence[Any]] | None


class Layer(nn.Module):
    """A module that remembers how its parameters are made (`fills`)."""

    def __init__(self) -> None:
        super().__init__()
        self.fills: list[Fill] = []

    def vector(self, weights: Weights, names: str | Sequence[str], sizes: Sequence[int]) -> Any:
        """A parameter: vectors of these names and sizes, end to end."""
        names = [names] if isinstance(names, str) else names
        tensors = tuple(weights.take(name, (n,)) for name, n in zip(names, sizes, strict=True))
        return self.plain(weights, tensors, [sum(sizes)], VECTOR_ROWS)

    def plain(
        self, weights: Weights, tensors: Any, shape: Sequence[int], block_rows: int
    ) -> nn.Parameter:
        """A parameter that holds tensors as they are, in the dtype of activations."""
        dtype = weights.dtype
        parameter = nn.Parameter(shape, dtype)
        self.fill(tensors, (parameter,), lambda rows: (stored(rows, dtype),), block_rows)
        return parameter

    def fill(
        self, tensors: Any, parameters: Any, make: Make, block_rows: int, columns: Any = ()
    ) -> None:
        """Notes how `parameters` are made of `tensors`; see `Fill`."""
        parts = tuple(tensors), tuple(parameters), make, block_rows, tuple(columns)
        self.fills.append(Fill(*parts))


def parameter_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of a parameter as plain integers."""
    assert parameter.shape is not None, "layers give every parameter a shape"
    return tuple(parameter.shape.numpy())


def stored(rows: NDArray[np.float32], dtype: ir.DataType) -> NDArray[Any]:
    """Numbers in a floating dtype.

    Raises:
        ValueError: one does not fit.
    """
    limit = float(np.finfo(dtype.numpy()).max)
    if np.abs(rows).max() > limit:
        raise ValueError(f"holds values beyond {limit:g}; choose another precision")
    return rows.astype(dtype.numpy(), copy=False)


def cast(op: Any, x: Any, dtype: ir.DataType | None) -> Any:
    """X in that dtype: itself where it has it."""
    return x if x.dtype == dtype else op.Cast(x, to=dtype)


def add(op: Any, x: Any, y: Any) -> Any:
    """X + y in x's dtype: what layers add to what goes past them."""
    return op.Add(x, cast(op, y, x.dtype))


def contrib(op: Any, op_type: str, *inputs: Any, outputs: Sequence[Like], **attributes: Any) -> Any:
    """Emits a node of onnxruntime's domain `com.microsoft`.

    onnx has no schema for these, so nothing infers types behind them: they are written here.

    Args:
        op: the builder's operator namespace.
        op_type: the operator's name.
        inputs: values; trailing None are left out.
        outputs: one entry per output: a value to take dtype and shape from, (dtype, shape), or
            None for an output that is not wanted.
        attributes: the node's attributes.

    Returns:
        The wanted outputs; a single one as it is.
    """
    given = list(inputs)
    while given and given[-1] is None:
        given.pop()
    serial = op.builder.graph.num_nodes()
    values: list[ir.Value] = []
    for i, like in enumerate(outputs):
        if like is None:
            values.append(ir.Value(name=""))
            continue
        dtype, shape = (like.dtype, like.shape) if isinstance(like, ir.Value) else like
        assert dtype is not None, f"{op_type}: output {i} has no dtype"
        assert shape is not None, f"{op_type}: output {i} has no shape"
        kind = ir.TensorType(dtype)
        name = f"{op_type}_{serial}_{i}"
        values.append(ir.Value(name=name, type=kind, shape=ir.Shape(shape)))
    getattr(op.builder.opset("com.microsoft", 1), op_type)(*given, _outputs=values, **attributes)
    wanted = [value for value, like in zip(values, outputs, strict=True) if like is not None]
    return wanted[0] if len(wanted) == 1 else tuple(wanted)
