"""The two ends of a decoder: rows of ids and pictures come in, logits and ids go out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from vlrt_export.layers.base import FLOAT, Layer, cast
from vlrt_export.weights import Weights

__all__ = ["Tokens"]


class Tokens(Layer):
    """What decoders take and give per position.

    Where the target picks ids, `token_ids` follow `inputs_embeds` in the sequence (either may be
    empty): their rows are read from the package's embedding table, which lies on the device like
    any weight. The ids of the largest logits come out beside them, so that a step of an answer
    moves one id and not a whole row of the vocabulary.
    """

    def __init__(self, weights: Weights, hidden: int) -> None:
        super().__init__()
        self.hidden, self.dtype, self.picks = hidden, weights.dtype, weights.target.picks
        table = weights.table
        if not self.picks or table is None:
            return
        self.table = _given(table.weight)
        self.scales = None if table.scales is None else _given(table.scales)

    def rows(self, builder: Any) -> ir.Value:
        """Declares the inputs; rows [1, sequence, hidden]."""
        if not self.picks:
            return builder.input("inputs_embeds", self.dtype, [1, "sequence", self.hidden])
        x = builder.input("inputs_embeds", self.dtype, [1, "given", self.hidden])
        return self(builder.op, x, builder.input("token_ids", ir.DataType.INT64, [1, "looked_up"]))

    def forward(self, op: Any, x: Any, token_ids: Any) -> Any:
        """X [1, given, hidden], token_ids int64 [1, looked_up] -> both, end to end."""
        rows = op.Gather(self.table, token_ids, axis=0)
        if self.scales is not None:  # small: in float16 they would lose digits
            scales = op.Gather(self.scales, token_ids, axis=0)
            rows = op.Mul(cast(op, rows, FLOAT), op.Unsqueeze(scales, [2]))
        rows = op.Concat(x, cast(op, rows, self.dtype), axis=1)
        rows.shape = ir.Shape([1, "sequence", self.hidden])
        return rows

    def scores(self, op: Any, logits: ir.Value) -> Iterator[tuple[str, ir.Value]]:
        """The outputs of logits [1, num_logits, vocab]."""
        yield "logits", logits
        if self.picks:
            ids = op.ArgMax(logits, axis=-1, keepdims=0)
            ids.shape = ir.Shape([1, "num_logits"])
            yield "next_ids", ids


def _given(tensor: ir.ExternalTensor) -> nn.Parameter:
    """A parameter that lies in another file of the package."""
    parameter = nn.Parameter(list(tensor.shape.numpy()), tensor.dtype)
    parameter.const_value = tensor
    return parameter
