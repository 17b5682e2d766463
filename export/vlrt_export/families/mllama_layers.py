"""What Mllama's picture encoder is made of: its configuration, and its layers over tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlrt_export.layers.base import FLOAT, Layer, add, cast, contrib
from vlrt_export.layers.basic import MLP, LayerNorm
from vlrt_export.layers.linear import Linear
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError

__all__ = ["HIDDEN", "VisionConfig", "VisionLayer", "arrangements", "real_rows"]

HIDDEN = -1e4  # float16 has no room for much less


def arrangements(most: int) -> list[tuple[int, int]]:
    """Rows and columns of every arrangement of at most so many tiles; an id is the place + 1."""
    sides = range(1, most + 1)
    return [(rows, columns) for rows in sides for columns in sides if rows * columns <= most]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """vision_config, by its own names; the defaults are MllamaVisionConfig's."""

    hidden_size: int = 1280
    hidden_act: str = "gelu"
    num_hidden_layers: int = 32
    num_global_layers: int = 8
    attention_heads: int = 16
    num_channels: int = 3
    intermediate_size: int = 5120
    image_size: int = 448
    patch_size: int = 14
    norm_eps: float = 1e-5
    max_num_tiles: int = 4
    intermediate_layers_indices: tuple[int, ...] = (3, 7, 15, 23, 30)

    @classmethod
    def read(cls, vision: Mapping[str, Any]) -> VisionConfig:
        """From config.json.

        Raises:
            CheckpointError: it arranges tiles as no picture is cut.
        """
        given = {key: vision[key] for key in cls.__dataclass_fields__ if vision.get(key)}
        if "intermediate_layers_indices" in given:
            indices = tuple(given["intermediate_layers_indices"])
            given["intermediate_layers_indices"] = indices
        config = cls(**given)
        named, known = vision.get("supported_aspect_ratios"), arrangements(config.max_num_tiles)
        if named is not None and [tuple(ratio) for ratio in named] != known:
            raise CheckpointError(
                f"config.json: supported_aspect_ratios {named}, expected all arrangements of "
                f"{config.max_num_tiles} tiles: {known}"
            )
        if not set(config.intermediate_layers_indices) <= set(range(config.num_hidden_layers)):
            raise CheckpointError(
                f"config.json: intermediate_layers_indices {config.intermediate_layers_indices}, "
                f"expected 0 to {config.num_hidden_layers - 1}"
            )
        return config

    @property
    def tokens(self) -> int:
        """Rows of a tile: its patches and a class row."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def width(self) -> int:
        """Of the encoder's output: its last layer and the intermediate ones."""
        return self.hidden_size * (1 + len(self.intermediate_layers_indices))


class TileAttention(Layer):
    """Attention in which rows from `real` on, the filling, are hidden from one another.

    So it was trained: a real row sees the filling too. Two calls are the same as one with a mask,
    which would take S x S floats, and cost less the fewer tiles a picture has; targets of fixed
    sizes have no other way than the mask.
    """

    def __init__(self, weights: Weights, hidden: int, heads: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.static = hidden, heads, weights.target.static
        self.qkv = Linear(weights, ["q_proj", "k_proj", "v_proj"], hidden, [hidden] * 3)
        self.output = Linear(weights, "o_proj", hidden, hidden)

    def forward(self, op: Any, x: Any, real: Any) -> Any:
        """X [1, S, hidden], real as `real_rows` gives it -> the same shape."""
        q, k, v = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        if self.static:
            bias, heads = cast(op, real, q.dtype), {"num_heads": self.heads}
            return self.output(
                op,
                contrib(op, "MultiHeadAttention", q, k, v, None, None, bias, outputs=[q], **heads),
            )
        start, end, axis = op.Constant(value_ints=[0]), op.Shape(x, start=1, end=2), [1]
        seeing, filling = op.Slice(q, start, real, axis), op.Slice(q, real, end, axis)
        seen = [op.Slice(rows, start, real, axis) for rows in (k, v)]
        shape = (q.dtype, [1, None, self.hidden])
        parts = [
            contrib(op, "MultiHeadAttention", *qkv, outputs=[shape], num_heads=self.heads)
            for qkv in ((seeing, k, v), (filling, *seen))
        ]
        rows = op.Concat(*parts, axis=1)
        rows.shape = x.shape
        return self.output(op, rows)


def real_rows(op: Any, real: Any, size: int, *, static: bool) -> Any:
    """How many of `size` rows are real, int64 [1], as `TileAttention` wants it.

    Where sizes are fixed that is what it adds to the scores: [1, 1, size, size].
    """
    if not static:
        return real
    places = op.Constant(value_ints=list(range(size)))
    filling = op.Cast(op.GreaterOrEqual(places, real), to=FLOAT)
    column, row = (op.Reshape(filling, shape) for shape in ([1, 1, size, 1], [1, 1, 1, size]))
    return op.Mul(op.Mul(column, HIDDEN), row)


class VisionLayer(Layer):
    """Attention and MLP, each behind a LayerNorm and, in global layers, a gate."""

    def __init__(self, weights: Weights, config: VisionConfig, *, gated: bool) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.norm_eps
        self.norm1 = LayerNorm(weights, "input_layernorm", hidden, eps)
        self.attention = TileAttention(weights.at("self_attn"), hidden, config.attention_heads)
        self.norm2 = LayerNorm(weights, "post_attention_layernorm", hidden, eps)
        sizes = (hidden, config.intermediate_size, hidden)
        self.mlp = MLP(weights.at("mlp"), ("fc1", "fc2"), sizes, config.hidden_act)
        self.gated = gated
        if gated:
            self.gate_attention = self.vector(weights, "gate_attn", [1])
            self.gate_mlp = self.vector(weights, "gate_ffn", [1])

    def forward(self, op: Any, x: Any, real: Any) -> Any:
        """X float32 [1, S, hidden] -> the same."""
        y = self.attention(op, self.norm1(op, x), real)
        x = add(op, x, op.Mul(op.Tanh(self.gate_attention), y) if self.gated else y)
        y = self.mlp(op, self.norm2(op, x))
        return add(op, x, op.Mul(op.Tanh(self.gate_mlp), y) if self.gated else y)
