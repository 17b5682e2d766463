"""Attention: with a growing cache in decoders, over one picture in encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from vlrt_export.layers.base import Layer, cast, contrib
from vlrt_export.layers.linear import Linear
from vlrt_export.weights import Weights

__all__ = ["Attention", "Cache", "CachedAttention", "rotary"]


def rotary(op: Any, x: Any, cos: Any, sin: Any, heads: int) -> Any:
    """Rotates the halves of each head: x [1, s, heads * d], cos and sin [1, s, d / 2]."""
    return op.RotaryEmbedding(x, cos, sin, num_heads=heads)


@dataclass
class Cache:
    """The decoder's keys and values as graph inputs, and what became of them.

    A buffer is [1, kv_heads, max_length, head_dim]; the first `total - s` positions hold the past.
    Past and present are to be bound to one buffer: the operator then writes the s new positions
    in place. What lies behind them is never read.
    """

    past: list[tuple[ir.Value, ir.Value]]
    total: ir.Value
    last: ir.Value
    present: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    @classmethod
    def inputs(
        cls, builder: Any, dtype: ir.DataType, layers: int, kv_heads: int, head_dim: int
    ) -> Cache:
        """Declares the inputs: two buffers per layer, and the length with the new positions."""
        shape = [1, kv_heads, "max_length", head_dim]
        past = [
            (
                builder.input(f"past_key_values.{i}.key", dtype, shape),
                builder.input(f"past_key_values.{i}.value", dtype, shape),
            )
            for i in range(layers)
        ]
        total = builder.input("total_sequence_length", ir.DataType.INT32, [1])
        # GroupQueryAttention wants the last index as well; a wrong one would give wrong numbers
        # and no error, so the graph makes it.
        one = builder.op.Constant(value_ints=[1])
        last = builder.op.Sub(total, builder.op.Cast(one, to=ir.DataType.INT32))
        return cls(past, total, last)

    def outputs(self) -> list[tuple[str, ir.Value]]:
        """The updated buffers by output name."""
        names = ("key", "value")
        return [
            (f"present.{i}.{name}", value)
            for i, pair in enumerate(self.present)
            for name, value in zip(names, pair, strict=True)
        ]


class CachedAttention(Layer):
    """Causal attention with grouped heads over the cache and the new positions.

    `names` are those of q, k, v and of the output projection.
    """

    def __init__(
        self,
        weights: Weights,
        names: Sequence[str],
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        bias: bool = False,
        output_bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
        self.qkv = Linear(weights, names[:3], hidden, sizes, bias=bias)
        self.output = Linear(weights, names[3], sizes[0], hidden, bias=output_bias)

    def forward(self, op: Any, x: Any, cos: Any, sin: Any, cache: Cache) -> Any:
        """X [1, s, hidden] -> attended rows [1, s, heads * head_dim], before the projection.

        Where cos and sin are None, positions came in with the embeddings.
        """
        query, key, both = (n * self.head_dim for n in self.split)
        qk, v = op.Split(self.qkv(op, x), [both, key], axis=-1, _outputs=2)
        if cos is not None:
            qk = rotary(op, qk, cos, sin, self.heads + self.kv_heads)
        q, k = op.Split(qk, [query, key], axis=-1, _outputs=2)
        past = cache.past[len(cache.present)]
        q, k, v = (cast(op, rows, past[0].dtype) for rows in (q, k, v))
        rows, *present = contrib(
            op,
            "GroupQueryAttention",
            q,
            k,
            v,
            *past,
            cache.last,
            cache.total,
            outputs=[q, *past],
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
        )
        cache.present.append((present[0], present[1]))
        return cast(op, rows, x.dtype)

    @property
    def split(self) -> tuple[int, int, int]:
        """Heads of q, of k, and of both."""
        return self.heads, self.kv_heads, self.heads + self.kv_heads


class Attention(Layer):
    """Full attention inside one picture, with biases.

    `names` are those of q, k, v (or of one that holds all three) and of the output projection.
    """

    def __init__(self, weights: Weights, names: Sequence[str], hidden: int, heads: int) -> None:
        super().__init__()
        self.hidden, self.heads = hidden, heads
        *inputs, output = names
        sizes = [3 * hidden // len(inputs)] * len(inputs)
        self.qkv = Linear(weights, inputs, hidden, sizes, bias=True)
        self.output = Linear(weights, output, hidden, hidden, bias=True)

    def forward(self, op: Any, x: Any, cos: Any = None, sin: Any = None) -> Any:
        """X [1, s, hidden] -> the same shape; rotated where cos and sin [1, s, d / 2] are given."""
        qk, v = op.Split(self.qkv(op, x), [2 * self.hidden, self.hidden], axis=-1, _outputs=2)
        if cos is not None:
            qk = rotary(op, qk, cos, sin, 2 * self.heads)
        q, k = op.Split(qk, axis=-1, num_outputs=2, _outputs=2)
        # Not the standard Attention: that one makes an s x s matrix (1.5 GB at 4784 patches).
        rows = contrib(op, "MultiHeadAttention", q, k, v, outputs=[q], num_heads=self.heads)
        return self.output(op, rows)
