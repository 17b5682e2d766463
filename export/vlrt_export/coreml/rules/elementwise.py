"""Operators that work element by element: one rule, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from vlrt_export.coreml.rules.table import Table, attribute
from vlrt_export.coreml.scope import Scope
from vlrt_export.coreml.tools import mb, types
from vlrt_export.coreml.values import Item, Value

__all__ = ["TABLE"]

TABLE = Table()
DTYPES = {
    ir.DataType.BOOL: (types.bool, "bool"),
    ir.DataType.INT32: (types.int32, "int32"),
    ir.DataType.INT64: (types.int32, "int32"),
}
BINARY: dict[str, Callable[..., Any]] = {
    "Add": mb.add,
    "Sub": mb.sub,
    "Mul": mb.mul,
    "Div": mb.real_div,
    "Max": mb.maximum,
    "GreaterOrEqual": mb.greater_equal,
}
UNARY: dict[str, Callable[..., Any]] = {
    "Sqrt": lambda scope, node, x: mb.sqrt(x=x),
    "Tanh": lambda scope, node, x: mb.tanh(x=x),
    "Neg": lambda scope, node, x: mb.mul(x=x, y=scope.scalar(-1, x)),
}


def _binary(make: Callable[..., Any]) -> Callable[..., Item]:
    def lower(scope: Scope, node: ir.Node, x: Item, y: Item) -> Item:
        (x_, y_), channels = scope.same([x, y])
        return scope.value(make(x=x_, y=y_), channels=channels)

    return lower


def _unary(make: Callable[..., Any]) -> Callable[..., Item]:
    def lower(scope: Scope, node: ir.Node, x: Value) -> Item:
        return scope.value(make(scope, node, scope.own(x)), channels=x.channels)

    return lower


for name, make in BINARY.items():
    TABLE.rule(name)(_binary(make))
for name, make in UNARY.items():
    TABLE.rule(name)(_unary(make))


@TABLE.rule("Identity")
def identity(scope: Scope, node: ir.Node, x: Item) -> Item:
    """Nothing."""
    return x


@TABLE.rule("Cast", attributes="to saturate")
def cast(scope: Scope, node: ir.Node, x: Value) -> Item:
    """A change of type; between floats only where the profile has several."""
    to = ir.DataType(attribute(node, "to"))
    dtype, name = DTYPES.get(to) or (scope.floating(to), "")
    if x.dtype == dtype:
        return x
    name = name or ("fp32" if dtype == types.fp32 else "fp16")
    return scope.value(mb.cast(x=scope.own(x), dtype=name), channels=x.channels)


@TABLE.rule("QuickGelu", attributes="alpha")
def quick_gelu(scope: Scope, node: ir.Node, x: Value) -> Item:
    """X * sigmoid(alpha x)."""
    alpha, own = attribute(node, "alpha", 1.702), scope.own(x)
    if alpha == 1:
        return scope.value(mb.silu(x=own), channels=x.channels)
    if abs(alpha - 1.702) < 1e-6:  # what the operator means, and float16 would round
        made = mb.gelu(x=own, mode="SIGMOID_APPROXIMATION")
        return scope.value(made, channels=x.channels)
    gate = mb.sigmoid(x=mb.mul(x=own, y=scope.scalar(alpha, own)))
    return scope.value(mb.mul(x=own, y=gate), channels=x.channels)


@TABLE.rule("Gelu", attributes="approximate")
def gelu(scope: Scope, node: ir.Node, x: Value) -> Item:
    """GELU, by the error function or by tanh."""
    modes = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}
    mode = modes[attribute(node, "approximate", "none")]
    return scope.value(mb.gelu(x=scope.own(x), mode=mode), channels=x.channels)
