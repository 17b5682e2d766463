"""Graphs of families that see one square picture: a layer of a vision transformer, and an MLP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from vlrt_export.layers.base import FLOAT, Layer
from vlrt_export.layers.basic import MLP
from vlrt_export.layers.vit import ViT, ViTConfig
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError

__all__ = ["PictureEncoder", "PictureProjector"]


class PictureEncoder(Layer):
    """pixel_values of one picture to the output of one of the transformer's layers, unnormed.

    Layers behind that one, the last norm and a pooling head are left out of the graph.

    Args:
        weights: seen from where `embeddings` and `encoder` are.
        config: of the whole transformer.
        output: whose output, counted as transformers' `hidden_states`: -2 is the last but one.
        skip_class: leaves out the first row, the class token's.
    """

    def __init__(
        self, weights: Weights, config: ViTConfig, *, output: int, skip_class: bool = False
    ) -> None:
        super().__init__()
        total = config.num_hidden_layers
        if not isinstance(output, int) or not -total - 1 <= output <= total:
            raise CheckpointError(
                f"config.json: vision_feature_layer {output!r}, expected one number from "
                f"{-total - 1} to {total}: the vision encoder has {total} layers"
            )
        built = output if output >= 0 else total + 1 + output
        self.config, self.skip_class, self.dtype = config, skip_class, weights.dtype
        self.vit = ViT(weights, replace(config, num_hidden_layers=built))
        for name in (
            "post_layernorm",
            "head",
            *(f"encoder.layers.{i}" for i in range(built, total)),
        ):
            weights.drop(name)

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's input and yields its output."""
        op, config = builder.op, self.config
        shape = [1, config.num_channels, config.image_size, config.image_size]
        x = self.vit(op, builder.input("pixel_values", self.dtype, shape))
        if self.skip_class:
            x = op.Slice(x, [1], [config.tokens], [1])
        yield "image_features", x


class PictureProjector(Layer):
    """Every row of the features to a row of the decoder's width. `sizes`: input, inner, output."""

    def __init__(
        self, weights: Weights, names: tuple[str, str], sizes: Sequence[int], act: str
    ) -> None:
        super().__init__()
        self.width = sizes[0]
        self.mlp = MLP(weights, names, sizes, act)

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's input and yields its output."""
        x = builder.input("image_features", FLOAT, [1, "tokens", self.width])
        yield "image_embeds", self.mlp(builder.op, x)
