"""From the nodes of a graph to a function of MIL, by the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from vlrt_export.coreml.errors import LoweringError
from vlrt_export.coreml.fold import fold
from vlrt_export.coreml.profiles import Profile
from vlrt_export.coreml.rules import RULES
from vlrt_export.coreml.rules.attention import FLAG, MASK, POSITION, STATE, write
from vlrt_export.coreml.scope import Scope, clean
from vlrt_export.coreml.store import Store
from vlrt_export.coreml.tools import Function, ct, mb, types
from vlrt_export.coreml.values import Const, Item, Value

__all__ = ["CACHED", "Cache", "Piece", "captured", "lower", "needed"]

CACHED = "GroupQueryAttention"


@dataclass(frozen=True)
class Cache:
    """The state of a function: rows for keys and values of its layers, one after the other."""

    layers: int
    heads: int
    length: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What of a graph becomes a function.

    Attributes:
        graph: all of it.
        outputs: values by the names that they will have.
        shapes: of its inputs.
        known: inputs that are no inputs of the function, but this.
        entry: a value that comes in by a name, where the piece does not begin at the graph's start.
        written: a node that is here for what it puts into the cache.
        cache: see `Cache`.
        rows: new positions of a decoder.
    """

    graph: ir.Graph
    outputs: Mapping[str, ir.Value]
    shapes: Mapping[str, Sequence[int]]
    known: Mapping[str, Any] = field(default_factory=dict)
    entry: tuple[str, ir.Value] | None = None
    written: ir.Node | None = None
    cache: Cache | None = None
    rows: int = 1


