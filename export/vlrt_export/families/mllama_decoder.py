"""Mllama's decoder, and the projector that makes what its cross-attention layers look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from vlrt_export.layers.base import FLOAT, Layer
from vlrt_export.layers.basic import GatedMLP, RMSNorm
from vlrt_export.layers.cross import CrossAttention, KeyValues
from vlrt_export.layers.linear import Linear
from vlrt_export.layers.llama import Context, DecoderConfig, LlamaDecoder, last_rows
from vlrt_export.layers.optional import optional
from vlrt_export.weights import Weights

__all__ = ["Decoder", "Projector"]


@dataclass(kw_only=True)
class CrossContext(Context):
    """What cross-attention layers look at.

    Attributes:
        there: bool, whether there is a picture at all.
        states: keys and values of each layer.
        bias: [1, 1, s * groups, rows], added to the scores.
        rows: [1, s, 1], 0 for text before all pictures and 1 for other text.
    """

    there: ir.Value
    states: list[tuple[ir.Value, ...]]
    bias: ir.Value
    rows: ir.Value


class CrossBlock(Layer):
    """Cross-attention and gated MLP, each behind an RMSNorm and a gate."""

    def __init__(self, weights: Weights, config: DecoderConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(weights.at("cross_attn"), config)
        self.gate_attention = self.vector(weights, "cross_attn_attn_gate", [1])
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.norm = RMSNorm(weights, "post_attention_layernorm", hidden, eps)
        self.mlp = GatedMLP(weights.at("mlp"), hidden, config.intermediate_size, config.hidden_act)
        self.gate_mlp = self.vector(weights, "cross_attn_mlp_gate", [1])

    def forward(self, op: Any, normed: Any, x: Any, state: Any, context: CrossContext) -> Any:
        """X, and x normed, [1, s, hidden] -> the same shape."""
        y = self.attention(op, normed, *state, context.bias)
        normed, x = self.norm(op, op.Mul(op.Tanh(self.gate_attention), y), x)
        y = op.Mul(op.Mul(op.Tanh(self.gate_mlp), context.rows), self.mlp(op, normed))
        return op.Add(x, y)


class CrossLayer(Layer):
    """A block that is left out where there is no picture; the `place`th of its kind."""

    def __init__(self, weights: Weights, config: DecoderConfig, place: int) -> None:
        super().__init__()
        self.place = place
        self.norm = RMSNorm(weights, "input_layernorm", config.hidden_size, config.rms_norm_eps)
        self.block = CrossBlock(weights, config)

    def forward(
        self, op: Any, x: Any, residual: Any, context: CrossContext, last: Any = None
    ) -> tuple[Any, Any]:
        """As `LlamaLayer.forward`."""
        normed, x = self.norm(op, x, residual)
        state = context.states[self.place]

        def block(op: Any) -> Any:
            return self.block(op, normed, x, state, context)

        out = optional(op, context.there, self.block, block, x)
        return (out if last is None else last_rows(op, out, last)), None


class Decoder(LlamaDecoder):
    """Llama with layers that look at pictures."""

    def __init__(self, weights: Weights, config: Any) -> None:
        self.tile_rows, self.crosses = config.vision.tokens, len(config.cross_attention_layers)
        text = weights.at("language_model")
        others = {
            i: CrossLayer(text.at(f"layers.{i}"), config.decoder, place)
            for place, i in enumerate(config.cross_attention_layers)
        }
        super().__init__(text, weights, config.decoder, others)

    def context(self, builder: Any, context: Context) -> CrossContext:
        """Declares keys, values and masks."""
        op, config = builder.op, self.config
        shape = [1, config.num_key_value_heads, "image_tokens", config.head_dim]
        names = [f"cross_key_values.{i}" for i in range(self.crosses)]
        states = [
            tuple(builder.input(f"{name}.{part}", self.dtype, shape) for part in ("key", "value"))
            for name in names
        ]
        mask = builder.input("cross_attention_mask", self.dtype, [1, "sequence", "tiles"])
        rows = builder.input("cross_attention_rows", self.dtype, [1, "sequence", 1])
        groups = config.num_attention_heads // config.num_key_value_heads
        bias = op.Expand(op.Unsqueeze(mask, [2, 4]), [1, 1, groups, 1, self.tile_rows])
        return CrossContext(
            **vars(context),
            there=op.Greater(op.Size(mask), 0),
            states=states,
            bias=op.Unsqueeze(op.Flatten(bias, axis=3), [0, 1]),
            rows=rows,
        )


class Projector(Layer):
    """Features to keys and values, by way of rows of the decoder's width."""

    def __init__(self, weights: Weights, config: Any) -> None:
        super().__init__()
        self.shape = [1, config.vision.max_num_tiles * config.vision.tokens, config.vision.width]
        hidden = config.decoder.hidden_size
        self.linear = Linear(
            weights, "multi_modal_projector", config.vision.width, hidden, bias=True
        )
        at, places = weights.at("language_model.layers"), config.cross_attention_layers
        self.layers = nn.ModuleList(
            [KeyValues(at.at(f"{i}.cross_attn"), config.decoder) for i in places]
        )

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's input and yields its outputs: inputs of the decoder, by name."""
        op = builder.op
        x = self.linear(op, builder.input("image_features", FLOAT, self.shape))
        for i, layer in enumerate(self.layers):
            key, value = layer(op, x)
            yield f"cross_key_values.{i}.key", key
            yield f"cross_key_values.{i}.value", value
