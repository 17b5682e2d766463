"""Qwen2-VL: https://arxiv.org/abs/2409.12191, https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct.

vision_encoder: patches of one picture, with rotary tables of rows and columns, -> features.
projector: 2 x 2 neighbours merged -> rows of the decoder's width.  decoder: Llama with biases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from vlrt_export.families import Family
from vlrt_export.families.qwen2_vl_config import Config, fixed, runtime
from vlrt_export.layers.attention import Attention
from vlrt_export.layers.base import FLOAT, Layer, add, cast
from vlrt_export.layers.basic import MLP, LayerNorm
from vlrt_export.layers.linear import Linear
from vlrt_export.layers.llama import LlamaDecoder
from vlrt_export.weights import Weights

EPS = 1e-6  # of the encoder's norms: fixed in the model's code, no key of config.json


class VisionBlock(Layer):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self, weights: Weights, config: Config) -> None:
        super().__init__()
        hidden = config.embed_dim
        inner = hidden * config.mlp_ratio
        self.norm1 = LayerNorm(weights, "norm1", hidden, EPS)
        self.attention = Attention(weights.at("attn"), ("qkv", "proj"), hidden, config.num_heads)
        self.norm2 = LayerNorm(weights, "norm2", hidden, EPS)
        names = ("fc1", "fc2")
        self.mlp = MLP(weights.at("mlp"), names, (hidden, inner, hidden), config.hidden_act)

    def forward(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """X float32 [1, patches, embed_dim] -> the same."""
        x = add(op, x, self.attention(op, self.norm1(op, x), cos, sin))
        return add(op, x, self.mlp(op, self.norm2(op, x)))


class VisionEncoder(Layer):
    """One picture's patches, in merge-block order, to features."""

    def __init__(self, weights: Weights, config: Config) -> None:
        super().__init__()
        self.config, self.dtype, weights = config, weights.dtype, weights.at("visual")
        shape = (config.embed_dim, *config.patch_shape)
        k = shape[1] * shape[2] * shape[3] * shape[4]
        # The kernel of the published Conv3d covers a patch exactly, so it is one matrix.
        self.patch = Linear(weights.at("patch_embed"), "proj", k, config.embed_dim, shape=shape)
        self.blocks = nn.ModuleList(
            [VisionBlock(weights.at(f"blocks.{i}"), config) for i in range(config.depth)]
        )

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's inputs and yields its output."""
        op, config = builder.op, self.config
        x = builder.input("pixel_values", self.dtype, [1, "patches", self.patch.k])
        table = [1, "patches", config.embed_dim // config.num_heads // 2]
        cos, sin = (builder.input(name, self.dtype, table) for name in ("cos", "sin"))
        x = cast(op, self.patch(op, x), FLOAT)
        for block in self.blocks:
            x = block(op, x, cos, sin)
        yield "image_features", x


class Projector(Layer):
    """Features of 2 x 2 neighbouring patches, end to end, to one row of the decoder's width."""

    def __init__(self, weights: Weights, config: Config) -> None:
        super().__init__()
        self.config, weights = config, weights.at("visual.merger")
        self.merged = config.embed_dim * config.spatial_merge_size**2
        self.norm = LayerNorm(weights, "ln_q", config.embed_dim, EPS)
        sizes = (self.merged, self.merged, config.decoder.hidden_size)
        self.mlp = MLP(weights.at("mlp"), ("0", "2"), sizes, "gelu")

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's input and yields its output."""
        op = builder.op
        x = builder.input("image_features", FLOAT, [1, "patches", self.config.embed_dim])
        x = op.Reshape(self.norm(op, x), [1, -1, self.merged])
        x.shape = ir.Shape([1, "image_tokens", self.merged])
        yield "image_embeds", self.mlp(op, x)


def decoder(weights: Weights, config: Config) -> LlamaDecoder:
    """The language model."""
    return LlamaDecoder(weights.at("language_model"), weights, config.decoder)


def canonical(name: str) -> str | None:
    """`visual.*`, `language_model.*` and `lm_head.*`, from every published spelling."""
    if name.endswith("rotary_emb.inv_freq"):
        return None
    name = re.sub(r"^model\.(?=language_model\.|visual\.)", "", name)
    return re.sub(r"^model\.", "language_model.", name)


FAMILY = Family(
    name="qwen2_vl",
    canonical=canonical,
    config=Config.read,
    graphs={"vision_encoder": VisionEncoder, "projector": Projector, "decoder": decoder},
    embedding="language_model.embed_tokens.weight",
    runtime=runtime,
    fixed=fixed,
)
