"""Attention: rotated heads, the cache as a state, and scores of grouped heads without copies."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vlrt_export.coreml.rules.table import Table, attribute
from vlrt_export.coreml.scope import Scope
from vlrt_export.coreml.tools import Var, mb, types
from vlrt_export.coreml.values import Item, Value

__all__ = ["FLAG", "MASK", "POSITION", "STATE", "TABLE"]

TABLE = Table()
# A decoder's inputs that its graph does not have: they stand for its cache and its lengths.
MASK, POSITION, STATE = "mask", "position", "key_value_cache"
FLAG = "has_pictures"


@TABLE.rule("RotaryEmbedding", attributes="num_heads")
def rotary(scope: Scope, node: ir.Node, x: Value, cos: Item, sin: Item) -> Item:
    """The halves of each head turned against each other."""
    heads = attribute(node, "num_heads")
    b, s, width = x.shape
    size, own = width // heads, scope.own(x)
    if x.channels:
        shape, axis = [b, heads, size, s], 2
        tables = [scope.channels(table, own.dtype) for table in (cos, sin)]  # [1, d / 2, 1, s]
        turned = {"perm": [0, 2, 1, 3]}
        c, n = (
            scope.once(("table", id(t)), lambda t=t: mb.transpose(x=t, **turned)) for t in tables
        )
    else:
        shape, axis = [b, s, heads, size], 3
        tables = [scope.rows(table, own.dtype) for table in (cos, sin)]
        c, n = (
            scope.once(("table", id(t)), lambda t=t: mb.expand_dims(x=t, axes=[2])) for t in tables
        )
    left, right = mb.split(x=mb.reshape(x=own, shape=shape), num_splits=2, axis=axis)
    first = mb.sub(x=mb.mul(x=left, y=c), y=mb.mul(x=right, y=n))
    second = mb.add(x=mb.mul(x=right, y=c), y=mb.mul(x=left, y=n))
    made = mb.concat(values=[first, second], axis=axis)
    made = mb.reshape(x=made, shape=[b, width, 1, s] if x.channels else [b, s, width])
    return scope.value(made, channels=x.channels)


@TABLE.rule("MultiHeadAttention", attributes="num_heads")
def attention(
    scope: Scope,
    node: ir.Node,
    q: Item,
    k: Item,
    v: Item,
    bias: None = None,
    padding: None = None,
    scores: Item | None = None,
) -> Item:
    """All rows of q look at all rows of k; `scores` is added to how much."""
    if bias is not None or padding is not None:
        raise ValueError("expected no bias and no padding mask")
    heads = attribute(node, "num_heads")
    query, key, value = (_heads(scope, x, heads) for x in (q, k, v))
    added = None if scores is None else scope.rows(scores, query.dtype)
    most = scope.profile.query_rows
    rows = query.shape[2]
    blocks = [
        _attend(
            mb.slice_by_size(x=query, begin=[0, 0, at, 0], size=_block(query, rows, at, most)),
            key,
            value,
            None
            if added is None
            else mb.slice_by_size(x=added, begin=[0, 0, at, 0], size=_block(added, rows, at, most)),
            scope,
        )
        if rows > most
        else _attend(query, key, value, added, scope)
        for at in range(0, rows, most)
    ]
    return _joined(scope, blocks[0] if len(blocks) == 1 else mb.concat(values=blocks, axis=2))


def _block(x: Var, rows: int, at: int, most: int) -> list[int]:
    return [*x.shape[:2], min(most, rows - at), x.shape[3]]


@TABLE.rule("GroupQueryAttention", attributes="num_heads kv_num_heads")
def cached_attention(
    scope: Scope, node: ir.Node, q: Item, k: Item, v: Item, *lengths: None
) -> list[Item | None]:
    """New rows go into the cache, and q looks at what the mask lets it see of all of it."""
    heads, groups = attribute(node, "num_heads"), attribute(node, "kv_num_heads")
    cached = [write(scope, x, groups) for x in (k, v)]
    query = _heads(scope, q, heads)
    _, _, s, size = query.shape
    each = heads // groups
    key, value = (_as(x, query.dtype) for x in cached)
    mask = _as(scope.inputs[MASK], query.dtype)
    if each > 1:  # heads that share keys become rows of one head: nothing is repeated
        query = mb.reshape(x=query, shape=[1, groups, each * s, size])
        if s > 1:
            mask = scope.once(
                ("mask", each, query.dtype), lambda: mb.concat(values=[mask] * each, axis=2)
            )
    made = _attend(query, key, value, mask, scope)
    if each > 1:
        made = mb.reshape(x=made, shape=[1, heads, s, size])
    return [_joined(scope, made), None, None]


def write(scope: Scope, x: Item, groups: int) -> Var:
    """Keys or values into the cache; all there are of that layer, [1, groups, length, size]."""
    new = _heads(scope, x, groups)
    _, _, s, size = new.shape
    state, position = scope.inputs[STATE], scope.inputs[POSITION]
    if scope.state is None:
        scope.state = mb.read_state(input=state)
    row, length = scope.next_row(), state.shape[2]
    end = scope.once("end", lambda: mb.add(x=position, y=np.array([s], np.int32)))
    first, last = (
        mb.concat(values=[_int(n), _int(m), at, _int(to)], axis=0)
        for n, m, at, to in ((row, 0, position, 0), (row + 1, groups, end, size))
    )
    updated = mb.slice_update(x=scope.state, update=_as(new, types.fp16), begin=first, end=last)
    scope.state = mb.coreml_update_state(state=state, value=updated)
    return mb.slice_by_index(
        x=scope.state, begin=[row, 0, 0, 0], end=[row + 1, groups, length, size]
    )


def _int(number: int) -> np.ndarray:
    return np.array([number], np.int32)


def _as(x: Var, dtype: object) -> Var:
    if x.dtype == dtype:
        return x
    return mb.cast(x=x, dtype="fp32" if dtype == types.fp32 else "fp16")


def _attend(query: Var, key: Var, value: Var, added: Var | None, scope: Scope) -> Var:
    """softmax(q kᵀ / sqrt(d) + added) v, by plain operators: the fused one has failed on devices.

    https://github.com/apple/coremltools/issues/2650, https://github.com/pytorch/executorch/pull/16144
    """
    scaled = mb.mul(x=query, y=scope.scalar(query.shape[-1] ** -0.5, query))
    scores = mb.matmul(x=scaled, y=key, transpose_y=True)
    if added is not None:
        scores = mb.add(x=scores, y=added)
    return mb.matmul(x=mb.softmax(x=scores, axis=-1), y=value)


def _heads(scope: Scope, x: Item, heads: int) -> Var:
    """[1, heads, s, size] of heads side by side, or as they are where they are apart."""
    if len(x.shape) == 4:
        return scope.rows(x)
    b, s, width = x.shape
    size = width // heads
    if isinstance(x, Value) and x.channels:
        own = mb.reshape(x=scope.own(x), shape=[b, heads, size, s])
        return mb.transpose(x=own, perm=[0, 1, 3, 2])
    own = mb.reshape(x=scope.rows(x), shape=[b, s, heads, size])
    return mb.transpose(x=own, perm=[0, 2, 1, 3])


def _joined(scope: Scope, x: Var) -> Value:
    """Heads [1, heads, s, size] side by side, as the profile has rows."""
    b, heads, s, size = x.shape
    if scope.profile.channels:
        x = mb.transpose(x=x, perm=[0, 1, 3, 2])
        return scope.value(mb.reshape(x=x, shape=[b, heads * size, 1, s]), channels=True)
    x = mb.transpose(x=x, perm=[0, 2, 1, 3])
    return scope.value(mb.reshape(x=x, shape=[b, s, heads * size]))
