"""Attention from text to rows of pictures whose keys and values were made once.

`KeyValues` belongs into a projector, `CrossAttention` into a decoder.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from vlrt_export.layers.base import Layer, contrib
from vlrt_export.layers.basic import RMSNorm
from vlrt_export.layers.linear import Linear
from vlrt_export.layers.llama import DecoderConfig
from vlrt_export.weights import Weights

__all__ = ["CrossAttention", "KeyValues"]


class KeyValues(Layer):
    """Rows of a picture to keys, normed, and values of one layer."""

    def __init__(self, weights: Weights, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_key_value_heads, config.head_dim
        size = self.heads * self.head_dim
        self.kv = Linear(weights, ["k_proj", "v_proj"], config.hidden_size, [size, size])
        self.norm = RMSNorm(weights, "k_norm", self.head_dim, config.rms_norm_eps)

    def forward(self, op: Any, x: Any) -> tuple[Any, Any]:
        """X [1, rows, hidden] -> keys and values, [1, kv_heads, rows, head_dim]."""
        heads = [1, -1, self.heads, self.head_dim]
        key, value = op.Split(self.kv(op, x), axis=-1, num_outputs=2, _outputs=2)
        key, _ = self.norm(op, op.Reshape(key, heads))
        both = (key, op.Reshape(value, heads))
        key, value = (op.Transpose(rows, perm=[0, 2, 1, 3]) for rows in both)
        for rows in (key, value):
            rows.shape = ir.Shape([1, self.heads, x.shape[1], self.head_dim])
        return key, value


class CrossAttention(Layer):
    """Attention of many heads to keys and values of few, which are read where they lie.

    Heads that share keys become rows of one head: nothing is repeated in memory.
    """

    def __init__(self, weights: Weights, config: DecoderConfig) -> None:
        super().__init__()
        self.kv_heads, self.head_dim = config.num_key_value_heads, config.head_dim
        self.groups = config.num_attention_heads // self.kv_heads
        size = config.num_attention_heads * self.head_dim
        self.q = Linear(weights, "q_proj", config.hidden_size, size)
        self.norm = RMSNorm(weights, "q_norm", self.head_dim, config.rms_norm_eps)
        self.output = Linear(weights, "o_proj", size, config.hidden_size)

    def forward(self, op: Any, x: Any, key: Any, value: Any, bias: Any) -> Any:
        """X [1, s, hidden] -> the same shape.

        Args:
            op: the builder's operator namespace.
            x: rows of text.
            key: [1, kv_heads, rows, head_dim], as is `value`.
            value: see `key`.
            bias: [1, 1, s * groups, rows], added to the scores.
        """
        sizes = [self.kv_heads, self.groups, self.head_dim]
        q, _ = self.norm(op, op.Reshape(self.q(op, x), [1, -1, *sizes]))
        q = op.Transpose(q, perm=[0, 1, 3, 2, 4])
        width = self.kv_heads * self.head_dim
        q = op.Reshape(q, [1, -1, width])
        out = (x.dtype, [1, "queries", width])
        rows = contrib(
            op,
            "MultiHeadAttention",
            q,
            key,
            value,
            None,
            None,
            bias,
            outputs=[out],
            num_heads=self.kv_heads,
        )
        rows = op.Reshape(rows, [1, -1, self.groups, self.kv_heads, self.head_dim])
        rows = op.Reshape(op.Transpose(rows, perm=[0, 1, 3, 2, 4]), [1, -1, self.q.n])
        rows.shape = ir.Shape([*x.shape[:-1], self.q.n])
        return self.output(op, rows)
