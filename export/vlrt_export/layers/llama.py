"""The decoder that most families share: Llama's blocks, with or without biases on q, k and v."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from vlrt_export.layers.attention import Cache, CachedAttention
from vlrt_export.layers.base import Layer
from vlrt_export.layers.basic import GatedMLP, RMSNorm
from vlrt_export.layers.linear import language_head
from vlrt_export.layers.tokens import Tokens
from vlrt_export.weights import Weights

__all__ = ["Context", "DecoderConfig", "LlamaDecoder", "LlamaLayer", "last_rows"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERYTHING = 2**62  # an end beyond any axis


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of a decoder, by the names config.json uses."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: str
    tie_word_embeddings: bool
    attention_bias: bool = False


@dataclass(kw_only=True)
class Context:
    """What all layers of a decoder are given; families with layers of their own add to it."""

    cos: ir.Value
    sin: ir.Value
    cache: Cache


class LlamaLayer(Layer):
    """Attention and gated MLP, each behind an RMSNorm."""

    def __init__(self, weights: Weights, config: DecoderConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_norm = RMSNorm(weights, "input_layernorm", hidden, eps)
        self.attention = CachedAttention(
            weights.at("self_attn"),
            ATTENTION,
            hidden,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            bias=config.attention_bias,
        )
        self.post_norm = RMSNorm(weights, "post_attention_layernorm", hidden, eps)
        self.mlp = GatedMLP(weights.at("mlp"), hidden, config.intermediate_size, config.hidden_act)

    def forward(
        self, op: Any, x: Any, residual: Any, context: Context, last: Any = None
    ) -> tuple[Any, Any]:
        """(output, residual), whose sum the next norm makes.

        With `last` (int64 [1]) only so many rows go on after attention, which needs them all.
        """
        normed, residual = self.input_norm(op, x, residual)
        rows = self.attention(op, normed, context.cos, context.sin, context.cache)
        if last is not None:
            rows, residual = last_rows(op, rows, last), last_rows(op, residual, last)
        normed, residual = self.post_norm(op, self.attention.output(op, rows), residual)
        return self.mlp(op, normed), residual


class LlamaDecoder(Layer):
    """inputs_embeds and rotary tables to the logits of the last `num_logits` positions.

    `weights` is seen from where `embed_tokens`, `layers` and `norm` are; `head` from where
    `lm_head` is. `others` are layers that stand in the place of Llama's, by index: they are called
    as a `LlamaLayer` is, and have no part in the cache.
    """

    def __init__(
        self,
        weights: Weights,
        head: Weights,
        config: DecoderConfig,
        others: Mapping[int, Layer] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, weights.dtype
        self.cache_dtype = weights.target.cache or weights.dtype
        self.tokens = Tokens(weights, config.hidden_size)
        layers: dict[int, Layer] = dict(others or {})
        self.cached = config.num_hidden_layers - len(layers)
        for i in range(config.num_hidden_layers):
            if i not in layers:
                layers[i] = LlamaLayer(weights.at(f"layers.{i}"), config)
        self.layers = nn.ModuleList([layers[i] for i in range(config.num_hidden_layers)])
        self.norm = RMSNorm(weights, "norm", config.hidden_size, config.rms_norm_eps)
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
        x = self.tokens.rows(builder)
        table = [1, "sequence", config.head_dim // 2]
        cos, sin = (builder.input(name, self.dtype, table) for name in ("cos", "sin"))
        num_logits = builder.input("num_logits", ir.DataType.INT64, [1])
        cache = Cache.inputs(
            builder, self.cache_dtype, self.cached, config.num_key_value_heads, config.head_dim
        )
        context = self.context(builder, Context(cos=cos, sin=sin, cache=cache))
        residual = None
        final = config.num_hidden_layers - 1
        for i, layer in enumerate(self.layers):
            last = num_logits if i == final else None
            x, residual = layer(op, x, residual, context, last)
        normed, _ = self.norm(op, x, residual)
        yield from self.tokens.scores(op, self.head(op, normed))
        yield from cache.outputs()

    def context(self, builder: Any, context: Context) -> Context:
        """What layers are given: to be extended by families, with inputs of their own."""
        return context


def last_rows(op: Any, x: Any, count: Any) -> Any:
    """The last `count` (int64 [1], at least 1) positions of x [1, s, n]."""
    rows = op.Slice(x, op.Neg(count), [EVERYTHING], [1])
    rows.shape = ir.Shape([1, "num_logits", x.shape[-1]])
    return rows
