"""Operators that move elements about, and those that look at nothing but shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from vlrt_export.coreml.rules.table import Table, attribute, axis_of, sizes
from vlrt_export.coreml.scope import Scope
from vlrt_export.coreml.tools import Var, mb
from vlrt_export.coreml.values import Const, Item, Value

__all__ = ["TABLE"]

TABLE = Table()
MAX_RANK = 5  # of any value in Core ML


@TABLE.rule("Reshape")
def reshape(scope: Scope, node: ir.Node, x: Value, shape: Const) -> Item:
    """Another shape, whose 0 and -1 follow from the old one."""
    wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes(shape))]
    known = prod(size for size in wanted if size != -1)
    return scope.reshaped(x, [prod(x.shape) // known if n == -1 else n for n in wanted])


@TABLE.rule("Flatten", attributes="axis")
def flatten(scope: Scope, node: ir.Node, x: Value) -> Item:
    """Two axes: those before `axis`, and the others."""
    axis = attribute(node, "axis", 1)
    return scope.reshaped(x, [prod(x.shape[:axis]), prod(x.shape[axis:])])


@TABLE.rule("Unsqueeze")
def unsqueeze(scope: Scope, node: ir.Node, x: Value, axes: Const) -> Item:
    """New axes of one."""
    rank = len(x.shape) + axes.array.size
    new, old = {axis % rank for axis in sizes(axes)}, iter(x.shape)
    return scope.reshaped(x, [1 if axis in new else next(old) for axis in range(rank)])


@TABLE.rule("Squeeze")
def squeeze(scope: Scope, node: ir.Node, x: Value, axes: Const) -> Item:
    """Axes of one gone."""
    gone = {axis % len(x.shape) for axis in sizes(axes)}
    return scope.reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in gone])


@TABLE.rule("Transpose", attributes="perm")
def transpose(scope: Scope, node: ir.Node, x: Value) -> Item:
    """Axes in another order; of more than five, one at a time, the others joined around it."""
    perm = list(attribute(node, "perm"))
    shape = [x.shape[axis] for axis in perm]
    if len(perm) <= MAX_RANK:
        return scope.value(mb.transpose(x=scope.rows(x), perm=perm))
    flat = scope.rows(x) if x.channels else scope.joined(x)
    order = list(range(len(perm)))
    for place, axis in enumerate(perm):
        at = order.index(axis)
        if at != place:
            flat = _moved(flat, [x.shape[axis] for axis in order], at, place)
            order.insert(place, order.pop(at))
    return Value((flat,), tuple(shape))


def _moved(x: Var, shape: Sequence[int], at: int, place: int) -> Var:
    """Axis `at` before the axis `place`."""
    pieces = [shape[:place], shape[place:at], shape[at : at + 1], shape[at + 1 :]]
    return mb.transpose(x=mb.reshape(x=x, shape=[prod(p) for p in pieces]), perm=[0, 2, 1, 3])


@TABLE.rule("Expand")
def expand(scope: Scope, node: ir.Node, x: Value, shape: Const) -> Item:
    """Repeated along axes of one."""
    old = (1,) * (shape.array.size - len(x.shape)) + x.shape
    pairs = list(zip(old, sizes(shape), strict=True))
    own = scope.rows(Value((scope.rows(x),), old))
    reps = [new if have == 1 else 1 for have, new in pairs]
    return scope.value(mb.tile(x=own, reps=reps)) if max(reps) > 1 else Value((own,), old)


@TABLE.rule("Concat", attributes="axis")
def concat(scope: Scope, node: ir.Node, *items: Item) -> Item:
    """One behind the other."""
    own, channels = scope.same(items)
    like = next(item for item in items if isinstance(item, Value))
    like = Value(like.parts, like.shape, channels)
    axis = axis_of(like, attribute(node, "axis"))
    return scope.value(mb.concat(values=own, axis=axis), channels=channels)


@TABLE.rule("Split", attributes="axis num_outputs")
def split(scope: Scope, node: ir.Node, x: Value, given: Const | None = None) -> list[Item]:
    """Pieces along an axis: the parts that a matrix was multiplied in, where they are the same."""
    axis = attribute(node, "axis", 0) % len(x.shape)
    count = attribute(node, "num_outputs", 1)
    wanted = sizes(given) if given is not None else [x.shape[axis] // count] * count
    if axis == len(x.shape) - 1 and len(x.parts) > 1:
        groups = _groups(x, wanted)
        if groups:
            return groups
    own = axis_of(x, axis)
    made = mb.split(x=scope.own(x), split_sizes=wanted, axis=own)
    return [scope.value(part, channels=x.channels) for part in made]


def _groups(x: Value, wanted: Sequence[int]) -> list[Item]:
    """Parts put together to these sizes; nothing where they do not add up."""
    groups: list[Item] = []
    left = list(x.parts)
    for size in wanted:
        parts: list[Var] = []
        while left and sum(_width(x, part) for part in parts) < size:
            parts.append(left.pop(0))
        if sum(_width(x, part) for part in parts) != size:
            return []
        groups.append(Value(tuple(parts), (*x.shape[:-1], size), x.channels))
    return groups


def _width(x: Value, part: Var) -> int:
    return part.shape[1 if x.channels else -1]


@TABLE.rule("Slice")
def cut(scope: Scope, node: ir.Node, x: Value, starts: Const, ends: Const, axes: Const) -> Item:
    """A range along some axes; itself where that is all."""
    begin, end = [0] * len(x.shape), list(x.shape)
    for start, stop, axis in zip(sizes(starts), sizes(ends), sizes(axes), strict=True):
        begin[axis], end[axis], _ = slice(start, stop).indices(x.shape[axis])
    if not any(begin) and end == list(x.shape):
        return x
    own = scope.own(x)
    places = [axis_of(x, axis) for axis in range(len(x.shape))]
    first, last = [0] * len(own.shape), list(own.shape)
    for axis, place in enumerate(places):
        first[place], last[place] = begin[axis], end[axis]
    made = mb.slice_by_index(x=own, begin=first, end=last)
    return scope.value(made, channels=x.channels)


@TABLE.rule("Pad")
def pad(scope: Scope, node: ir.Node, x: Value, pads: Const) -> Item:
    """Zeros before and behind."""
    flat, rank = sizes(pads), len(x.shape)
    if not any(flat):
        return x
    own = scope.own(x)
    made = [0] * (2 * len(own.shape))
    for axis in range(rank):
        place = axis_of(x, axis)
        made[2 * place : 2 * place + 2] = flat[axis], flat[axis + rank]
    zero = scope.scalar(0, own)
    padded = mb.pad(x=own, pad=made, mode="constant", constant_val=zero)
    return scope.value(padded, channels=x.channels)


@TABLE.rule("Gather", attributes="axis")
def gather(scope: Scope, node: ir.Node, x: Item, index: Item) -> Item:
    """Entries by their index."""
    made = mb.gather(x=scope.rows(x), indices=scope.rows(index), axis=attribute(node, "axis", 0))
    return scope.value(made)


@TABLE.rule("Shape", attributes="start end")
def shape_of(scope: Scope, node: ir.Node, x: Item) -> Item:
    """Known, as all sizes are fixed."""
    found = x.shape[attribute(node, "start", 0) : attribute(node, "end")]
    return Const(np.array(found, np.int64), str(node.outputs[0].name))


@TABLE.rule("Size")
def size_of(scope: Scope, node: ir.Node, x: Item) -> Item:
    """Known, as all sizes are fixed."""
    return Const(np.array(prod(x.shape), np.int64), str(node.outputs[0].name))


@TABLE.rule("ReduceSum", attributes="keepdims")
def reduce_sum(scope: Scope, node: ir.Node, x: Value, axes: Const) -> Item:
    """Sums along axes."""
    keep = bool(attribute(node, "keepdims", 1))
    if not keep:
        x = Value((scope.rows(x),), x.shape)
    own = [axis_of(x, axis) for axis in sizes(axes)]
    made = mb.reduce_sum(x=scope.own(x), axes=own, keep_dims=keep)
    return scope.value(made, channels=x.channels)
