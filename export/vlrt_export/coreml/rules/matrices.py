"""Products with matrices of weights, and norms: what differs between rows and channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from vlrt_export.coreml.rules.table import Table, attribute, sizes
from vlrt_export.coreml.scope import Scope
from vlrt_export.coreml.tools import Var, mb, types
from vlrt_export.coreml.values import Const, Item, Packed, Value

__all__ = ["TABLE"]

TABLE = Table()


@TABLE.rule("DequantizeLinear", attributes="axis block_size")
def dequantize(
    scope: Scope, node: ir.Node, codes: Const, scales: Const, zeros: Const | None = None
) -> Item:
    """A matrix that is multiplied as it is stored."""
    rank, axis = scales.array.ndim, attribute(node, "axis", 1)
    if (rank, axis) not in ((1, 0), (2, 1)):
        raise ValueError(f"scales of rank {rank} along axis {axis}")
    said = node.inputs[0]
    assert said is not None
    bits = 4 if said.dtype == ir.DataType.UINT4 else 8
    return Packed(codes, scales, zeros, bits)


@TABLE.rule("FusedMatMul", attributes="transB")
def linear(scope: Scope, node: ir.Node, x: Item, weight: Item) -> Item:
    """X Wᵀ + b, the bias being that of the Add behind it."""
    if not attribute(node, "transB", 0) or isinstance(weight, Value):
        raise ValueError("expected a matrix of weights [n, k]")
    n = weight.shape[0]
    bias, last = _bias(scope, node, n)
    channels = scope.profile.channels and len(x.shape) == 3
    source = scope.channels(x) if channels else scope.rows(x)
    most = min(scope.profile.widest, max(1, scope.profile.largest // weight.shape[1]))
    parts: list[Var] = []
    start = 0
    for size in _pieces(scope, last, n, most):
        stop = start + size
        given: dict[str, Any] = {"x": source, "weight": _matrix(scope, weight, start, stop, source)}
        if bias is not None:
            given["bias"] = _cut(scope, bias, start, stop, source)
        parts.append(mb.conv(**given) if channels else mb.linear(**given))
        start = stop
    made = Value(tuple(parts), (*x.shape[:-1], n), channels)
    scope.env[id(last.outputs[0])] = made
    return made


def _bias(scope: Scope, node: ir.Node, n: int) -> tuple[Const | None, ir.Node]:
    """The vector that nothing but the next node adds, and that node, which is done then."""
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add":
        add = uses[0].node
        for value in add.inputs:
            known = scope.env.get(id(value))
            if isinstance(known, Const) and known.shape == (n,):
                scope.done.add(id(add))
                return known, add
    return None, node


def _pieces(scope: Scope, node: ir.Node, n: int, most: int) -> list[int]:
    """Rows of a matrix at a time: those a Split asks for, where they would be cut all the same."""
    uses = list(node.outputs[0].uses())
    wanted = [n]
    if n > most and len(uses) == 1 and uses[0].node.op_type == "Split":
        split = uses[0].node
        given = scope.env.get(id(split.inputs[1])) if len(split.inputs) > 1 else None
        count = attribute(split, "num_outputs", 1)
        wanted = sizes(given) if isinstance(given, Const) else [n // count] * count
    # A vocabulary in equal pieces: the last is not a sliver.
    return [piece for size in wanted for piece in _even(size, -(-size // most))]


def _even(size: int, count: int) -> Sequence[int]:
    return [size * (i + 1) // count - size * i // count for i in range(count)]


def _matrix(scope: Scope, weight: Const | Packed, start: int, stop: int, like: Var) -> Var:
    if isinstance(weight, Packed):
        return scope.packed(weight, start, stop)

    def change(array: Any) -> Any:
        rows = array[start:stop]
        return rows[:, :, None, None] if len(like.shape) == 4 else rows

    return scope.constant(weight, like.dtype, change=change, tag=f"[{start}:{stop}]")


def _cut(scope: Scope, bias: Const, start: int, stop: int, like: Var) -> Var:
    tag = f"[{start}:{stop}]"
    return scope.constant(bias, like.dtype, change=lambda array: array[start:stop], tag=tag)


@TABLE.rule("LayerNormalization", attributes="axis epsilon stash_type")
def layer_norm(scope: Scope, node: ir.Node, x: Value, gamma: Const, beta: Const) -> Item:
    """(x - mean) / std * gamma + beta over the last axis."""
    own, axis = scope.own(x), _last(node, x)
    given = {"gamma": scope.constant(gamma, own.dtype), "beta": scope.constant(beta, own.dtype)}
    epsilon = scope.scalar(attribute(node, "epsilon", 1e-5), own)
    made = mb.layer_norm(x=own, axes=[axis], epsilon=epsilon, **given)
    return scope.value(made, channels=x.channels)


@TABLE.rule("RMSNormalization", attributes="axis epsilon stash_type")
def rms_norm(scope: Scope, node: ir.Node, x: Value, gamma: Const) -> Item:
    """X / rms(x) * gamma over the last axis, with no square in float16: 256 is too large for it."""
    own, axis = scope.own(x), _last(node, x)
    epsilon = attribute(node, "epsilon", 1e-5)
    normed = _by_layer_norm if scope.profile.channels else _by_squares
    y = normed(scope, own, axis, epsilon)
    form = scope.channels if x.channels else scope.rows
    return scope.value(mb.mul(x=y, y=form(gamma, own.dtype)), channels=x.channels)


def _by_squares(scope: Scope, x: Var, axis: int, epsilon: float) -> Var:
    wide = x if x.dtype == types.fp32 else mb.cast(x=x, dtype="fp32")
    mean = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=[axis], keep_dims=True)
    y = mb.mul(x=wide, y=mb.rsqrt(x=mean, epsilon=np.float32(epsilon)))
    return y if x.dtype == types.fp32 else mb.cast(x=y, dtype="fp16")


def _by_layer_norm(scope: Scope, x: Var, axis: int, epsilon: float) -> Var:
    """The mean of [x, -x] is zero, and its variance the mean square of x."""
    both = mb.concat(values=[x, mb.mul(x=x, y=scope.scalar(-1, x))], axis=axis)
    both = mb.layer_norm(x=both, axes=[axis], epsilon=scope.scalar(epsilon, x))
    return mb.slice_by_size(x=both, begin=[0] * len(x.shape), size=list(x.shape))


def _last(node: ir.Node, x: Value) -> int:
    if attribute(node, "axis", -1) not in (-1, len(x.shape) - 1):
        raise ValueError("expected the last axis")
    return 1 if x.channels else len(x.shape) - 1
