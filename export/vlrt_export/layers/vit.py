"""The vision transformer of CLIP and SigLIP: one square picture to rows of features.

The norm behind the last layer is left to families: most take an earlier layer's output, unnormed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from onnxscript import nn

from vlrt_export.layers.attention import Attention
from vlrt_export.layers.base import FLOAT, Layer, add, cast
from vlrt_export.layers.basic import MLP, LayerNorm
from vlrt_export.layers.linear import Linear
from vlrt_export.weights import Weights

__all__ = ["CLIP", "SIGLIP", "ViT", "ViTConfig"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes by the names config.json uses; `num_hidden_layers` are those to build.

    Attributes:
        class_token: a learned row comes before the patches.
        pre_norm: a norm comes before the first layer.
        patch_bias: the patch embedding has a bias.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    num_channels: int
    hidden_act: str
    layer_norm_eps: float
    class_token: bool
    pre_norm: bool
    patch_bias: bool

    def updated(self, vision: Mapping[str, Any]) -> ViTConfig:
        """The same with what vision_config says; it may be silent on any key."""
        said = [field.name for field in fields(self) if vision.get(field.name) is not None]
        return replace(self, **{name: vision[name] for name in said})

    @property
    def grid(self) -> int:
        """Patches along a side; pixels beyond the last whole patch are not looked at."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Rows that come out for a picture."""
        return self.grid**2 + self.class_token


# What transformers' CLIPVisionConfig and SiglipVisionConfig take where config.json is silent.
CLIP = ViTConfig(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    patch_size=32,
    num_channels=3,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    class_token=True,
    pre_norm=True,
    patch_bias=False,
)
SIGLIP = replace(
    CLIP,
    patch_size=16,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
    class_token=False,
    pre_norm=False,
    patch_bias=True,
)


class Embeddings(Layer):
    """Patches through one matrix, the class row before them, and learned positions."""

    def __init__(self, weights: Weights, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        hidden, side, channels = config.hidden_size, config.patch_size, config.num_channels
        # The kernel of the published Conv2d covers a patch exactly, so it is one matrix.
        self.patch = Linear(
            weights,
            "patch_embedding",
            channels * side**2,
            hidden,
            shape=(hidden, channels, side, side),
            bias=config.patch_bias,
        )
        self.class_row = (
            self.vector(weights.wide, "class_embedding", [hidden]) if config.class_token else None
        )
        table = weights.take("position_embedding.weight", (config.tokens, hidden))
        self.positions = self.plain(weights.wide, [table], [config.tokens, hidden], 64)

    def forward(self, op: Any, pixel_values: Any) -> Any:
        """pixel_values [1, channels, H, W] -> float32 [1, tokens, hidden]."""
        config = self.config
        grid, side, channels = config.grid, config.patch_size, config.num_channels
        x = pixel_values
        if grid * side != config.image_size:
            x = op.Slice(x, [0, 0], [grid * side] * 2, [2, 3])
        x = op.Reshape(x, [channels, grid, side, grid, side])
        x = op.Transpose(x, perm=[1, 3, 0, 2, 4])
        x = cast(op, self.patch(op, op.Reshape(x, [1, grid**2, self.patch.k])), FLOAT)
        if self.class_row is not None:
            x = op.Concat(op.Reshape(self.class_row, [1, 1, config.hidden_size]), x, axis=1)
        return op.Add(x, self.positions)


class ViTLayer(Layer):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self, weights: Weights, config: ViTConfig) -> None:
        super().__init__()
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.norm1 = LayerNorm(weights, "layer_norm1", hidden, eps)
        self.attention = Attention(
            weights.at("self_attn"), ATTENTION, hidden, config.num_attention_heads
        )
        self.norm2 = LayerNorm(weights, "layer_norm2", hidden, eps)
        sizes = (hidden, inner, hidden)
        self.mlp = MLP(weights.at("mlp"), ("fc1", "fc2"), sizes, config.hidden_act)

    def forward(self, op: Any, x: Any) -> Any:
        """X float32 [1, tokens, hidden] -> the same."""
        x = add(op, x, self.attention(op, self.norm1(op, x)))
        return add(op, x, self.mlp(op, self.norm2(op, x)))


class ViT(Layer):
    """Embeddings and the layers; `weights` are seen from where `embeddings` and `encoder` are."""

    def __init__(self, weights: Weights, config: ViTConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.embeddings = Embeddings(weights.at("embeddings"), config)
        self.pre_norm = (
            LayerNorm(weights.wide, "pre_layrnorm", hidden, config.layer_norm_eps)
            if config.pre_norm
            else None
        )
        at = weights.at("encoder.layers")
        self.layers = nn.ModuleList(
            [ViTLayer(at.at(str(i)), config) for i in range(config.num_hidden_layers)]
        )

    def forward(self, op: Any, pixel_values: Any) -> Any:
        """pixel_values [1, channels, H, W] -> float32 [1, tokens, hidden]."""
        x = self.embeddings(op, pixel_values)
        if self.pre_norm is not None:
            x = self.pre_norm(op, x)
        for layer in self.layers:
            x = layer(op, x)
        return x
