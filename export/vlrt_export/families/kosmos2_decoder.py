"""Kosmos-2's decoder: pre-norm blocks with a second norm inside each half (sub-LayerNorm).

https://arxiv.org/abs/2210.06423. Positions come with the embeddings, so nothing is rotated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from vlrt_export.families.kosmos2_config import TextConfig
from vlrt_export.layers.attention import Cache, CachedAttention
from vlrt_export.layers.base import FLOAT, Layer, add, cast
from vlrt_export.layers.basic import LayerNorm, activation
from vlrt_export.layers.linear import Linear, language_head
from vlrt_export.layers.llama import last_rows
from vlrt_export.layers.tokens import Tokens
from vlrt_export.weights import Weights

__all__ = ["TextDecoder"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


class TextLayer(Layer):
    """h + out(ln(attention(ln(h)))), then h + fc2(ln(act(fc1(ln(h)))))."""

    def __init__(self, weights: Weights, config: TextConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        heads, eps = config.num_attention_heads, config.layer_norm_eps
        self.act = config.activation_function
        attention, ffn = weights.at("self_attn"), weights.at("ffn")
        self.attention_norm = LayerNorm(weights, "self_attn_layer_norm", hidden, eps)
        self.attention = CachedAttention(
            attention, ATTENTION, hidden, heads, heads, config.head_dim, bias=True, output_bias=True
        )
        self.inner_norm = LayerNorm(attention, "inner_attn_ln", hidden, eps)
        self.ffn_norm = LayerNorm(weights, "final_layer_norm", hidden, eps)
        self.first = Linear(ffn, "fc1", hidden, inner, bias=True)
        self.ffn_inner_norm = LayerNorm(ffn, "ffn_layernorm", inner, eps)
        self.second = Linear(ffn, "fc2", inner, hidden, bias=True)

    def forward(self, op: Any, x: Any, cache: Cache, last: Any = None) -> Any:
        """X float32 [1, s, hidden] -> the same; with `last` (int64 [1]) only so many last rows."""
        rows = self.attention(op, self.attention_norm(op, x), None, None, cache)
        if last is not None:
            rows, x = last_rows(op, rows, last), last_rows(op, x, last)
        x = add(op, x, self.attention.output(op, self.inner_norm(op, rows)))
        inner = activation(op, self.first(op, self.ffn_norm(op, x)), self.act)
        return add(op, x, self.second(op, self.ffn_inner_norm(op, inner)))


class TextDecoder(Layer):
    """Embeddings with positions in them to the logits of the last `num_logits` positions.

    `weights` is seen from where `embed_tokens` and `layers` are; `head` from where `lm_head` is.
    """

    def __init__(self, weights: Weights, head: Weights, config: TextConfig) -> None:
        super().__init__()
        self.config, self.cache_dtype = config, weights.target.cache or weights.dtype
        self.tokens = Tokens(weights, config.hidden_size)
        self.layers = nn.ModuleList(
            [TextLayer(weights.at(f"layers.{i}"), config) for i in range(config.num_hidden_layers)]
        )
        self.norm = LayerNorm(weights, "layer_norm", config.hidden_size, config.layer_norm_eps)
        self.head = language_head(
            weights,
            head,
            config.hidden_size,
            config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the decoder's inputs and yields its outputs."""
        op, config = builder.op, self.config
        x = cast(op, self.tokens.rows(builder), FLOAT)
        num_logits = builder.input("num_logits", ir.DataType.INT64, [1])
        heads = config.num_attention_heads
        cache = Cache.inputs(
            builder, self.cache_dtype, config.num_hidden_layers, heads, config.head_dim
        )
        final = config.num_hidden_layers - 1
        for i, layer in enumerate(self.layers):
            x = layer(op, x, cache, num_logits if i == final else None)
        yield from self.tokens.scores(op, self.head(op, self.norm(op, x)))
        yield from cache.outputs()