def captured(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads: its inputs, and what its branches take from outside."""
    # Of a cached attention the rest is buffers and lengths: a state stands for them.
    yield from (v for v in node.inputs[: 3 if node.op_type == CACHED else None] if v is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            made: set[int] = set()
            for inner in attribute.value:
                yield from (value for value in captured(inner) if id(value) not in made)
                made.update(id(value) for value in inner.outputs)


def needed(
    graph: ir.Graph, wanted: Iterable[ir.Value], entry: ir.Value | None = None
) -> tuple[list[ir.Node], set[int]]:
    """Nodes, in order, that values are made of, and all that these read, by `id`."""
    reached = {id(value) for value in wanted}
    nodes: list[ir.Node] = []
    for node in reversed(list(graph)):
        if any(id(out) in reached and out is not entry for out in node.outputs):
            nodes.append(node)
            reached.update(id(value) for value in captured(node))
    return nodes[::-1], reached


def lower(piece: Piece, profile: Profile, store: Store) -> Function:
    """The function of a piece.

    Raises:
        LoweringError: there is no rule for an operator, or it cannot do what a node asks for.
    """
    wanted = list(piece.outputs.values())
    if piece.written is not None:
        wanted += [value for value in piece.written.inputs[1:3] if value is not None]
    entry = piece.entry[1] if piece.entry else None
    nodes, reached = needed(piece.graph, wanted, entry)
    specs, bound = _inputs(piece, profile, nodes, reached)
    with Function(specs, opset_version=ct.target.iOS18) as function:
        scope = Scope(profile, store, function.inputs)
        for value in piece.graph.inputs:
            if value.name in bound:
                scope.env[id(value)] = Const(np.asarray(piece.known[value.name]), value.name)
            elif clean(str(value.name)) in specs:
                scope.env[id(value)] = scope.value(function.inputs[clean(str(value.name))])
        if piece.entry:
            name, value = piece.entry
            scope.env[id(value)] = scope.value(function.inputs[name], channels=profile.channels)
        _run(scope, nodes)
        if piece.written is not None:
            node = piece.written
            groups = node.attributes["kv_num_heads"].value
            for value in node.inputs[1:3]:
                assert value is not None
                item = _item(scope, value)
                assert item is not None
                write(scope, item, groups)
        function.set_outputs(list(_outputs(scope, piece)))
    return function


def _inputs(
    piece: Piece, profile: Profile, nodes: Sequence[ir.Node], reached: set[int]
) -> tuple[dict[str, Any], set[str]]:
    """Placeholders by name, and the inputs that are known."""
    scope = Scope(profile, None, {})  # pyright: ignore[reportArgumentType]: of its types alone
    specs: dict[str, Any] = {}
    bound: set[str] = set()
    if piece.entry:
        name, value = piece.entry
        size, width = piece.rows, int(value.shape[-1])  # pyright: ignore
        shape = (1, width, 1, size) if profile.channels else (1, size, width)
        specs[name] = mb.placeholder(shape, scope.floating(value.dtype))
    for value in piece.graph.inputs:
        name = str(value.name)
        if id(value) not in reached:
            continue
        if name in piece.known:
            bound.add(name)
            continue
        assert value.dtype is not None
        floating = value.dtype.is_floating_point()
        dtype = scope.floating(value.dtype) if floating else types.int32
        specs[clean(name)] = mb.placeholder(tuple(piece.shapes[name]), dtype)
    cached = [node for node in nodes if node.op_type == CACHED]
    if cached or piece.written is not None:
        assert piece.cache is not None
        cache = piece.cache
        past = (cached or [piece.written])[0].inputs[0]  # pyright: ignore
        if cached:
            mask = (1, 1, piece.rows, cache.length)
            specs[MASK] = mb.placeholder(mask, scope.floating(past.dtype))  # pyright: ignore
        specs[POSITION] = mb.placeholder((1,), types.int32)
        state = (2 * cache.layers, cache.heads, cache.length, cache.size)
        specs[STATE] = mb.state_tensor_placeholder(state, types.fp16)
    if any(node.op_type == "If" for node in nodes):
        specs[FLAG] = mb.placeholder((1,), scope.floating(ir.DataType.FLOAT))
    return specs, bound


def _run(scope: Scope, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        if id(node) in scope.done:
            continue
        items = [None if value is None else _item(scope, value) for value in node.inputs]
        made = fold(node, items)
        if made is None:
            made = _apply(scope, node, items)
        for value, item in zip(node.outputs, made, strict=False):
            if item is not None:
                scope.env[id(value)] = item


def _item(scope: Scope, value: ir.Value) -> Item | None:
    """What a value is by now; nothing for what a state stands for."""
    found = scope.env.get(id(value))
    if found is None and value.const_value is not None:
        found = Const(value.const_value.numpy(), str(value.name))
        scope.env[id(value)] = found
    return found


def _apply(scope: Scope, node: ir.Node, items: Sequence[Item | None]) -> Sequence[Item | None]:
    where = f"{node.domain or 'ai.onnx'}::{node.op_type} {node.name!r}"
    if node.op_type == "If":
        return [_either(scope, node)]
    rule = RULES.get(node.op_type)
    if rule is None:
        raise LoweringError(f"{where}: Core ML has no rule for this operator")
    strange = sorted(set(node.attributes) - rule.attributes)
    if strange:
        raise LoweringError(f"{where}: its rule does not know {', '.join(strange)}")
    try:
        made = rule.lower(scope, node, *items)
    except (ValueError, TypeError, AttributeError, AssertionError, IndexError) as error:
        raise LoweringError(f"{where}: {error}") from error
    return made if isinstance(made, list) else [made]


def _either(scope: Scope, node: ir.Node) -> Value:
    """Both branches, and what the function is told counts: sizes being fixed, nothing is empty."""
    ends: list[Any] = []
    for name in ("then_branch", "else_branch"):
        branch = node.attributes[name].value
        _run(scope, branch)
        ends.append(_item(scope, branch.outputs[0]))
    (x, y), channels = scope.same(ends)
    flag = mb.reshape(x=scope.inputs[FLAG], shape=[1] * len(x.shape))
    if flag.dtype != x.dtype:
        flag = mb.cast(x=flag, dtype="fp32" if x.dtype == types.fp32 else "fp16")
    other = mb.sub(x=scope.scalar(1, x), y=flag)
    made = mb.add(x=mb.mul(x=x, y=flag), y=mb.mul(x=y, y=other))  # exact: one of them is zero
    return scope.value(made, channels=channels)


def _outputs(scope: Scope, piece: Piece) -> Iterator[Any]:
    """The function's outputs: logits in the pieces they were made in, and all else as rows."""
    for name, value in piece.outputs.items():
        item = _item(scope, value)
        assert isinstance(item, Value), name
        label = clean(name)
        if len(item.parts) > 1:
            for i, part in enumerate(item.parts):
                yield mb.identity(x=part, name=f"{label}_{i}")
            continue
        form = scope.rows if value.is_graph_output() else scope.own
        yield mb.identity(x=form(item), name=label)
