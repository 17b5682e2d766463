"""What lint rules look for: each names the places of a function that break its rule."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from vlrt_export.coreml.tools import Function, Var, types

LARGEST_AXIS = 16384
LARGEST_PROGRAM = 1_000_000_000
LARGEST_TABLE = 1 << 26
LARGEST_SCORES = 1 << 28
WEIGHTS = 1 << 16
MULTIPLE = 32


def _values(function: Function) -> Iterator[Var]:
    yield from function.inputs.values()
    for op in function.operations or ():
        yield from op.outputs or ()


def _tensors(function: Function) -> Iterator[tuple[Var, tuple[Any, ...]]]:
    for var in _values(function):
        shape = getattr(var, "shape", None)
        if shape is not None:
            yield var, tuple(shape)


def _named(function: Function, *kinds: str) -> Iterator[Any]:
    return (op for op in function.operations or () if op.op_type in kinds)


def _states(function: Function) -> list[Var]:
    return [var for var in function.inputs.values() if types.is_state(var._sym_type)]


def _constants(function: Function) -> Iterator[tuple[Any, np.ndarray]]:
    for op in _named(function, "const"):
        value = op.outputs[0].val
        if isinstance(value, (np.ndarray, np.generic)):
            yield op, np.asarray(value)


def rank(function: Function) -> Iterator[str]:
    """Values of more than five axes."""
    return (f"{v.name} {list(s)}" for v, s in _tensors(function) if len(s) > 5)


def axis_length(function: Function) -> Iterator[str]:
    """Activations with too long an axis."""
    for var, shape in _tensors(function):
        constant = var.op is not None and var.op.op_type == "const"
        if not constant and any(isinstance(n, int) and n > LARGEST_AXIS for n in shape):
            yield f"{var.name} {list(shape)}"


def free_size(function: Function) -> Iterator[str]:
    """Sizes that are not fixed."""
    for var, shape in _tensors(function):
        if not all(isinstance(size, (int, np.integer)) for size in shape):
            yield f"{var.name} {list(shape)}"


def state_count(function: Function) -> Iterator[str]:
    """States beyond the first."""
    states = _states(function)
    if len(states) > 1:
        yield ", ".join(var.name for var in states)


def state_rank(function: Function) -> Iterator[str]:
    """States of another rank than four."""
    return (f"{v.name} {list(v.shape)}" for v in _states(function) if len(v.shape) != 4)


def state_axes(function: Function) -> Iterator[str]:
    """States whose last axes are no multiples."""
    for var in _states(function):
        if any(size % MULTIPLE for size in var.shape[-2:]):
            yield f"{var.name} {list(var.shape)}"


def program_size(function: Function) -> Iterator[str]:
    """More weights than a program should have."""
    total = sum(_bytes(op.outputs[0], value) for op, value in _constants(function))
    if total > LARGEST_PROGRAM:
        yield f"{total / 1e9:.1f} GB of weights"


def _bytes(var: Var, value: np.ndarray) -> int:
    return value.nbytes // (2 if var.dtype in (types.int4, types.uint4) else 1)


def blocks(function: Function) -> Iterator[str]:
    """Matrices with scales for parts of a row."""
    for op in _named(function, "constexpr_blockwise_shift_scale"):
        if prod(op.scale.shape[1:]) != 1:
            yield op.name


def infinite(function: Function) -> Iterator[str]:
    """Constants with infinities in them."""
    for op, value in _constants(function):
        # Larger ones are weights, which were looked at when they were read.
        if value.dtype.kind == "f" and value.size <= WEIGHTS and not np.isfinite(value).all():
            yield op.name


def float32(function: Function) -> Iterator[str]:
    """Values in float32."""
    return (v.name for v, _ in _tensors(function) if v.dtype in (types.fp32, types.fp64))


def fused_attention(function: Function) -> Iterator[str]:
    """Fused attention."""
    return (op.name for op in _named(function, "scaled_dot_product_attention"))


def gather_nd(function: Function) -> Iterator[str]:
    """Look-ups by several indices at a time."""
    return (op.name for op in _named(function, "gather_nd", "scatter_nd", "non_zero"))


def table(function: Function) -> Iterator[str]:
    """Look-ups in large tables."""
    for op in _named(function, "gather"):
        if prod(op.x.shape) > LARGEST_TABLE:
            yield f"{op.name} {list(op.x.shape)}"


def epsilon(function: Function) -> Iterator[str]:
    """Divisions by what may be zero."""
    for op in _named(function, "layer_norm", "rsqrt"):
        if op.epsilon is not None and op.epsilon.val is not None and op.epsilon.val == 0:
            yield op.name


def squares(function: Function) -> Iterator[str]:
    """Sums of squares in float16."""
    for op in _named(function, "mul"):
        sums = [child for child in op.outputs[0].child_ops if child.op_type.startswith("reduce_")]
        if op.x is op.y and op.outputs[0].dtype == types.fp16 and sums:
            yield op.name


def scores(function: Function) -> Iterator[str]:
    """Large matrices of attention scores."""
    for op in _named(function, "softmax"):
        if prod(op.outputs[0].shape) > LARGEST_SCORES:
            yield f"{op.name} {list(op.outputs[0].shape)}"
