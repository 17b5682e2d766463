"""Mllama's picture encoder: four tiles in one sequence, local layers, then gated global ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from vlrt_export.families.mllama_layers import (
    VisionConfig,
    VisionLayer,
    arrangements,
    real_rows,
)
from vlrt_export.layers.base import FLOAT, Layer, cast
from vlrt_export.layers.basic import LayerNorm
from vlrt_export.layers.linear import Linear
from vlrt_export.layers.table import Table
from vlrt_export.weights import Weights

__all__ = ["VisionEncoder"]

OUTER_EPS = 1e-5  # of the norms around the layers: fixed in the model's code
MULTIPLE = 8  # the rows of a tile are filled up to one: part of what the model was trained with


class TileEmbedding(Layer):
    """A row per tile, one set for each arrangement of tiles, behind a gate."""

    def __init__(self, weights: Weights, config: VisionConfig) -> None:
        super().__init__()
        sets = len(arrangements(config.max_num_tiles)) + 1
        shape = (config.max_num_tiles, 1, config.hidden_size)
        self.table = Table(weights, "embedding.weight", sets, shape)
        self.gate = self.vector(weights.wide, "gate", [1])

    def forward(self, op: Any, ratio: Any) -> Any:
        """Ratio int64 [1] -> [tiles, 1, hidden]."""
        return op.Mul(op.Tanh(self.gate), op.Squeeze(self.table(op, ratio), [0]))


class Positions(Layer):
    """A row per place in a tile and one per place in the picture, weighed against each other."""

    def __init__(self, weights: Weights, config: VisionConfig) -> None:
        super().__init__()
        tokens, hidden = config.tokens, config.hidden_size
        sets = len(arrangements(config.max_num_tiles)) + 1
        shape = (config.max_num_tiles, tokens, hidden)
        self.table = Table(weights, "tile_embedding.weight", sets, shape)
        self.gate = self.vector(weights.wide, "gate", [1])
        places = weights.take("embedding", (tokens, hidden))
        self.weight = self.plain(weights.wide, [places], [tokens, hidden], 64)

    def forward(self, op: Any, ratio: Any) -> Any:
        """Ratio int64 [1] -> [tiles, tokens, hidden]."""
        gate = op.Tanh(self.gate)
        places = op.Mul(op.Sub(1.0, gate), self.weight)
        return op.Add(places, op.Mul(gate, op.Squeeze(self.table(op, ratio), [0])))


class Embeddings(Layer):
    """Patches through one matrix, the class row before them, and learned positions."""

    def __init__(self, weights: Weights, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        hidden, side, channels = config.hidden_size, config.patch_size, config.num_channels
        # The kernel of the published Conv2d covers a patch exactly, so it is one matrix.
        shape = (hidden, channels, side, side)
        self.patch = Linear(weights, "patch_embedding", channels * side**2, hidden, shape=shape)
        self.class_row = self.vector(weights.wide, "class_embedding", [hidden])
        self.tile = TileEmbedding(weights.at("pre_tile_positional_embedding"), config)
        self.positions = Positions(weights.at("gated_positional_embedding"), config)
        self.norm = LayerNorm(weights.wide, "layernorm_pre", hidden, OUTER_EPS)

    def forward(self, op: Any, pixels: Any, ratio: Any) -> Any:
        """Pixels [1, tiles, channels, H, W], ratio int64 [1] -> float32 [1, rows, hidden]."""
        config = self.config
        tiles, channels, hidden = config.max_num_tiles, config.num_channels, config.hidden_size
        side, grid = config.patch_size, config.image_size // config.patch_size
        x = op.Reshape(pixels, [tiles, channels, grid, side, grid, side])
        x = op.Transpose(x, perm=[0, 2, 4, 1, 3, 5])
        x = cast(op, self.patch(op, op.Reshape(x, [tiles, grid**2, self.patch.k])), FLOAT)
        x = op.Add(x, self.tile(op, ratio))
        x = op.Concat(op.Expand(self.class_row, [tiles, 1, hidden]), x, axis=1)
        x = self.norm(op, op.Add(x, self.positions(op, ratio)))
        return op.Reshape(x, [1, tiles * config.tokens, hidden])


class VisionEncoder(Layer):
    """All tiles of one picture, used or not, to features.

    Rows are those of tile 0, tile 1 and so on, and behind them all zeros that fill the tiles up:
    what is real is one piece.
    """

    def __init__(self, weights: Weights, config: Any) -> None:
        super().__init__()
        self.config, self.dtype, self.static = config.vision, weights.dtype, weights.target.static
        config = config.vision
        weights = weights.at("vision_model")
        self.embeddings = Embeddings(weights, config)
        self.norm = LayerNorm(weights.wide, "layernorm_post", config.hidden_size, OUTER_EPS)
        self.tile = TileEmbedding(weights.at("post_tile_positional_embedding"), config)
        at = weights.at("transformer.layers")
        self.local_layers = nn.ModuleList(
            [
                VisionLayer(at.at(str(i)), config, gated=False)
                for i in range(config.num_hidden_layers)
            ]
        )
        at = weights.at("global_transformer.layers")
        self.global_layers = nn.ModuleList(
            [
                VisionLayer(at.at(str(i)), config, gated=True)
                for i in range(config.num_global_layers)
            ]
        )

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's inputs and yields its output."""
        op, config = builder.op, self.config
        tiles, side, hidden = config.max_num_tiles, config.image_size, config.hidden_size
        pixels = builder.input(
            "pixel_values", self.dtype, [1, tiles, config.num_channels, side, side]
        )
        ratio = builder.input("aspect_ratio_id", ir.DataType.INT64, [1])
        used = [1] + [rows * columns for rows, columns in arrangements(tiles)]
        real = op.Mul(op.Gather(op.Constant(value_ints=used), ratio), [config.tokens])

        rows, filling = tiles * config.tokens, tiles * (-config.tokens % MULTIPLE)
        x = op.Pad(self.embeddings(op, pixels, ratio), [0, 0, 0, 0, filling, 0])
        x.shape = ir.Shape([1, rows + filling, hidden])
        real = real_rows(op, real, rows + filling, static=self.static)

        inputs: dict[int, Any] = {}
        for i, layer in enumerate(self.local_layers):
            # What goes into the layer, as the weights were trained.
            inputs[i] = x
            x = layer(op, x, real)
        taken = [inputs[i] for i in config.intermediate_layers_indices]
        between, zeros = op.Split(self.norm(op, x), [rows, filling], axis=1, _outputs=2)
        tile = self.tile(op, ratio)
        parts = [op.Add(op.Reshape(y, [tiles, -1, hidden]), tile) for y in (between, zeros)]
        x = op.Concat(*[op.Reshape(y, [1, -1, hidden]) for y in parts], axis=1)
        x.shape = ir.Shape([1, rows + filling, hidden])
        for layer in self.global_layers:
            x = layer(op, x, real)

        x, *taken = [op.Slice(y, [0], [rows], [1]) for y in (x, *taken)]
        # Side by side number by number, not layer by layer: the projector was trained so.
        mixed = op.Concat(*[op.Unsqueeze(y, [3]) for y in taken], axis=3)
        mixed = op.Reshape(mixed, [1, rows, hidden * len(taken)])
        features = op.Concat(x, mixed, axis=2)
        features.shape = ir.Shape([1, rows, config.width])
        yield "image_features", features
